"""Presence on this hub: who is here, away and gone, shown to all connections of a channel."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from django.dispatch import Signal

from .. import signals
from ..brokers import Command, PresenceDiff, PresenceStore, Receiver
from ..conf import Settings
from ..exceptions import BrokerUnavailable
from ..observers import name_of, render_observed
from ..present import UserPart, merged, merged_meta, tab_mark
from ..sse import check_size, encode_fragment
from .channel import Channel, PresenceCallback
from .channels import Channels
from .connections import Connection
from .hidden import HiddenTabs
from .presence_sync import PresenceSync
from .roster import Status
from .threads import Threads, call_soon

logger = logging.getLogger("ds_broadcaster")

# Seconds by which a timer may come early.
CLOCK_SLACK = 0.001
# Seconds after which a broker that was away is asked again for the users of other processes.
RETRY_AFTER = 2.0


class Presence:
    """Renders presence, and tells of joins, leaves, and users who are away.

    A channel's presence is rendered at once when its roster first changes, then at most once in an interval, and always
    with the last state: a thousand joins cost a few renders, not a thousand.

    With a `store`, what becomes of a user is the cluster's to tell: see tell_diff(). Without one, each change of a
    roster is told here. `connections_of` returns a user's open connections, and `close` closes one.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        channels: Channels,
        threads: Threads,
        settings: Settings,
        *,
        receiver: Receiver,
        store: PresenceStore | None,
        connections_of: Callable[[Any], list[Connection]],
        close: Callable[[Connection], None],
    ) -> None:
        self._loop = loop
        self._channels = channels
        self._threads = threads
        self._settings = settings
        self._receiver = receiver
        self._store = store
        self._connections_of = connections_of
        self._close = close
        self._hidden = HiddenTabs(loop, self._tab_ended)
        self._sync: PresenceSync | None = None
        if store is not None:
            tell = partial(store.sync, receiver)
            self._sync = PresenceSync(
                loop, channels, tell, store.lease, settings.presence_grace, on_diff=self.tell_diff
            )
        self._is_stopped = False
        self._number = 0

    def is_idle(self) -> bool:
        """Tell whether no tab is hidden."""
        return self._hidden.is_idle()

    # Users come and go.

    def came(self, channel: Channel[Connection], connection: Connection) -> None:
        """Note an opened connection."""
        user = connection.user_id
        before = channel.roster.status(user)
        if user is not None:
            self._hidden.show(channel, user, connection.tab)
            channel.roster.join(user, time.time())
        self._changed(channel, user, before)

    def went(self, channel: Channel[Connection], connection: Connection, *, at_once: bool) -> None:
        """Note a closed connection. Its user stays for the grace, and its tab may be hidden, unless told otherwise."""
        user, now = connection.user_id, self._loop.time()
        before = channel.roster.status(user)
        if user is not None:
            until = None
            if not at_once:
                until = self._grace_from(now)
                if self._may_be_hidden(connection):
                    self._hidden.add(channel, connection, (until or now) + self._settings.presence_away)
            channel.roster.leave(user, until, is_away=self._has_hidden(channel, user))
            if connection.meta is not None:
                channel.roster.keep_meta(user, connection.meta)
            self._expect_leaves(channel)
        self._changed(channel, user, before)

    def close_tab(self, user: Any, tab: str) -> None:
        """Note that the page in a tab is closed. Its user stays for the grace: it may be a reload."""
        for connection in self._connections_of(user):
            if connection.tab == tab:
                # If the page is open all the same, it returns within the grace.
                connection.end("its page was closed", clean=False, until=connection.cursor)
                self._close(connection)
        for channel in self._hidden.close(user, tab):
            self._tab_ended(channel, user, self._grace_from(self._loop.time()))

    def forget_hidden(self, channel: Channel[Connection] | None, command: Command) -> None:
        """Forget the hidden tabs on a channel, None for all, that a command concerns: they have no stream to ask about.

        A recheck of all users says nothing about any one of them.
        """
        if command.ends or (command.verb == "recheck" and command.user_id is not None):
            for user in self._hidden.users() if command.user_id is None else [command.user_id]:
                for each in self._hidden.drop(user, channel):
                    self._tab_ended(each, user)

    def dismiss(self, channel: Channel[Connection], command: Command) -> None:
        """Have the users without a connection leave whom a command ends."""
        for user in channel.roster.online():
            before = channel.roster.status(user)
            if command.concerns(user) and channel.roster.dismiss(user):
                self._changed(channel, user, before)

    def refuse(self, connection: Connection) -> None:
        """Forget the user's hidden tabs on the channels of a connection that was refused."""
        for channel in connection.channels:
            for each in self._hidden.drop(connection.user_id, channel):
                self._tab_ended(each, connection.user_id)

    def _tab_ended(self, channel: Channel[Connection], user: Any, until: float | None = None) -> None:
        before = channel.roster.status(user)
        is_away = self._has_hidden(channel, user)
        channel.roster.settle(user, None if is_away else until, is_away=is_away)
        self._expect_leaves(channel)
        self._changed(channel, user, before)
        self._channels.retire(channel)

    def _expect_leaves(self, channel: Channel[Connection]) -> None:
        """Have the graces on a channel end in time."""
        due = channel.roster.next_expiry()
        if due is not None and channel.expiry is None:
            channel.expiry = self._loop.call_at(due, self._expire, channel)

    def _expire(self, channel: Channel[Connection]) -> None:
        channel.expiry = None
        for user in channel.roster.expire(self._loop.time() + CLOCK_SLACK):
            before = channel.roster.status(user)
            channel.roster.settle(user, is_away=self._has_hidden(channel, user))
            self._changed(channel, user, before)
        self._expect_leaves(channel)
        self._channels.retire(channel)

    def _grace_from(self, now: float) -> float | None:
        grace = self._settings.presence_grace
        return now + grace if grace else None

    def _may_be_hidden(self, connection: Connection) -> bool:
        can_tell = connection.tab is not None and connection.element is not None
        return can_tell and self._settings.presence_away > 0 and not self._is_stopped

    def _has_hidden(self, channel: Channel[Connection], user: Any) -> bool:
        return bool(self._hidden.on(channel, user))

    # What others are told.

    def _changed(self, channel: Channel[Connection], user: Any, before: Status) -> None:
        self.render_soon(channel)
        if self._sync is not None:
            self._sync.changed(channel, user)
        after = channel.roster.status(user)
        if self._sync is None and after is not before:
            if before is Status.GONE:
                self._tell(signals.user_joined, channel.name, user, True)
            elif after is Status.GONE:
                self._tell(signals.user_left, channel.name, user, False)
            else:
                signal = signals.user_away if after is Status.AWAY else signals.user_back
                self._threads.send(signal, channel.name, user)

    def tell_diff(self, diff: PresenceDiff) -> None:
        """Tell what became of users in the whole cluster."""
        for name, user in diff.joined:
            self._tell(signals.user_joined, name, user, True)
        for name, user in diff.left:
            self._tell(signals.user_left, name, user, False)
        for name, user in diff.away:
            self._threads.send(signals.user_away, name, user)
        for name, user in diff.back:
            self._threads.send(signals.user_back, name, user)
        for name, user, since in diff.since:
            channel = self._channels.find(name)
            if channel is not None:
                channel.roster.note_since(user, since)

    def _tell(self, signal: Signal, name: str, user: Any, came: bool) -> None:
        self._threads.send(signal, name, user)
        channel = self._channels.find(name)
        if channel is not None and channel.attendance_hook is not None:
            self._threads.call(channel.attendance_hook, name, user, came)

    def part(self, name: str, user: Any) -> UserPart | None:
        """Return what this hub has of a user on a channel, None where it has nothing. Any thread may ask."""
        channel = self._channels.find(name)
        since = channel.roster.since(user) if channel is not None else None
        if channel is None or since is None:
            return None
        here = [each for each in self._connections_of(user) if each.is_present and channel in each.channels]
        hidden = self._hidden.on(channel, user)
        said = [meta for _, meta in hidden] + [each.meta for each in here]
        # A page that is reloaded says it again in a moment.
        metas = [meta for meta in said or [channel.roster.kept_meta(user)] if meta is not None]
        return UserPart(
            user,
            since,
            channel.roster.status(user) is Status.AWAY,
            tuple({tab_mark(each.tab): None for each in here if each.tab is not None}),
            tuple(tab_mark(tab) for tab, _ in hidden),
            sum(each.tab is None for each in here),
            merged_meta({name: (at, value) for name, value in meta.items()} for at, meta in metas) if metas else {},
        )

    def parts(self, name: str) -> list[UserPart]:
        """Return what this hub has of each user on a channel. Any thread may ask."""
        channel = self._channels.find(name)
        found = (self.part(name, user) for user in (channel.roster.online() if channel is not None else ()))
        return [part for part in found if part is not None]

    # Other processes.

    def remote_changed(self, name: str) -> None:
        """Render a channel again: another process has other users on it."""
        channel = self._channels.find(name)
        if channel is not None:
            self.render_soon(channel)

    def renew(self) -> None:
        """Tell other processes soon that this one lives."""
        if self._sync is not None:
            self._sync.renew()

    async def close(self) -> None:
        """Tell other processes the last changes."""
        if self._sync is not None:
            await self._sync.close()

    # Renders.

    def render_soon(self, channel: Channel[Connection]) -> None:
        """Render presence now, or when the interval since the last render is over."""
        channel.stale = True
        if channel.presence_callback is not None and channel.render is None and not self._is_stopped:
            due = max(self._loop.time(), channel.rendered_at + self._settings.presence_interval)
            channel.render = self._loop.call_at(due, self._render, channel)

    def stop(self) -> None:
        """Render nothing more, and keep no tab: every stream ends."""
        self._is_stopped = True

    def _render(self, channel: Channel[Connection]) -> None:
        channel.stale = False
        channel.rendered_at = self._loop.time()
        channel.render = None
        if channel.connections and channel.presence_callback is not None and not self._is_stopped:
            channel.render = rendering = self._threads.render(self._frame, channel, channel.presence_callback)
            rendering.add_done_callback(lambda done: call_soon(self._loop, self._rendered, channel, done))

    def _frame(self, channel: Channel[Connection], callback: PresenceCallback) -> bytes:
        """Call a presence callback, in a thread."""
        name, store = channel.name, self._store
        # A channel view's callback takes the records too.
        if getattr(callback, "takes_present", False):
            remote = [] if store is None else store.remote_parts(self._receiver, name)
            present = merged([*self.parts(name), *remote])
            users = [each.user_id for each in present]
            fragment: Any = render_observed(name_of(callback), callback, name, users, present)  # type: ignore[call-arg]
        else:
            elsewhere = [] if store is None else store.remote_users(self._receiver, name)
            users = list(dict.fromkeys([*channel.roster.online(), *elsewhere]))
            fragment = render_observed(name_of(callback), callback, name, users)
        return check_size(encode_fragment(fragment), self._settings.max_event_bytes)

    def _rendered(self, channel: Channel[Connection], rendering: "Future[bytes]") -> None:
        channel.render = None
        if rendering.cancelled():
            return
        error = rendering.exception()
        if isinstance(error, BrokerUnavailable):
            # What is shown stays until the broker can tell the users again.
            channel.render = self._loop.call_later(RETRY_AFTER, self._render, channel)
            return
        if error is not None:
            logger.error("The presence callback of channel %r failed.", channel.name, exc_info=error)
        elif rendering.result() != channel.presence:
            self._number += 1
            channel.set_presence(rendering.result(), self._number)
            for connection in tuple(channel.connections):
                connection.pump()
        if channel.stale:
            self.render_soon(channel)
        elif channel.connections and not self._is_stopped:
            # A callback may ask to be called again while there are connections, as the inspector's does.
            seconds = getattr(channel.presence_callback, "refresh_every", None)
            if seconds is not None:
                channel.render = self._loop.call_later(seconds, self._render, channel)
