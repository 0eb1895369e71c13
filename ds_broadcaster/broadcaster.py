"""The object behind `broadcast`: every verb of the product; those that send events are in verbs.py."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from django.http import HttpRequest, HttpResponseBase

from .brokers import EVERYWHERE, Broker, Command, Event, ProcessHoldings, create_broker
from .conf import Settings
from .engine import Engine
from .hub.channel import PresenceCallback
from .hub.hub import Hub
from .ids import channel_name
from .present import Present
from .sending import Sender
from .streams.opening import Opener
from .streams.page_cursor import PageCursor
from .streams.requests import PresenceMeta, SnapshotCallback, StreamOptions, check_callback, checked_channels, user_pk
from .twins import has_async_twin
from .verbs import EventVerbs

if TYPE_CHECKING:
    from .sending import ChannelLike


class Broadcaster(EventVerbs):
    """Send to channels, open streams, list the users on a channel.

    >>> broadcast("room-7", '<p id="status">Ann is here</p>')
    >>> broadcast.signals(["room-7", "lobby"], {"unread": 3})
    >>> broadcast.remove(room, "#message-12")

    The verbs may be called from any thread: views, on_commit hooks, background jobs, shells. Each verb that may wait
    has an async twin with an `a` in front. A channel is a name or a saved model instance. `exclude` leaves out one
    tab: the one that sent this request, or the one with this id.

    `create_broker` and `create_hub` make the parts, and `clock` gives monotonic seconds; tests give their own.
    """

    def __init__(
        self,
        *,
        create_broker: Callable[[Settings], Broker] = create_broker,
        create_hub: Callable[..., Hub] = Hub,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._set_up(create_broker, create_hub, clock)
        os.register_at_fork(after_in_child=self._forget)

    def _set_up(
        self, create_broker: Callable[[Settings], Broker], create_hub: Callable[..., Hub], clock: Callable[[], float]
    ) -> None:
        self._engine = engine = Engine(create_broker, create_hub, type(self), clock)
        self._sender = Sender(engine.broker, clock)
        self.page_cursor: PageCursor = PageCursor(self.cursor, self.acursor, clock)
        # What opens streams with the options that connect() does not take.
        self.opener: Opener = Opener(engine.broker, engine.heard, engine.hubs, clock)

    @contextmanager
    def replaced(
        self,
        *,
        create_broker: Callable[[Settings], Broker],
        create_hub: Callable[..., Hub],
        clock: Callable[[], float],
    ) -> Iterator[None]:
        """Have other parts for the time of a block, as the testing kit does. Channels that new() made stay."""
        kept = dict(vars(self))
        self._set_up(create_broker, create_hub, clock)
        self._engine.declared.update(kept["_engine"].declared)
        try:
            yield
        finally:
            vars(self).update(kept)

    @has_async_twin
    def cursor(self) -> str:
        """Return the id of now.

        Rendered into a page and given back as `?cursor=` of its connect URL, it starts the stream where the page was
        rendered: nothing sent in between is lost.
        """
        return self._broker.cursor()

    async def acursor(self) -> str:
        """See cursor()."""
        return await self._broker.acursor()

    # Channels and users.

    def new(self, channel: "ChannelLike", presence_callback: PresenceCallback | None = None) -> None:
        """Create a channel before its first connection. Optional: connect() does it as well."""
        name = channel_name(channel)
        check_callback("presence_callback", presence_callback)
        if presence_callback is not None or name not in self._engine.declared:
            self._engine.declared[name] = presence_callback

    async def anew(self, channel: "ChannelLike", presence_callback: PresenceCallback | None = None) -> None:
        """See new()."""
        self.new(channel, presence_callback)

    @has_async_twin
    def kill(self, channel: "ChannelLike") -> None:
        """Destroy a channel: close all its connections, after what was sent before, and forget its history."""
        name = channel_name(channel)
        self._engine.declared.pop(name, None)
        self._broker.command(name, Command("kill"))

    async def akill(self, channel: "ChannelLike") -> None:
        """See kill()."""
        name = channel_name(channel)
        self._engine.declared.pop(name, None)
        await self._broker.acommand(name, Command("kill"))

    @has_async_twin
    def disconnect(self, channel: "ChannelLike", user_id: Any) -> None:
        """Close every connection this user has on the channel, after what was sent before."""
        self._broker.command(channel_name(channel), Command("disconnect", user_pk(user_id)))

    async def adisconnect(self, channel: "ChannelLike", user_id: Any) -> None:
        """See disconnect()."""
        await self._broker.acommand(channel_name(channel), Command("disconnect", user_pk(user_id)))

    @has_async_twin
    def get_users(self, channel: "ChannelLike") -> list[Any]:
        """Return the user id of each open connection on the channel: a user with two tabs twice."""
        return self._broker.users(channel_name(channel))

    async def aget_users(self, channel: "ChannelLike") -> list[Any]:
        """See get_users()."""
        return await self._broker.ausers(channel_name(channel))

    @has_async_twin
    def get_presence(self, channel: "ChannelLike") -> list[Present]:
        """Return a Present for each user on the channel, in all processes, those who are away too."""
        return self._broker.present(channel_name(channel))

    async def aget_presence(self, channel: "ChannelLike") -> list[Present]:
        """See get_presence()."""
        return await self._broker.apresent(channel_name(channel))

    @has_async_twin
    def get_channels(self) -> list[str]:
        """Return the channels with a connection, and those that new() made."""
        return self._engine.listed(self._broker.channels())

    async def aget_channels(self) -> list[str]:
        """See get_channels()."""
        return self._engine.listed(await self._broker.achannels())

    # Streams.

    @has_async_twin
    def connect(
        self,
        channel: "ChannelLike | Sequence[ChannelLike]",
        request: HttpRequest,
        presence_callback: PresenceCallback | None = None,
        *,
        snapshot_callback: SnapshotCallback | None = None,
        presence_meta: PresenceMeta | None = None,
        compress: bool = True,
    ) -> HttpResponseBase:
        """Return the response that opens a stream of one channel or several.

        The view decides who gets it. `presence_callback(channel, user_ids)` renders the users on the channel, for all
        its connections. `snapshot_callback(request, channel)` renders the current state, for a client that was away
        for longer than the history goes back, and at each refresh(). Both return HTML, signals, or a tuple of the two.
        `presence_meta` is what presence shows of this client beside its user: a dict of JSON values, at most 1 KB, or a
        function that returns it for the request. With `compress=False` the stream is sent as it is.

        While the broker is away the answer is 503, and the client tries again. Raises ImproperlyConfigured under WSGI.
        """
        options = StreamOptions(presence_callback, snapshot_callback, presence_meta=presence_meta, compress=compress)
        return self.opener.open(checked_channels(channel, request, options), request, options)

    async def aconnect(
        self,
        channel: "ChannelLike | Sequence[ChannelLike]",
        request: HttpRequest,
        presence_callback: PresenceCallback | None = None,
        *,
        snapshot_callback: SnapshotCallback | None = None,
        presence_meta: PresenceMeta | None = None,
        compress: bool = True,
    ) -> HttpResponseBase:
        """See connect(), for async views; the callbacks are plain functions all the same."""
        options = StreamOptions(presence_callback, snapshot_callback, presence_meta=presence_meta, compress=compress)
        return await self.opener.aopen(checked_channels(channel, request, options), request, options)

    @has_async_twin
    def recheck(self, channel: "ChannelLike | None" = None, user_id: Any = None) -> None:
        """Ask again whether streams are still allowed: those of a channel, of a user, of both, or all.

        Each stream's request runs through Django once more, in the background. A stream that is refused now ends.
        """
        self._broker.command(*self._recheck(channel, user_id))

    async def arecheck(self, channel: "ChannelLike | None" = None, user_id: Any = None) -> None:
        """See recheck()."""
        await self._broker.acommand(*self._recheck(channel, user_id))

    def review(self, user_id: Any) -> None:
        """Recheck the streams of a user who was saved, when there is time: see Command."""
        self._broker.command(EVERYWHERE, Command("review", user_pk(user_id)))

    def holdings(self) -> list[ProcessHoldings]:
        """Return what each process holds: the connections on each of its channels."""
        return self._broker.holdings()

    def declared(self) -> list[str]:
        """Return the channels that new() made here and that have not ended."""
        return list(self._engine.declared)

    def send_all(self, events: Sequence[Event]) -> None:
        """Publish encoded events in one step of the broker."""
        self._sender.send_all(events)

    def hubs(self) -> list[Hub]:
        """Return the hubs of this process: one, unless streams run on several event loops."""
        return list(self._engine.hubs)

    def _recheck(self, channel: "ChannelLike | None", user_id: Any) -> tuple[str, Command]:
        name = EVERYWHERE if channel is None else channel_name(channel)
        return name, Command("recheck", None if user_id is None else user_pk(user_id))

    @property
    def _broker(self) -> Broker:
        return self._engine.broker()

    def _forget(self) -> None:
        """Begin anew, as in a process that was just forked."""
        self._engine.forget()
        self._sender.forget()


broadcast: Broadcaster = Broadcaster()
