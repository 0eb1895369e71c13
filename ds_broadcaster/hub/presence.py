"""Presence on this hub: ends the graces that are over, and shows the users of a channel to all its connections."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from django.dispatch import Signal

from .. import signals
from ..conf import Settings
from ..exceptions import BrokerUnavailable
from ..sse import check_size, encode_fragment
from .channel import Channel, PresenceCallback
from .channels import Channels
from .connections import Connection
from .threads import Threads, call_soon

logger = logging.getLogger("ds_broadcaster")

# Seconds by which a timer may come early.
CLOCK_SLACK = 0.001
# Seconds after which a broker that was away is asked again for the users of other processes.
RETRY_AFTER = 2.0


class Presence:
    """Renders presence and tells of joins and leaves.

    A channel's presence is rendered at once when its roster first changes, then at most once in an interval, and always
    with the last state: a thousand joins cost a few renders, not a thousand.

    `remote_users` returns the users of a channel in other processes; None where there are none. Then each change of a
    roster is a join or a leave; otherwise PresenceSync tells which are. `on_change` is called for each change.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        channels: Channels,
        threads: Threads,
        settings: Settings,
        *,
        remote_users: Callable[[str], list[Any]] | None = None,
        on_change: Callable[[Channel[Connection], Any], None],
    ) -> None:
        self._loop = loop
        self._channels = channels
        self._threads = threads
        self._settings = settings
        self._remote_users = remote_users
        self._on_change = on_change
        self._is_stopped = False
        self._number = 0

    # Joins and leaves.

    def came(self, channel: Channel[Connection], user: Any, is_first: bool) -> None:
        """Note an opened connection; `is_first` if its user was not online here."""
        self._changed(channel, user)
        if is_first and self._remote_users is None:
            self.joined(channel.name, user)

    def went(self, channel: Channel[Connection], user: Any, is_gone: bool) -> None:
        """Note a closed connection or an ended grace; `is_gone` if its user is no longer online."""
        self._changed(channel, user)
        if is_gone and self._remote_users is None:
            self.left(channel.name, user)

    def _changed(self, channel: Channel[Connection], user: Any) -> None:
        self.render_soon(channel)
        self._on_change(channel, user)

    def joined(self, channel: str, user: Any) -> None:
        """Tell of a user who was on the channel in no process before."""
        self._tell(signals.user_joined, channel, user, True)

    def left(self, channel: str, user: Any) -> None:
        """Tell of a user who is on the channel in no process any more."""
        self._tell(signals.user_left, channel, user, False)

    def _tell(self, signal: Signal, name: str, user: Any, came: bool) -> None:
        self._threads.send(signal, name, user)
        channel = self._channels.find(name)
        if channel is not None and channel.attendance_hook is not None:
            self._threads.call(channel.attendance_hook, name, user, came)

    # Graces.

    def expect_leaves(self, channel: Channel[Connection]) -> None:
        """Have the graces on a channel end in time."""
        due = channel.roster.next_expiry()
        if due is not None and channel.expiry is None:
            channel.expiry = self._loop.call_at(due, self._expire, channel)

    def _expire(self, channel: Channel[Connection]) -> None:
        channel.expiry = None
        for user in channel.roster.expire(self._loop.time() + CLOCK_SLACK):
            self.went(channel, user, True)
        self.expect_leaves(channel)
        self._channels.retire(channel)

    # Renders.

    def render_soon(self, channel: Channel[Connection]) -> None:
        """Render presence now, or when the interval since the last render is over."""
        channel.stale = True
        if channel.presence_callback is not None and channel.render is None and not self._is_stopped:
            due = max(self._loop.time(), channel.rendered_at + self._settings.presence_interval)
            channel.render = self._loop.call_at(due, self._render, channel)

    def stop(self) -> None:
        """Render nothing more: every stream ends."""
        self._is_stopped = True

    def _render(self, channel: Channel[Connection]) -> None:
        channel.stale = False
        channel.rendered_at = self._loop.time()
        channel.render = None
        if channel.connections and channel.presence_callback is not None and not self._is_stopped:
            channel.render = rendering = self._threads.render(
                _presence_frame,
                channel.presence_callback,
                channel.name,
                channel.roster.online(),
                self._remote_users,
                self._settings.max_event_bytes,
            )
            rendering.add_done_callback(lambda done: call_soon(self._loop, self._rendered, channel, done))

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


def _presence_frame(
    callback: PresenceCallback,
    channel: str,
    here: list[Any],
    remote_users: Callable[[str], list[Any]] | None,
    limit: int,
) -> bytes:
    elsewhere = [] if remote_users is None else remote_users(channel)
    users = list(dict.fromkeys([*here, *elsewhere]))
    return check_size(encode_fragment(callback(channel, users)), limit)
