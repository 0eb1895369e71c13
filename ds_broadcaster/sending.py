"""The verbs that send: each turns what a page is to get into an event, and gives it to the broker."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.http import HttpRequest
from django.template.loader import render_to_string
from pydantic import BaseModel

from .brokers import Broker
from .conf import get_settings
from .ids import channel_name
from .sse import check_size, encode_elements, encode_remove, encode_signals, leaving_out
from .tabs import excluded

if TYPE_CHECKING:
    from django.db.models import Model

    ChannelLike = str | Model
    Signals = Mapping[str, Any] | BaseModel
    Exclude = HttpRequest | str | None


class Waiting(threading.local):
    """What a thread has to publish before anything else, as what it sends now may be newer."""

    publish: Callable[[], None] | None = None


waiting = Waiting()


class Sender:
    """What a Broadcaster sends with.

    A channel is a name or a saved model instance. `exclude` leaves out one tab: the one that sent this request, or
    the one with this id.
    """

    @property
    def _broker(self) -> Broker:
        raise NotImplementedError

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
        payload = encode_elements(html, selector, mode, namespace=namespace, use_view_transition=use_view_transition)
        self._publish(channel, payload, exclude)

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
        payload = encode_elements(html, selector, mode, namespace=namespace, use_view_transition=use_view_transition)
        await self._apublish(channel, payload, exclude)

    def signals(
        self, channel: "ChannelLike", signals: "Signals", *, only_if_missing: bool = False, exclude: "Exclude" = None
    ) -> None:
        """Send signals, a dict or a pydantic model; with `only_if_missing` those that the page has are left alone."""
        self._publish(channel, encode_signals(signals, only_if_missing=only_if_missing), exclude)

    async def asignals(
        self, channel: "ChannelLike", signals: "Signals", *, only_if_missing: bool = False, exclude: "Exclude" = None
    ) -> None:
        """See signals()."""
        await self._apublish(channel, encode_signals(signals, only_if_missing=only_if_missing), exclude)

    def remove(self, channel: "ChannelLike", selector: str, *, exclude: "Exclude" = None) -> None:
        """Remove every element that the selector matches."""
        self._publish(channel, encode_remove(selector), exclude)

    async def aremove(self, channel: "ChannelLike", selector: str, *, exclude: "Exclude" = None) -> None:
        """See remove()."""
        await self._apublish(channel, encode_remove(selector), exclude)

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
        """Render a template and send it as elements(); everybody on the channel gets what `request` may show."""
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

    def _publish(self, channel: "ChannelLike", payload: bytes, exclude: "Exclude") -> None:
        name, payload = channel_name(channel), ready(payload, exclude)
        if waiting.publish is not None:
            waiting.publish()
        self._broker.publish(name, payload)

    def _publish_all(self, events: Sequence[tuple[str, bytes]]) -> None:
        self._broker.publish_all(events)

    async def _apublish(self, channel: "ChannelLike", payload: bytes, exclude: "Exclude") -> None:
        await self._broker.apublish(channel_name(channel), ready(payload, exclude))


def ready(payload: bytes, exclude: "Exclude") -> bytes:
    """Return an encoded event as brokers carry it; raises EventTooLarge, and for `exclude` what excluded() does."""
    return leaving_out(excluded(exclude), check_size(payload, get_settings().max_event_bytes))
