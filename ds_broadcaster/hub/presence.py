"""Presence, live: ends the graces that are over, and shows everybody on a channel who is there."""

import logging
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from django.dispatch import Signal

from .. import signals
from ..exceptions import BrokerUnavailable
from ..sse import check_size, encode_fragment
from .channel import Channel, PresenceCallback

if TYPE_CHECKING:
    from .hub import Hub

logger = logging.getLogger("ds_broadcaster")

# Seconds by which a timer may come early.
CLOCK_SLACK = 0.001
# Seconds after which a broker that was away is asked again who is there.
AGAIN = 2.0


class Presence:
    """The part of a hub that watches its rosters.

    A channel's presence is rendered at once when the roster first changes, then at most once in an interval, and
    always with the last state: a thousand people who join cost a few renders, not a thousand.
    """

    def __init__(self, hub: "Hub") -> None:
        self._hub = hub
        self._number = 0

    def came(self, channel: Channel, user: Any, is_first: bool) -> None:
        """Take note of a connection that opened; `is_first` if its user was not online here."""
        self._noticed(channel, user)
        if is_first and not self._hub.broker.is_shared:
            self.joined(channel.name, user)

    def went(self, channel: Channel, user: Any, is_gone: bool) -> None:
        """Take note of a connection that closed or a grace that ended; `is_gone` if its user is no longer online."""
        self._noticed(channel, user)
        if is_gone and not self._hub.broker.is_shared:
            self.left(channel.name, user)

    def _noticed(self, channel: Channel, user: Any) -> None:
        self.changed(channel)
        if self._hub.broker.is_shared:
            self._hub.sharing.changed(channel.name, user)

    def joined(self, channel: str, user: Any) -> None:
        """Tell whoever wants to know that a user came, who was on the channel in no process before."""
        self._tell(signals.user_joined, channel, user, True)

    def left(self, channel: str, user: Any) -> None:
        """Tell whoever wants to know that a user is gone, in all processes."""
        self._tell(signals.user_left, channel, user, False)

    def _tell(self, signal: Signal, name: str, user: Any, came: bool) -> None:
        self._hub.signal(signal, name, user)
        channel = self._hub.known.get(name)
        if channel is not None and channel.attendance_hook is not None:
            self._hub.workers.call(channel.attendance_hook, name, user, came)

    def expect_leaves(self, channel: Channel) -> None:
        """See to it that the graces on a channel end in time."""
        due = channel.roster.next_expiry()
        if due is not None and channel.expiry is None:
            channel.expiry = self._hub.loop.call_at(due, self._expire, channel)

    def _expire(self, channel: Channel) -> None:
        channel.expiry = None
        for user in channel.roster.expire(self._hub.now() + CLOCK_SLACK):
            self.went(channel, user, True)
        self.expect_leaves(channel)
        self._hub.retire(channel)

    def changed(self, channel: Channel) -> None:
        """Render presence now, or when the interval since the last time is over."""
        channel.stale = True
        if channel.presence_callback is not None and channel.render is None and not self._hub.closing:
            due = max(self._hub.now(), channel.rendered_at + self._hub.settings.presence_interval)
            channel.render = self._hub.loop.call_at(due, self._render, channel)

    def look_again(self, name: str) -> None:
        """Render presence because of what happened elsewhere."""
        channel = self._hub.known.get(name)
        if channel is not None:
            self.changed(channel)

    def _render(self, channel: Channel) -> None:
        channel.stale = False
        channel.rendered_at = self._hub.now()
        channel.render = None
        if channel.connections and channel.presence_callback is not None and not self._hub.closing:
            channel.render = rendering = self._hub.workers.render(
                _presence_frame,
                channel.presence_callback,
                channel.name,
                channel.roster.online(),
                self._hub,
                self._hub.settings.max_event_bytes,
            )
            rendering.add_done_callback(lambda done: self._hub.soon(self._rendered, channel, done))

    def _rendered(self, channel: Channel, rendering: "Future[bytes]") -> None:
        channel.render = None
        if rendering.cancelled():
            return
        error = rendering.exception()
        if isinstance(error, BrokerUnavailable):
            # What is shown stays until it can be said who is there.
            channel.render = self._hub.loop.call_later(AGAIN, self._render, channel)
            return
        if error is not None:
            logger.error("The presence callback of channel %r failed.", channel.name, exc_info=error)
        elif rendering.result() != channel.presence:
            self._number += 1
            channel.set_presence(rendering.result(), self._number)
            for connection in tuple(channel.connections):
                connection.pump()
        if channel.stale:
            self.changed(channel)
        elif channel.connections and not self._hub.closing:
            # A callback may ask to be called again while somebody is there, as the inspector's does.
            seconds = getattr(channel.presence_callback, "refresh_every", None)
            if seconds is not None:
                channel.render = self._hub.loop.call_later(seconds, self._render, channel)


def _presence_frame(callback: PresenceCallback, channel: str, here: list[Any], hub: "Hub", limit: int) -> bytes:
    users = list(dict.fromkeys([*here, *hub.broker.remote_users(hub, channel)]))
    return check_size(encode_fragment(callback(channel, users)), limit)
