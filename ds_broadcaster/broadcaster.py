"""The object behind `broadcast`: every verb of the product."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.http import HttpRequest, HttpResponseBase
from django.template.loader import render_to_string
from pydantic import BaseModel

from .brokers import EVERYWHERE, Broker, Command, Event, ProcessHoldings, create_broker
from .brokers.circuit import Circuit
from .conf import Settings, get_settings
from .exceptions import BrokerUnavailable
from .hub.channel import AttendanceHook, PresenceCallback
from .hub.grant import Arrival, StreamGrant
from .hub.hub import Hub
from .hub.hubs import Hubs
from .ids import RESERVED, channel_name
from .sse import check_order, encode_elements, encode_remove, encode_signals
from .streams.replayed_requests import still_allowed
from .streams.requests import (
    SnapshotCallback,
    auser_id_of,
    check_callback,
    checked_channels,
    grant_of,
    is_recheck,
    last_id_of,
    snapshot_of,
    user_id_of,
    user_pk,
)
from .streams.responses import BroadcastResponse, Stream, broker_is_away, no_room
from .streams.scope import ARRIVAL_KEY, SCOPE_KEY
from .streams.tabs import facts_of
from .twins import has_async_twin

if TYPE_CHECKING:
    from django.db.models import Model

    ChannelLike = str | Model
    Signals = Mapping[str, Any] | BaseModel
    Exclude = HttpRequest | str | None


logger = logging.getLogger("ds_broadcaster")

# Seconds for which pages do not ask a broker that was away for their cursor.
AWAY = 5.0


class Waiting(threading.local):
    """What a thread has to publish before anything else: what it sends now may be newer."""

    publish: Callable[[], None] | None = None


waiting = Waiting()


class Broadcaster:
    """Send to channels, open streams, list the users on a channel.

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
        self._create_broker = create_broker
        self._create_hub = create_hub
        self._clock = clock
        self._lock = threading.RLock()
        self._created_broker: Broker | None = None
        self._hubs = Hubs(self._make_hub, lambda hub: self._broker.detach(hub))
        self._declared: dict[str, PresenceCallback | None] = {}
        self._away_until = 0.0
        self._circuit = Circuit(clock)  # Not for commands: to end a stream is worth a wait.
        os.register_at_fork(after_in_child=self._forget)

    # Events.

    def __call__(
        self,
        channel: "ChannelLike",
        html: str,
        selector: str | None = None,
        mode: str | None = None,
        *,
        namespace: str | None = None,
        use_view_transition: bool = False,
        exclude: "Exclude" = None,
    ) -> None:
        """Send HTML: without a selector each of its elements replaces the one with the same id. See elements()."""
        self.elements(
            channel, html, selector, mode, namespace=namespace, use_view_transition=use_view_transition, exclude=exclude
        )

    @has_async_twin
    def elements(
        self,
        channel: "ChannelLike",
        html: str,
        selector: str | None = None,
        mode: str | None = None,
        *,
        namespace: str | None = None,
        use_view_transition: bool = False,
        exclude: "Exclude" = None,
    ) -> None:
        """Send HTML to patch into the page.

        `selector` says where and `mode` how ("outer", "inner", "replace", "prepend", "append", "before", "after",
        "remove"); `namespace` is "html", "svg" or "mathml". Raises ValueError and TypeError for what the client
        could not apply, EventTooLarge, and BrokerUnavailable.
        """
        check_order(channel, html)
        payload = encode_elements(html, selector, mode, namespace=namespace, use_view_transition=use_view_transition)
        self._publish(channel, payload, exclude)

    async def aelements(
        self,
        channel: "ChannelLike",
        html: str,
        selector: str | None = None,
        mode: str | None = None,
        *,
        namespace: str | None = None,
        use_view_transition: bool = False,
        exclude: "Exclude" = None,
    ) -> None:
        """See elements()."""
        check_order(channel, html)
        payload = encode_elements(html, selector, mode, namespace=namespace, use_view_transition=use_view_transition)
        await self._apublish(channel, payload, exclude)

    @has_async_twin
    def signals(
        self, channel: "ChannelLike", signals: "Signals", *, only_if_missing: bool = False, exclude: "Exclude" = None
    ) -> None:
        """Send signals, a dict or a pydantic model; `only_if_missing` leaves alone those that the page has."""
        self._publish(channel, encode_signals(signals, only_if_missing=only_if_missing), exclude)

    async def asignals(
        self, channel: "ChannelLike", signals: "Signals", *, only_if_missing: bool = False, exclude: "Exclude" = None
    ) -> None:
        """See signals()."""
        await self._apublish(channel, encode_signals(signals, only_if_missing=only_if_missing), exclude)

    @has_async_twin
    def remove(self, channel: "ChannelLike", selector: str, *, exclude: "Exclude" = None) -> None:
        """Remove every element that the selector matches."""
        self._publish(channel, encode_remove(selector), exclude)

    async def aremove(self, channel: "ChannelLike", selector: str, *, exclude: "Exclude" = None) -> None:
        """See remove()."""
        await self._apublish(channel, encode_remove(selector), exclude)

    @has_async_twin
    def template(
        self,
        channel: "ChannelLike",
        template_name: str | Sequence[str],
        context: Mapping[str, Any] | None = None,
        selector: str | None = None,
        mode: str | None = None,
        *,
        request: HttpRequest | None = None,
        exclude: "Exclude" = None,
    ) -> None:
        """Render a template and send it as elements(). All connections get the same, whatever `request` may show."""
        html = render_to_string(template_name, dict(context or {}), request)
        self.elements(channel, html, selector, mode, exclude=exclude)

    async def atemplate(
        self,
        channel: "ChannelLike",
        template_name: str | Sequence[str],
        context: Mapping[str, Any] | None = None,
        selector: str | None = None,
        mode: str | None = None,
        *,
        request: HttpRequest | None = None,
        exclude: "Exclude" = None,
    ) -> None:
        """See template(); renders in a thread, where templates may use the ORM."""
        html = await sync_to_async(render_to_string)(template_name, dict(context or {}), request)
        await self.aelements(channel, html, selector, mode, exclude=exclude)

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

    def page_cursor(self) -> str | None:
        """Return the id of now for a page, None while the broker is away.

        A page is worth more than the events before its stream opens: one page waits for the broker, and those of the
        next seconds do not.
        """
        if self._clock() < self._away_until:
            return None
        try:
            return self.cursor()
        except BrokerUnavailable:
            self._away_until = self._clock() + AWAY
        except SynchronousOnlyOperation:
            logger.warning(
                "A page was rendered in an async view, where the broker cannot be asked: it may miss what happens "
                "before its stream opens. Add ds_broadcaster.middleware.BroadcasterMiddleware."
            )
        return None

    async def apage_cursor(self) -> str | None:
        """See page_cursor()."""
        if self._clock() < self._away_until:
            return None
        try:
            return await self.acursor()
        except BrokerUnavailable:
            self._away_until = self._clock() + AWAY
        return None

    # Channels and users.

    def new(self, channel: "ChannelLike", presence_callback: PresenceCallback | None = None) -> None:
        """Create a channel before its first connection. Optional: connect() does it as well."""
        name = channel_name(channel)
        check_callback("presence_callback", presence_callback)
        if presence_callback is not None or name not in self._declared:
            self._declared[name] = presence_callback

    async def anew(self, channel: "ChannelLike", presence_callback: PresenceCallback | None = None) -> None:
        """See new()."""
        self.new(channel, presence_callback)

    @has_async_twin
    def kill(self, channel: "ChannelLike") -> None:
        """Destroy a channel: close all its connections, after what was sent before, and forget its history."""
        name = channel_name(channel)
        self._declared.pop(name, None)
        self._broker.command(name, Command("kill"))

    async def akill(self, channel: "ChannelLike") -> None:
        """See kill()."""
        name = channel_name(channel)
        self._declared.pop(name, None)
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
    def get_channels(self) -> list[str]:
        """Return the channels with a connection, and those that new() made."""
        return self._listed(self._broker.channels())

    async def aget_channels(self) -> list[str]:
        """See get_channels()."""
        return self._listed(await self._broker.achannels())

    # Streams.

    @has_async_twin
    def connect(
        self,
        channel: "ChannelLike | Sequence[ChannelLike]",
        request: HttpRequest,
        presence_callback: PresenceCallback | None = None,
        *,
        snapshot_callback: SnapshotCallback | None = None,
    ) -> HttpResponseBase:
        """Return the response that opens a stream of one channel or several.

        The view decides who gets it. `presence_callback(channel, user_ids)` renders the users on the channel, for all
        its connections. `snapshot_callback(request, channel)` renders the current state, for a client that was away
        for longer than the history goes back. Both return HTML, signals, or a tuple of the two.

        While the broker is away the answer is 503, and the client tries again. Raises ImproperlyConfigured under WSGI.
        """
        return self.grant(channel, request, presence_callback=presence_callback, snapshot_callback=snapshot_callback)

    async def aconnect(
        self,
        channel: "ChannelLike | Sequence[ChannelLike]",
        request: HttpRequest,
        presence_callback: PresenceCallback | None = None,
        *,
        snapshot_callback: SnapshotCallback | None = None,
    ) -> HttpResponseBase:
        """See connect(), for async views; the callbacks are plain functions all the same."""
        names = checked_channels(channel, request, presence_callback, snapshot_callback)
        arrival = self._arrival_of(request)
        user_id = await auser_id_of(request)
        refused = no_room(request, user_id, self._hubs)
        if refused is not None:
            return refused
        try:
            position = await self._broker.alocate(names, last_id_of(request))
        except BrokerUnavailable as error:
            return broker_is_away(names, error)
        grant = grant_of(names, position, request, user_id, arrival, self._clock(), presence_callback=presence_callback)
        if grant.gaps and snapshot_callback is not None and not is_recheck(request):
            grant = grant._replace(snapshot=await sync_to_async(snapshot_of)(snapshot_callback, request, grant))
        return self._respond(request, grant)

    def grant(
        self,
        channel: "ChannelLike | Sequence[ChannelLike]",
        request: HttpRequest,
        *,
        presence_callback: PresenceCallback | None = None,
        snapshot_callback: SnapshotCallback | None = None,
        attendance_hook: AttendanceHook | None = None,
        recheck_interval: float | None = None,
    ) -> HttpResponseBase:
        """See connect(). Takes the options of a channel view as well."""
        return self._open(
            checked_channels(channel, request, presence_callback, snapshot_callback),
            request,
            presence_callback=presence_callback,
            snapshot_callback=snapshot_callback,
            attendance_hook=attendance_hook,
            recheck_interval=recheck_interval,
        )

    def _open(
        self,
        names: tuple[str, ...],
        request: HttpRequest,
        *,
        presence_callback: PresenceCallback | None = None,
        snapshot_callback: SnapshotCallback | None = None,
        attendance_hook: AttendanceHook | None = None,
        recheck_interval: float | None = None,
    ) -> HttpResponseBase:
        """See grant(). Takes reserved names as well."""
        arrival = self._arrival_of(request)
        user_id = user_id_of(request)
        refused = no_room(request, user_id, self._hubs)
        if refused is not None:
            return refused
        try:
            position = self._broker.locate(names, last_id_of(request))
        except BrokerUnavailable as error:
            return broker_is_away(names, error)
        grant = grant_of(
            names,
            position,
            request,
            user_id,
            arrival,
            self._clock(),
            presence_callback=presence_callback,
            attendance_hook=attendance_hook,
            recheck_interval=recheck_interval,
        )
        if grant.gaps and snapshot_callback is not None and not is_recheck(request):
            grant = grant._replace(snapshot=snapshot_of(snapshot_callback, request, grant))
        return self._respond(request, grant)

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

    def note_arrival(self, scope: MutableMapping[str, Any]) -> None:
        """Note in the ASGI scope of a request that it comes in now."""
        scope[ARRIVAL_KEY] = self._now()

    def holdings(self) -> list[ProcessHoldings]:
        """Return what each process holds: the connections on each of its channels."""
        return self._broker.holdings()

    def declared(self) -> list[str]:
        """Return the channels that new() made here and that have not ended."""
        return list(self._declared)

    def hubs(self) -> list[Hub]:
        """Return the hubs of this process: one, unless streams run on several event loops."""
        return list(self._hubs)

    # The parts.

    def _listed(self, channels: Iterable[str]) -> list[str]:
        return [name for name in dict.fromkeys([*channels, *list(self._declared)]) if not name.startswith(RESERVED)]

    def _publish(self, channel: "ChannelLike", payload: bytes, exclude: "Exclude") -> None:
        name, facts = channel_name(channel), facts_of(payload, exclude)
        if waiting.publish is not None:
            waiting.publish()
        self._circuit.call(self._broker.publish, name, payload, facts)

    def _publish_all(self, events: Sequence[Event]) -> None:
        self._circuit.call(self._broker.publish_all, events)

    async def _apublish(self, channel: "ChannelLike", payload: bytes, exclude: "Exclude") -> None:
        name, facts = channel_name(channel), facts_of(payload, exclude)
        await self._circuit.acall(self._broker.apublish, name, payload, facts)

    def _recheck(self, channel: "ChannelLike | None", user_id: Any) -> tuple[str, Command]:
        name = EVERYWHERE if channel is None else channel_name(channel)
        return name, Command("recheck", None if user_id is None else user_pk(user_id))

    def _now(self) -> Arrival:
        broker = self._created_broker
        return Arrival(self._clock(), 0 if broker is None else broker.heard())

    def _arrival_of(self, request: HttpRequest) -> Arrival:
        scope = request.scope  # type: ignore[attr-defined]
        return scope[ARRIVAL_KEY] if ARRIVAL_KEY in scope else self._now()

    def _respond(self, request: HttpRequest, grant: StreamGrant) -> HttpResponseBase:
        scope = request.scope  # type: ignore[attr-defined]
        stream = None if request.method == "HEAD" else Stream(self._hubs.current, grant, scope)
        return BroadcastResponse(stream, scope.get(SCOPE_KEY))

    @property
    def _broker(self) -> Broker:
        if self._created_broker is None:
            with self._lock:
                if self._created_broker is None:
                    self._created_broker = self._create_broker(get_settings())
        return self._created_broker

    def _make_hub(self, loop: asyncio.AbstractEventLoop) -> Hub:
        return self._create_hub(
            loop,
            self._broker,
            get_settings(),
            self._declared,
            sender=type(self),
            still_allowed=still_allowed,
            clock=self._clock,
        )

    def _forget(self) -> None:
        """Begin anew, as in a process that was just forked: the parent's streams and ids are not ours."""
        self._lock = threading.RLock()  # A thread of the parent may have held the old one.
        self._created_broker = None
        self._hubs.forget()
        self._declared = {}
        self._circuit = Circuit(self._clock)


broadcast = Broadcaster()
