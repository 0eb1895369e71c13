"""The object behind `broadcast`: every verb of the product."""

import asyncio
import os
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponseBase
from django.template.loader import render_to_string
from pydantic import BaseModel

from .brokers import Broker, Command, create_broker
from .channel import PresenceCallback
from .conf import get_settings
from .grant import (
    SnapshotCallback,
    auser_id_of,
    check_asgi,
    check_callback,
    come_back,
    opening_of,
    snapshot_of,
    user_id_of,
    user_pk,
)
from .hub import Hub, Opening
from .ids import channel_name, channel_names
from .response import SCOPE_KEY, BroadcastResponse, Stream
from .sse import check_size, encode_elements, encode_remove, encode_signals

if TYPE_CHECKING:
    from django.db.models import Model

    ChannelLike = str | Model
    Signals = Mapping[str, Any] | BaseModel


class Broadcaster:
    """Send to channels, open streams, see who is there.

    The verbs may be called from any thread: views, on_commit hooks, background jobs, shells. Each one that may
    wait has an async twin with an `a` in front. A channel is a name or a saved model instance.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._created_broker: Broker | None = None
        self._hubs: dict[asyncio.AbstractEventLoop, Hub] = {}
        self._declared: dict[str, PresenceCallback | None] = {}
        os.register_at_fork(after_in_child=self._forget)

    # Sending.

    def __call__(self, channel: "ChannelLike", html: str) -> None:
        """Send HTML: each of its elements replaces the one with the same id."""
        self.elements(channel, html)

    def elements(
        self,
        channel: "ChannelLike",
        html: str,
        selector: str | None = None,
        mode: str | None = None,
        *,
        namespace: str | None = None,
        use_view_transition: bool = False,
    ) -> None:
        """Send HTML to patch into the page.

        `selector` says where and `mode` how ("outer", "inner", "replace", "prepend", "append", "before", "after",
        "remove"); `namespace` is "html", "svg" or "mathml". Raises ValueError and TypeError for what the client
        could not apply, EventTooLarge, and BrokerUnavailable.
        """
        payload = encode_elements(html, selector, mode, namespace=namespace, use_view_transition=use_view_transition)
        self._publish(channel, payload)

    async def aelements(
        self,
        channel: "ChannelLike",
        html: str,
        selector: str | None = None,
        mode: str | None = None,
        *,
        namespace: str | None = None,
        use_view_transition: bool = False,
    ) -> None:
        """See elements()."""
        payload = encode_elements(html, selector, mode, namespace=namespace, use_view_transition=use_view_transition)
        await self._apublish(channel, payload)

    def signals(self, channel: "ChannelLike", signals: "Signals", *, only_if_missing: bool = False) -> None:
        """Send signals, a dict or a pydantic model; with `only_if_missing` those that the page has are left alone."""
        self._publish(channel, encode_signals(signals, only_if_missing=only_if_missing))

    async def asignals(self, channel: "ChannelLike", signals: "Signals", *, only_if_missing: bool = False) -> None:
        """See signals()."""
        await self._apublish(channel, encode_signals(signals, only_if_missing=only_if_missing))

    def remove(self, channel: "ChannelLike", selector: str) -> None:
        """Remove every element that the selector matches."""
        self._publish(channel, encode_remove(selector))

    async def aremove(self, channel: "ChannelLike", selector: str) -> None:
        """See remove()."""
        await self._apublish(channel, encode_remove(selector))

    def template(
        self,
        channel: "ChannelLike",
        template_name: str | Sequence[str],
        context: Mapping[str, Any] | None = None,
        selector: str | None = None,
        mode: str | None = None,
        *,
        request: HttpRequest | None = None,
    ) -> None:
        """Render a template and send it as elements(); everybody on the channel gets what `request` may show."""
        html = render_to_string(template_name, dict(context or {}), request)
        self.elements(channel, html, selector, mode)

    async def atemplate(
        self,
        channel: "ChannelLike",
        template_name: str | Sequence[str],
        context: Mapping[str, Any] | None = None,
        selector: str | None = None,
        mode: str | None = None,
        *,
        request: HttpRequest | None = None,
    ) -> None:
        """See template(); renders in a thread, where templates may use the ORM."""
        html = await sync_to_async(render_to_string)(template_name, dict(context or {}), request)
        await self.aelements(channel, html, selector, mode)

    def cursor(self) -> str:
        """Return the id of now.

        Rendered into a page and given back as `?cursor=` of its connect URL, it starts the stream where the page
        was rendered: nothing that was sent in between is lost.
        """
        return self._broker.cursor()

    async def acursor(self) -> str:
        """See cursor()."""
        return self.cursor()

    # Channels and users.

    def new(self, channel: "ChannelLike", presence_callback: PresenceCallback | None = None) -> None:
        """Create a channel before anybody connects to it, which connect() would do as well."""
        name = channel_name(channel)
        check_callback("presence_callback", presence_callback)
        if presence_callback is not None or name not in self._declared:
            self._declared[name] = presence_callback

    async def anew(self, channel: "ChannelLike", presence_callback: PresenceCallback | None = None) -> None:
        """See new()."""
        self.new(channel, presence_callback)

    def kill(self, channel: "ChannelLike") -> None:
        """Destroy a channel: close all its connections, behind what was sent before, and forget its history."""
        name = channel_name(channel)
        self._declared.pop(name, None)
        self._broker.command(name, Command("kill"))

    async def akill(self, channel: "ChannelLike") -> None:
        """See kill()."""
        name = channel_name(channel)
        self._declared.pop(name, None)
        await self._broker.acommand(name, Command("kill"))

    def disconnect(self, channel: "ChannelLike", user_id: Any) -> None:
        """Close every connection this user has on the channel, behind what was sent before."""
        self._broker.command(channel_name(channel), Command("disconnect", user_pk(user_id)))

    async def adisconnect(self, channel: "ChannelLike", user_id: Any) -> None:
        """See disconnect()."""
        await self._broker.acommand(channel_name(channel), Command("disconnect", user_pk(user_id)))

    def get_users(self, channel: "ChannelLike") -> list[Any]:
        """Return the user id of each open connection on the channel: somebody with two tabs twice."""
        return self._broker.users(channel_name(channel))

    async def aget_users(self, channel: "ChannelLike") -> list[Any]:
        """See get_users()."""
        return self.get_users(channel)

    def get_channels(self) -> list[str]:
        """Return the channels that somebody is connected to, and those that new() made."""
        return list(dict.fromkeys([*self._broker.channels(), *list(self._declared)]))

    async def aget_channels(self) -> list[str]:
        """See get_channels()."""
        return self.get_channels()

    # Streams.

    def connect(
        self,
        channel: "ChannelLike | Sequence[ChannelLike]",
        request: HttpRequest,
        presence_callback: PresenceCallback | None = None,
        *,
        snapshot_callback: SnapshotCallback | None = None,
    ) -> HttpResponseBase:
        """Return the response that opens a stream of one channel or several.

        The view decides who gets it. `presence_callback(channel, user_ids)` renders who is there, for everybody on
        the channel. `snapshot_callback(request, channel)` renders the current state, for a client that returns
        after longer than the history goes back. Both return HTML, signals, or a tuple of the two.

        Raises ImproperlyConfigured under WSGI.
        """
        opening = self._opening(channel, request, presence_callback, snapshot_callback)
        if self.is_closing():
            return come_back()
        user_id = user_id_of(request)
        snapshot = snapshot_of(snapshot_callback, request, opening)
        return self._respond(request, opening._replace(user_id=user_id, snapshot=snapshot))

    async def aconnect(
        self,
        channel: "ChannelLike | Sequence[ChannelLike]",
        request: HttpRequest,
        presence_callback: PresenceCallback | None = None,
        *,
        snapshot_callback: SnapshotCallback | None = None,
    ) -> HttpResponseBase:
        """See connect(), for async views; the callbacks are plain functions all the same."""
        opening = self._opening(channel, request, presence_callback, snapshot_callback)
        if self.is_closing():
            return come_back()
        user_id = await auser_id_of(request)
        snapshot = b""
        if opening.gaps and snapshot_callback is not None:
            snapshot = await sync_to_async(snapshot_of)(snapshot_callback, request, opening)
        return self._respond(request, opening._replace(user_id=user_id, snapshot=snapshot))

    def is_closing(self) -> bool:
        """Tell whether the server that runs here is about to stop."""
        return any(hub.closing and not hub.loop.is_closed() for hub in list(self._hubs.values()))

    def hubs(self) -> list[Hub]:
        """Return the hubs of this process: one, unless streams run on several event loops."""
        return list(self._hubs.values())

    # What is behind.

    def _opening(
        self,
        channel: "ChannelLike | Sequence[ChannelLike]",
        request: HttpRequest,
        presence_callback: PresenceCallback | None,
        snapshot_callback: SnapshotCallback | None,
    ) -> Opening:
        check_asgi(request)
        check_callback("presence_callback", presence_callback)
        check_callback("snapshot_callback", snapshot_callback)
        opening = opening_of(self._broker, channel_names(channel), request)
        return opening._replace(presence_callback=presence_callback)

    def _respond(self, request: HttpRequest, opening: Opening) -> HttpResponseBase:
        scope = request.scope  # type: ignore[attr-defined]
        stream = None if request.method == "HEAD" else Stream(self._hub, opening, scope)
        return BroadcastResponse(stream, scope.get(SCOPE_KEY))

    def _publish(self, channel: "ChannelLike", payload: bytes) -> None:
        self._broker.publish(channel_name(channel), check_size(payload, get_settings().max_event_bytes))

    async def _apublish(self, channel: "ChannelLike", payload: bytes) -> None:
        await self._broker.apublish(channel_name(channel), check_size(payload, get_settings().max_event_bytes))

    @property
    def _broker(self) -> Broker:
        if self._created_broker is None:
            with self._lock:
                if self._created_broker is None:
                    self._created_broker = create_broker(get_settings())
        return self._created_broker

    def _hub(self) -> Hub:
        """Return the hub of the running event loop."""
        loop = asyncio.get_running_loop()
        hub = self._hubs.get(loop)
        if hub is None:
            with self._lock:
                for old in [each for each in self._hubs if each.is_closed()]:
                    self._broker.detach(self._hubs.pop(old))
                hub = self._hubs[loop] = Hub(loop, self._broker, get_settings(), self._declared, type(self))
        return hub

    def _forget(self) -> None:
        """Begin anew, as in a process that was just forked: the parent's streams and ids are not ours."""
        self._created_broker = None
        self._hubs = {}
        self._declared = {}
