"""A page of a test: what a person sees in a browser, without one."""

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit
from uuid import uuid4

from django.conf import settings

from ..streams.tabs import TAB
from ..views.connect_element import REFRESH_HEADER, csrf_header
from ..views.subscription import REFRESH_SIGNAL
from .dom import Document, Element, sent_signals
from .events import Event, Parser, redirect_of
from .hidden import __tracebackhide__, __unittest  # noqa: F401
from .stream import HEADERS, Stream, closed, is_ours, is_stream, refusal_of
from .visitor import Visitor, text_of

# What a browser says when it goes to a page.
_BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
_MOST_REDIRECTS = 10
# The worst of a page's elements is the state of the page.
_WORST_FIRST = ("closed", "lost", "connecting", "live")
_STREAM_URL = re.compile(r"@get\('([^']*)'")
# Elements that open streams: those of the tags, and others.
_OPENERS = "[data-broadcast], [data-init]"
_BEACON_URL = re.compile(r"sendBeacon\('([^']*)'")
_ESCAPED = re.compile(r"\\u([0-9a-f]{4})")


class LivePage:
    """A page of the site, in a tab of its own, with the streams that its elements open.

    It changes as in a browser with the Datastar client, in settle() and by what is posted: see dom.Document for what
    `signals`, `scripts` and `warnings` are. `url` is where the page is, `response` is Django's answer for it, and
    `redirect` the URL to which a script or an answer has sent the page since then: follow() goes there.

    What it does not do: no JavaScript is run but expressions that only look at signals, and a stream that ended comes
    back in settle(), whatever time has passed.
    """

    def __init__(self, visitor: Visitor, url: str) -> None:
        self.user = visitor.user
        self._visitor = visitor
        self._stage = visitor.stage
        self._reason: str | None = None
        self._load(url)

    # What there is to see.

    def select(self, css: str) -> list[Element]:
        """Return the elements that a CSS selector matches, in the order of the page."""
        return self._document.select(css)

    def select_one(self, css: str) -> Element | None:
        """Return the first element that a CSS selector matches, or None."""
        return self._document.select_one(css)

    @property
    def html(self) -> str:
        """The whole page, as a browser writes it."""
        return self._document.html

    @property
    def title(self) -> str:
        """The page's title, "" without one."""
        return self._document.title

    @property
    def signals(self) -> dict[str, Any]:
        """The signals. What is changed here is sent with what the page sends next."""
        return self._document.signals

    @property
    def scripts(self) -> list[str]:
        """The scripts that came: recorded, and not run."""
        return self._document.scripts

    @property
    def warnings(self) -> list[str]:
        """What the client would have complained about, such as a patch for an element that is not there."""
        return self._document.warnings

    @property
    def state(self) -> str:
        """The state of the page's streams: "connecting", "live", "lost" or "closed", as `$_broadcast` has it.

        A page that opens its streams by hand, with `data-init="@get(...)"`, is live while one of them is open.
        """
        is_open = any(not stream.has_ended for stream in self._streams.values())
        state: str = self.signals.get("_broadcast", "live" if is_open else "closed")
        return state

    @property
    def reason(self) -> str | None:
        """Why the page is not live: what the last stream that it lost or did not get was answered with."""
        if self.state == "live":
            return None
        return (
            self._reason
            if self._streams or self.select("[data-broadcast]")
            else "no element of the page opens a stream"
        )

    # What happens to it.

    def settle(self) -> None:
        """Apply every event that is on its way; streams that ended come back, and a page that has to fetches itself."""
        self._stage.call(self._settle)

    def post(
        self,
        url: str,
        data: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        payload: Any = None,
    ) -> Any:
        """Send a form as the page does: with its cookies, its CSRF token and the id of its tab. Return the response.

        Without data, the signals are sent, as `@post(url)` does; `payload` is sent in their place, as JSON, as by
        `@post(url, {payload: ...})`. An answer for the client (events, HTML, JSON, a script) is applied. A redirect is
        not followed: see follow().
        """
        return self._stage.call(self._send, "POST", url, data, headers, payload)

    def get(self, url: str, headers: Mapping[str, str] | None = None) -> Any:
        """Ask for a URL as `@get(url)` does, with the signals; apply the answer, and return the response."""
        return self._stage.call(self._send, "GET", url, None, headers)

    def follow(self) -> None:
        """Go to where a redirect has sent the page. AssertionError where none came."""
        if self.redirect is None:
            raise AssertionError(f"Nothing sends {self.url} elsewhere.")
        self._stage.call(self._follow, self.redirect)

    def hide(self) -> None:
        """Put the tab into the background: its streams end, and their user is away after a while."""
        self._stage.call(self._hide)

    def show(self) -> None:
        """Bring the tab back: its streams go on from where they were."""
        self._stage.call(self._show)

    def close(self) -> None:
        """Close the tab: the page tells the site, and its streams end."""
        self._stage.call(self._close)

    # Async twins.

    async def asettle(self) -> None:
        """See settle()."""
        await self._stage.acall(self.settle)

    async def apost(
        self,
        url: str,
        data: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        payload: Any = None,
    ) -> Any:
        """See post()."""
        return await self._stage.acall(self.post, url, data, headers, payload=payload)

    async def aget(self, url: str, headers: Mapping[str, str] | None = None) -> Any:
        """See get()."""
        return await self._stage.acall(self.get, url, headers)

    async def afollow(self) -> None:
        """See follow()."""
        await self._stage.acall(self.follow)

    async def ahide(self) -> None:
        """See hide()."""
        await self._stage.acall(self.hide)

    async def ashow(self) -> None:
        """See show()."""
        await self._stage.acall(self.show)

    async def aclose(self) -> None:
        """See close()."""
        await self._stage.acall(self.close)

    def __repr__(self) -> str:
        why = "" if self.reason is None else f", {self.reason}"
        return f"<LivePage {self.url} of {self.user or 'an anonymous visitor'}: {self.state}{why}>"

    # Pages.

    def _load(self, url: str) -> None:
        asked = url
        response = self._visitor.get(url, _BROWSER)
        for _ in range(_MOST_REDIRECTS):
            if not _is_redirect(response):
                break
            url = self._in_site(urljoin(url, response.headers["Location"]))
            response = self._visitor.get(url, _BROWSER)
        if response.status_code != 200 or "text/html" not in response.headers.get("Content-Type", ""):
            raise AssertionError(f"{asked} is no page: {url} answered with {refusal_of(self._stage, response)}.")
        self.url = url
        self.response = response
        self.redirect: str | None = None
        self._document = Document(text_of(self._visitor, response))
        self._streams: dict[Element, _PageStream] = {}
        self._must_refresh = False
        self._is_hidden = False
        self._settle()

    def _follow(self, url: str) -> None:
        self._close()
        self._load(self._in_site(url))

    def _in_site(self, url: str) -> str:
        """Return the path of a URL; AssertionError for that of another site."""
        parts = urlsplit(url)
        if parts.netloc and parts.hostname != "testserver":
            raise AssertionError(f"That is another site: {url}")
        return parts._replace(scheme="", netloc="", fragment="").geturl()

    # Streams.

    def _settle(self) -> None:
        came_back: set[Element] = set()
        is_moving = True
        while is_moving:
            is_moving = self._open() if not self._is_hidden else False
            self._stage.settle()
            for element, stream in list(self._streams.items()):
                is_moving |= self._take(element, stream)
                if stream.has_ended and element in self._streams:
                    if not stream.is_told:
                        stream.is_told = True
                        self._tell(element, "lost")
                        self._reason = stream.reason
                    comes_back = _is_ours(element) or not stream.is_final
                    if comes_back and not self._is_hidden and element not in came_back:
                        came_back.add(element)
                        self._connect(element)
                        is_moving = True
            if self._must_refresh:
                self._must_refresh = False
                self._refresh()
                is_moving = True

    def _open(self) -> bool:
        """Open the streams of new elements, and leave those of elements that are gone."""
        elements = self._document.select(_OPENERS)
        for gone in [each for each in self._streams if each not in elements]:
            self._streams.pop(gone).leave()
        # A script of the project may open others.
        openers = [each for each in elements if _STREAM_URL.search(each.attrs.get("data-init", ""))]
        new = [each for each in openers if each not in self._streams]
        for element in new:
            if _is_ours(element):
                begin = {TAB: str(uuid4()), "_broadcast": "connecting"}
                self._document.patch_signals({name: self.signals.get(name) or value for name, value in begin.items()})
            self._connect(element)
        return bool(new)

    def _connect(self, element: Element) -> None:
        """Open the stream of an element, or open it again from where it ended."""
        found = _STREAM_URL.search(element.attrs.get("data-init", ""))
        if found is None:  # A patch took it away.
            return
        before = self._streams.get(element)
        cursor = "" if before is None else before.cursor
        headers = {**HEADERS, **({"Last-Event-ID": cursor} if cursor else {})}
        url = _unescaped(found[1])
        name = f"the page {self.url} of {self.user or 'an anonymous visitor'}, with the stream of {urlsplit(url).path}"
        stream = Stream(self._visitor, self._with_signals(url), headers, name)
        self._streams[element] = _PageStream(stream, cursor)
        if stream.status == 200:
            if not is_stream(stream.response):
                self._streams[element].is_told = True
                self._answer(stream.response)
            return
        self._reason = stream.reason
        if stream.status == 429 or stream.status >= 500:
            self._tell(element, "lost")
        else:
            # The client gives it up.
            self._tell(element, "closed")
            if _is_ours(element):
                self._document.set_attribute(element, "data-init", None)
                del self._streams[element]

    def _take(self, element: Element, stream: "_PageStream") -> bool:
        """Apply what came on a stream, as long as its element is in the page; tell whether something came."""
        events = stream.new_events()
        for event in events:
            self._apply(event)
            self._tell(element, "live")
            if element not in self._document.select(_OPENERS):
                self._streams.pop(element, None)
                stream.leave()
                break
        return bool(events)

    def _tell(self, element: Element, state: str) -> None:
        """Show the state of an element of ours, and the worst one of all as that of the page."""
        if not _is_ours(element):
            return
        self._document.set_attribute(element, "data-broadcast", state)
        states = {each.attrs["data-broadcast"] for each in self._document.select("[data-broadcast]")}
        worst = next((each for each in _WORST_FIRST if each in states), "closed")
        self._document.patch_signals({"_broadcast": worst})

    def _hide(self) -> None:
        self._settle()
        self._is_hidden = True
        for stream in self._streams.values():
            stream.leave()

    def _show(self) -> None:
        if self._is_hidden:
            self._is_hidden = False
            for element, stream in list(self._streams.items()):
                if not stream.has_ended:
                    self._connect(element)
        self._settle()

    def _close(self) -> None:
        element = self._document.select_one("[data-broadcast]")
        found = None if element is None else _BEACON_URL.search(element.attrs.get("data-on:pagehide__window", ""))
        if found is not None and self._streams:
            body = urlencode({TAB: self.signals.get(TAB, "")})
            self._visitor.request("POST", _unescaped(found[1]), body, content_type="application/x-www-form-urlencoded")
        self._is_hidden = True
        for stream in self._streams.values():
            stream.leave()
        self._streams.clear()

    # Events and answers.

    def _apply(self, event: Event) -> None:
        if event.verb == "signals":
            self._document.patch_signals(event.signals, event.only_if_missing)
            self._must_refresh |= REFRESH_SIGNAL in event.signals and bool(self.select("[data-broadcast-refresh]"))
        elif event.mode is not None:
            self._patch(event.html, event.selector, event.mode, event.namespace)

    def _patch(self, html: str, selector: str | None = None, mode: str = "outer", namespace: str = "html") -> None:
        before = len(self.scripts)
        self._document.patch(html, selector, mode, namespace)
        for script in self.scripts[before:]:
            self._redirect_to(redirect_of(script))

    def _redirect_to(self, url: str | None) -> None:
        if url is not None:
            self.redirect = urljoin(self.url, url)

    def _refresh(self) -> None:
        """Fetch the page itself, and morph what its elements say: selectors, or "" for the whole page."""
        response = self._visitor.get(self.url, {REFRESH_HEADER: "true", "Accept": "text/html"})
        if response.status_code != 200:
            return
        text = text_of(self._visitor, response)
        parts = [each.attrs["data-broadcast-refresh"] for each in self.select("[data-broadcast-refresh]")]
        if "" in parts:
            html = f"{re.sub('</html>', '', text, flags=re.IGNORECASE)}</head></body>"
        else:
            html = "".join(each.html for each in Document(text).select(",".join(parts)))
        if html:
            self._patch(html)

    def _send(
        self,
        method: str,
        url: str,
        data: Mapping[str, Any] | None,
        headers: Mapping[str, str] | None,
        payload: Any = None,
    ) -> Any:
        url = self._in_site(urljoin(self.url, url))
        every = {**HEADERS, **(headers or {})}
        body: Any = None
        content_type = None
        if method == "GET":
            url = self._with_signals(url)
        else:
            every = {**self._headers_of_forms(), **every}
            if data is None:
                said = sent_signals(self.signals) if payload is None else payload
                body, content_type = json.dumps(said), "application/json"
            else:
                body = {**data, **({TAB: self.signals[TAB]} if TAB in self.signals else {})}
                if not any(hasattr(each, "read") for each in body.values()):
                    body, content_type = urlencode(body, doseq=True), "application/x-www-form-urlencoded"
        response = self._visitor.request(method, url, body, every, content_type)
        self._answer(response)
        return response

    def _with_signals(self, url: str) -> str:
        text = json.dumps(sent_signals(self.signals), separators=(",", ":"))
        return f"{url}{'&' if '?' in url else '?'}{urlencode({'datastar': text})}"

    def _headers_of_forms(self) -> dict[str, str]:
        origin = f"{'https' if settings.SECURE_SSL_REDIRECT else 'http'}://testserver"
        token = self._csrf_token()
        return {"Origin": origin, "Referer": origin + self.url, **({csrf_header(): token} if token else {})}

    def _csrf_token(self) -> str:
        """Return the token of a form of the page, of a signal, of `{% datastar_headers %}`, or of the cookie."""
        field = self.select_one("input[name=csrfmiddlewaretoken]")
        cookie = self._visitor.client.cookies.get(settings.CSRF_COOKIE_NAME)
        header = re.search(rf"'{re.escape(csrf_header())}': *'([^']+)'", self.html)
        tokens = [
            field.attrs.get("value") if field is not None else None,
            *(value for name, value in self.signals.items() if "csrf" in name.lower()),
            header[1] if header is not None else None,
            cookie.value if cookie is not None else None,
        ]
        return next((each for each in tokens if isinstance(each, str) and each), "")

    def _answer(self, response: Any) -> None:
        """Apply an answer as the client does."""
        if _is_redirect(response):
            self._redirect_to(response.headers["Location"])
        kind = response.headers.get("Content-Type", "")
        if response.status_code != 200:
            return
        if "text/html" in kind:
            named = {name: response.headers.get(f"Datastar-{name}") for name in ("Selector", "Mode", "Namespace")}
            text = text_of(self._visitor, response)
            self._patch(text, named["Selector"], named["Mode"] or "outer", named["Namespace"] or "html")
        elif "application/json" in kind:
            only_if_missing = response.headers.get("Datastar-Only-If-Missing") == "true"
            self._document.patch_signals(text_of(self._visitor, response), only_if_missing)
        elif "text/javascript" in kind:
            script = text_of(self._visitor, response)
            self.scripts.append(script)
            self._redirect_to(redirect_of(script))
        elif is_ours(response):
            self._visitor.stage.run(closed(response))
            raise AssertionError(
                f"{response.asgi_request.path} answered with a stream, which has no end: write "
                "{% broadcast_connect %} in the page, or open it with open_stream()."
            )
        elif "text/event-stream" in kind:
            for event in Parser().feed(text_of(self._visitor, response).encode()):
                self._apply(event)


