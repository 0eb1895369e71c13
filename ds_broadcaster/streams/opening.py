"""How a stream is granted: from a request to the response that carries it."""

import contextlib
from collections.abc import Callable, MutableMapping
from typing import Any

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponseBase

from ..brokers import Broker
from ..brokers.circuit import Circuit
from ..exceptions import BrokerUnavailable
from ..hub.grant import Arrival, StreamGrant
from ..hub.hubs import Hubs
from .requests import StreamOptions, auser_id_of, grant_of, last_id_of, user_id_of, with_meta, with_snapshot
from .responses import BroadcastResponse, Stream, broker_is_away, no_room
from .scope import ARRIVAL_KEY, SCOPE_KEY


class Opener:
    """Opens streams.

    `broker` returns the broker, `heard` a sequence that has been given out by now, and `clock` monotonic seconds.
    """

    def __init__(
        self, broker: Callable[[], Broker], heard: Callable[[], int], hubs: Hubs, clock: Callable[[], float]
    ) -> None:
        self._broker = broker
        self._heard = heard
        self._hubs = hubs
        self._clock = clock
        self._circuit = Circuit(clock)

    def open(self, channels: tuple[str, ...], request: HttpRequest, options: StreamOptions) -> HttpResponseBase:
        """Return the response that opens a stream of these channels. See Broadcaster.connect()."""
        arrival = self._arrival_of(request)
        user_id = user_id_of(request)
        refused = no_room(request, user_id, self._hubs)
        if refused is not None:
            return refused
        try:
            position = self._broker().locate(channels, last_id_of(request))
        except BrokerUnavailable as error:
            return broker_is_away(channels, error)
        grant = grant_of(channels, position, request, user_id, arrival, self._clock(), options)
        return self._respond(request, with_snapshot(with_meta(grant, request, options), request, options))

    async def aopen(self, channels: tuple[str, ...], request: HttpRequest, options: StreamOptions) -> HttpResponseBase:
        """See open()."""
        arrival = self._arrival_of(request)
        user_id = await auser_id_of(request)
        refused = no_room(request, user_id, self._hubs)
        if refused is not None:
            return refused
        try:
            position = await self._broker().alocate(channels, last_id_of(request))
        except BrokerUnavailable as error:
            return broker_is_away(channels, error)
        grant = grant_of(channels, position, request, user_id, arrival, self._clock(), options)
        if options.presence_meta is not None:
            grant = await sync_to_async(with_meta)(grant, request, options)
        if options.snapshot_callback is not None:
            grant = await sync_to_async(with_snapshot)(grant, request, options)
        return self._respond(request, grant)

    def close_tab(self, user_id: Any, tab: str) -> None:
        """End the streams of a user's tab, and forget that it is hidden, in all processes."""
        for hub in self._hubs:
            hub.on_tab_closed(user_id, tab)
        store = self._broker().presence
        if store is not None:
            with contextlib.suppress(BrokerUnavailable):  # Then it is hidden for its time.
                self._circuit.call(store.tell_closed, user_id, tab)

    def note_arrival(self, scope: MutableMapping[str, Any]) -> None:
        """Note in the ASGI scope of a request that it comes in now."""
        scope[ARRIVAL_KEY] = self._now()

    def _arrival_of(self, request: HttpRequest) -> Arrival:
        scope = request.scope  # type: ignore[attr-defined]
        return scope[ARRIVAL_KEY] if ARRIVAL_KEY in scope else self._now()

    def _now(self) -> Arrival:
        return Arrival(self._clock(), self._heard())

    def _respond(self, request: HttpRequest, grant: StreamGrant) -> HttpResponseBase:
        scope = request.scope  # type: ignore[attr-defined]
        stream = None if request.method == "HEAD" else Stream(self._hubs.current, grant, scope)
        return BroadcastResponse(stream, scope.get(SCOPE_KEY), is_compressed=grant.is_compressed)
