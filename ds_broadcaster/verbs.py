"""The verbs that send an event."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.http import HttpRequest
from django.template.loader import render_to_string
from pydantic import BaseModel

from .observers import render_observed
from .sending import Sender
from .sse import (
    REFRESH,
    Mode,
    Namespace,
    encode_dispatch,
    encode_patch,
    encode_redirect,
    encode_remove,
    encode_script,
    encode_signals,
)
from .streams.audiences import pack_template
from .streams.tabs import audience_facts, facts_of, refresh_facts
from .twins import has_async_twin

if TYPE_CHECKING:
    from django.utils.functional import Promise

    from .sending import Channels

    Signals = Mapping[str, Any] | BaseModel
    Exclude = HttpRequest | str | None


class EventVerbs:
    """Encode an event and hand it to the sender.

    The channel is one, or a list of several, which the event reaches in one step.
    """

    _sender: Sender

    @has_async_twin
    def elements(
        self,
        channel: "Channels",
        html: str,
        selector: str | None = None,
        mode: Mode | None = None,
        *,
        namespace: Namespace | None = None,
        use_view_transition: bool = False,
        view_transition_selector: str | None = None,
        exclude: "Exclude" = None,
        transient: bool = False,
        key: str | None = None,
        compress: bool = True,
    ) -> None:
        """Send HTML to patch into the page.

        >>> broadcast.elements("room-7", "<li>hi</li>", "#messages", mode="append")

        `selector` says where and `mode` how ("outer", "inner", "replace", "prepend", "append", "before", "after",
        "remove"); `namespace` is "html", "svg" or "mathml". A `transient` event reaches the clients connected now and
        is in no history: of those with a `key`, a slow client gets the newest. Send secrets with `compress=False`.

        Raises ValueError and TypeError for what the client could not apply, EventTooLarge, and BrokerUnavailable.
        """
        payload = encode_patch(channel, html, selector, mode, namespace, use_view_transition, view_transition_selector)
        self._sender.send(channel, payload, facts_of(payload, exclude, transient, key, compress))

    async def aelements(
        self,
        channel: "Channels",
        html: str,
        selector: str | None = None,
        mode: Mode | None = None,
        *,
        namespace: Namespace | None = None,
        use_view_transition: bool = False,
        view_transition_selector: str | None = None,
        exclude: "Exclude" = None,
        transient: bool = False,
        key: str | None = None,
        compress: bool = True,
    ) -> None:
        """See elements()."""
        payload = encode_patch(channel, html, selector, mode, namespace, use_view_transition, view_transition_selector)
        await self._sender.asend(channel, payload, facts_of(payload, exclude, transient, key, compress))

    # `broadcast(channel, html)`
    __call__ = elements

    @has_async_twin
    def signals(
        self,
        channel: "Channels",
        signals: "Signals",
        *,
        only_if_missing: bool = False,
        exclude: "Exclude" = None,
        transient: bool = False,
        key: str | None = None,
        compress: bool = True,
    ) -> None:
        """Send signals, a dict or a pydantic model; `only_if_missing` leaves alone those that the page has."""
        payload = encode_signals(signals, only_if_missing=only_if_missing)
        self._sender.send(channel, payload, facts_of(payload, exclude, transient, key, compress))

    async def asignals(
        self,
        channel: "Channels",
        signals: "Signals",
        *,
        only_if_missing: bool = False,
        exclude: "Exclude" = None,
        transient: bool = False,
        key: str | None = None,
        compress: bool = True,
    ) -> None:
        """See signals()."""
        payload = encode_signals(signals, only_if_missing=only_if_missing)
        await self._sender.asend(channel, payload, facts_of(payload, exclude, transient, key, compress))

    @has_async_twin
    def remove(self, channel: "Channels", selector: str, *, exclude: "Exclude" = None) -> None:
        """Remove every element that the selector matches."""
        payload = encode_remove(selector)
        self._sender.send(channel, payload, facts_of(payload, exclude))

    async def aremove(self, channel: "Channels", selector: str, *, exclude: "Exclude" = None) -> None:
        """See remove()."""
        payload = encode_remove(selector)
        await self._sender.asend(channel, payload, facts_of(payload, exclude))

    @has_async_twin
    def template(
        self,
        channel: "Channels",
        template_name: str | Sequence[str],
        context: Mapping[str, Any] | None = None,
        selector: str | None = None,
        mode: Mode | None = None,
        *,
        request: HttpRequest | None = None,
        audience: bool = False,
        exclude: "Exclude" = None,
        transient: bool = False,
        key: str | None = None,
        compress: bool = True,
    ) -> None:
        """Render a template and send it as elements(). All connections get the same, whatever `request` may show.

        With `audience=True` it is rendered where the streams are, once for each value of their views' audience(), which
        is `audience` in the context. Its other values then have a JSON form or are saved model instances, which are
        loaded again there.
        """
        if audience:
            payload = pack_template(template_name, context, selector, mode)
            self._sender.send(channel, payload, audience_facts(payload, request, exclude, transient, key, compress))
            return
        html = render_observed(str(template_name), render_to_string, template_name, dict(context or {}), request)
        self.elements(channel, html, selector, mode, exclude=exclude, transient=transient, key=key, compress=compress)

    async def atemplate(
        self,
        channel: "Channels",
        template_name: str | Sequence[str],
        context: Mapping[str, Any] | None = None,
        selector: str | None = None,
        mode: Mode | None = None,
        *,
        request: HttpRequest | None = None,
        audience: bool = False,
        exclude: "Exclude" = None,
        transient: bool = False,
        key: str | None = None,
        compress: bool = True,
    ) -> None:
        """See template(); renders in a thread, where templates may use the ORM."""
        if audience:
            payload = pack_template(template_name, context, selector, mode)
            facts = audience_facts(payload, request, exclude, transient, key, compress)
            await self._sender.asend(channel, payload, facts)
            return
        render = partial(render_observed, str(template_name), render_to_string, template_name, dict(context or {}))
        html = await sync_to_async(render)(request)
        await self.aelements(
            channel, html, selector, mode, exclude=exclude, transient=transient, key=key, compress=compress
        )

    @has_async_twin
    def script(
        self,
        channel: "Channels",
        javascript: str,
        *,
        auto_remove: bool = True,
        attributes: Mapping[str, str] | None = None,
        exclude: "Exclude" = None,
        compress: bool = True,
    ) -> None:
        """Run JavaScript in every page on the channel.

        `attributes` are those of its script element, which `auto_remove` removes again. Under a
        Content-Security-Policy the page needs `{% datastar_nonce %}`.
        """
        payload = encode_script(javascript, auto_remove=auto_remove, attributes=attributes)
        self._sender.send(channel, payload, facts_of(payload, exclude, compress=compress))

    async def ascript(
        self,
        channel: "Channels",
        javascript: str,
        *,
        auto_remove: bool = True,
        attributes: Mapping[str, str] | None = None,
        exclude: "Exclude" = None,
        compress: bool = True,
    ) -> None:
        """See script()."""
        payload = encode_script(javascript, auto_remove=auto_remove, attributes=attributes)
        await self._sender.asend(channel, payload, facts_of(payload, exclude, compress=compress))

    @has_async_twin
    def redirect(
        self, channel: "Channels", url: "str | Promise", *, exclude: "Exclude" = None, compress: bool = True
    ) -> None:
        """Have every page on the channel go to a URL: a path of the site or an http(s) address."""
        payload = encode_redirect(url)
        self._sender.send(channel, payload, facts_of(payload, exclude, compress=compress))

    async def aredirect(
        self, channel: "Channels", url: "str | Promise", *, exclude: "Exclude" = None, compress: bool = True
    ) -> None:
        """See redirect()."""
        payload = encode_redirect(url)
        await self._sender.asend(channel, payload, facts_of(payload, exclude, compress=compress))

    @has_async_twin
    def dispatch(
        self,
        channel: "Channels",
        event_name: str,
        detail: Any = None,
        selector: str | None = None,
        *,
        exclude: "Exclude" = None,
        transient: bool = False,
        key: str | None = None,
        compress: bool = True,
    ) -> None:
        """Dispatch a CustomEvent on the document, or on each element of a selector; the `detail` has a JSON form."""
        payload = encode_dispatch(event_name, detail, selector)
        self._sender.send(channel, payload, facts_of(payload, exclude, transient, key, compress))

    async def adispatch(
        self,
        channel: "Channels",
        event_name: str,
        detail: Any = None,
        selector: str | None = None,
        *,
        exclude: "Exclude" = None,
        transient: bool = False,
        key: str | None = None,
        compress: bool = True,
    ) -> None:
        """See dispatch()."""
        payload = encode_dispatch(event_name, detail, selector)
        await self._sender.asend(channel, payload, facts_of(payload, exclude, transient, key, compress))

    @has_async_twin
    def refresh(self, channel: "Channels", *, exclude: "Exclude" = None) -> None:
        """Have each page on the channel show what its view renders now, for its own viewer.

        Streams whose view has render_snapshot(), or that have a `snapshot_callback`, get that; others get nothing.
        """
        self._sender.send(channel, REFRESH, refresh_facts(exclude))

    async def arefresh(self, channel: "Channels", *, exclude: "Exclude" = None) -> None:
        """See refresh()."""
        await self._sender.asend(channel, REFRESH, refresh_facts(exclude))