def _is_ours(element: Element) -> bool:
    """Tell whether an element is one of `{% broadcast_connect %}`, and not written by hand."""
    return "data-broadcast" in element.attrs


class _PageStream:
    """The stream of an element, and how far the page has got in it. `before` is the cursor with which it opened.

    The page sets `is_told` when it has shown that the stream ended.
    """

    def __init__(self, stream: Stream, before: str) -> None:
        self._stream = stream
        self._before = before
        self._taken = 0
        self._is_left = False
        self.is_told = False

    @property
    def cursor(self) -> str:
        return self._stream.cursor or self._before

    @property
    def reason(self) -> str | None:
        return self._stream.reason

    @property
    def is_final(self) -> bool:
        """Whether a client that knows nothing of ds_broadcaster does not come back."""
        return self._stream.is_final

    @property
    def has_ended(self) -> bool:
        """Whether the stream ended by itself."""
        return self._stream.reason is not None and not self._is_left

    def new_events(self) -> list[Event]:
        new = self._stream.events[self._taken :]
        self._taken += len(new)
        return new

    def leave(self) -> None:
        self._is_left = self._stream.reason is None
        self._stream.close()


def _is_redirect(response: Any) -> bool:
    return 300 <= response.status_code < 400 and "Location" in response.headers


def _unescaped(url: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), url)
