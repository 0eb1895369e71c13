"""Frames: what goes over the wire, as bytes, encoded once for all clients.

datastar-py's generator writes the events. Our deviations from it, none of them to be undone without reading:

- single-line fields are checked for line breaks, which would forge further events: the generator does not;
- text is split at CR, LF and CRLF only: the generator uses str.splitlines(), which would also swallow form feeds and
  the Unicode line separators;
- a script cannot end its own element: the generator lets `</script>` and quotes through;
- the `id:` line comes first, so that a frame can be cut to its id for a tab that does not get the event;
- a frame may be an id alone, which moves the client's cursor on: that is the heartbeat. Pages do not see it, so to our
  element it goes as the shortest event that the client tells a page of: one without data, of a type that it ignores.
"""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeVar

from datastar_py.consts import ElementPatchMode, ElementPatchNamespace
from datastar_py.sse import ServerSentEventGenerator
from django.core.serializers.json import DjangoJSONEncoder
from django.utils.encoding import iri_to_uri
from django.utils.functional import Promise
from django.utils.html import format_html_join
from pydantic import BaseModel

from .exceptions import EventTooLarge
from .ids import plain, single_line

# What a presence or snapshot callback may return: HTML, signals, or both.
Fragment = str | Mapping[str, Any] | BaseModel | tuple[str | None, Mapping[str, Any] | BaseModel] | None

E = TypeVar("E", ElementPatchMode, ElementPatchNamespace)

# Its overloads allow only the combinations that make sense; others are refused here, with a reason.
_generator: Any = ServerSentEventGenerator

# Ends the ids that a client gets while it waits for a refresh: if it returns with one, it has missed that.
OWING = "~"

# The payload of a refresh: nothing.
REFRESH = b"\n"

Mode = Literal["outer", "inner", "replace", "prepend", "append", "before", "after", "remove"]
Namespace = Literal["html", "svg", "mathml"]

# Milliseconds: the longest that a browser's setTimeout() takes, 24 days.
NEVER = 2**31 - 1

_TAG = re.compile(r"<[a-z/!][^>]*>", re.IGNORECASE)
_LINE_END = re.compile(r"\r\n|\r|\n")
# The client throws PatchElementsExpectedSelector for the other modes when there is no selector.
_MODES_WITHOUT_SELECTOR = {ElementPatchMode.OUTER, ElementPatchMode.REPLACE}
# What would end a script element, let it go on after its end, or make the client take it for a whole document. An
# escape in place of the last character is the same in a JavaScript string, template or regular expression, and in JSON.
_NOT_IN_SCRIPTS = re.compile(r"<(?:/(?=script|html|head|body)|!--)", re.IGNORECASE)
# Options of a patch of exactly these types are equal only if they are the same.
_KEPT_TYPES = frozenset({str, type(None), bool})
_ATTRIBUTE_NAME = re.compile(r"[^\s\0\"'<>/=]+")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)

# The client runs this in its own way, whatever the page's Content-Security-Policy, and after it has set up what came
# in earlier events: those elements hear the event.
_DISPATCH = (
    "el.remove();const {name,detail,selector}=JSON.parse(el.text);"
    "for(const each of selector?document.querySelectorAll(selector):[document])"
    "each.dispatchEvent(new CustomEvent(name,{bubbles:true,detail}))"
)


class Facts(NamedTuple):
    """What is known of an event beside its bytes. Brokers carry it; clients never see it.

    `exclude` is the id of the tab that does not get the event. One that `is_transient` reaches the clients that are
    connected, and is in no history; a newer one of the same `key` takes its place for slow clients. What an event
    `replaces` names what it says the whole of: an earlier event of the history with the same name is superfluous. See
    compaction.py.

    An event that `is_refresh` has no content of its own: clients whose view can render a snapshot get one in its place.
    With `is_audience` its payload is a template for each audience, which is never sent as it is. What `is_uncompressed`
    is sent as it is to all clients, and nothing is compressed with a reference to it.
    """

    exclude: str | None = None
    is_transient: bool = False
    key: str | None = None
    replaces: str | None = None
    is_refresh: bool = False
    is_audience: bool = False
    is_uncompressed: bool = False


# The facts of most events: there is nothing to say of them.
PLAIN = Facts()


class Frame(NamedTuple):
    """An event in its place: bytes that begin with its id, unless it is transient, and its facts."""

    data: bytes
    facts: Facts = PLAIN


class _Lines(str):
    """Text that splits where an SSE parser does."""

    __slots__ = ()

    def splitlines(self, keepends: bool = False) -> list[str]:
        lines = _LINE_END.split(self)
        if not lines[-1]:  # As str.splitlines() does: a final line end begins no further line.
            lines.pop()
        return lines

    def __html__(self) -> "_Lines":
        # The generator looks for this method, and takes much longer to find that there is none.
        return self


def encode_elements(
    html: object,
    selector: str | None = None,
    mode: str | None = None,
    *,
    namespace: str | None = None,
    use_view_transition: bool = False,
    view_transition_selector: str | None = None,
) -> bytes:
    """Encode a patch of the DOM.

    Raises TypeError when `html` is neither a string nor an object with __html__(), and ValueError for an unknown
    mode or namespace, a mode that needs a selector, a selector of a transition without one, and line breaks in
    single-line fields.
    """
    if hasattr(html, "__html__"):
        html = html.__html__()
    if not isinstance(html, str):
        raise TypeError(f"html must be a string or have __html__(), not {type(html).__name__} ({html!r}).")
    html = plain(html)
    options = selector, mode, namespace, view_transition_selector, use_view_transition
    if not html or not _KEPT_TYPES.issuperset(map(type, options)):
        return _patch(html, *options).encode("utf-8", "replace")
    if "\n" in html or "\r" in html:
        html = "\ndata: elements ".join(_Lines(html).splitlines())
    return f"{_head(*options)}{html}\n\n".encode("utf-8", "replace")


@lru_cache(maxsize=256)
def _head(*options: Any) -> str:
    """Return what the generator writes before the HTML: many patches have the same options."""
    return _patch("x", *options).removesuffix("x\n\n")


def _patch(
    html: str,
    selector: str | None,
    mode: str | None,
    namespace: str | None,
    view_transition_selector: str | None,
    use_view_transition: bool,
) -> str:
    patch_mode = _choice("mode", mode, ElementPatchMode)
    patch_namespace = _choice("namespace", namespace, ElementPatchNamespace)
    selector = _selector("selector", selector)
    view_transition_selector = _selector("view_transition_selector", view_transition_selector)
    if view_transition_selector is not None and not use_view_transition:
        raise ValueError("view_transition_selector needs use_view_transition=True: clients ignore it without.")
    if selector is None and patch_mode and patch_mode not in _MODES_WITHOUT_SELECTOR:
        raise ValueError(f'mode "{patch_mode}" needs a selector that says where, for example selector="#messages".')
    event: str = _generator.patch_elements(
        _Lines(html) if html else None,
        selector=selector,
        mode=patch_mode,
        namespace=patch_namespace,
        use_view_transition=True if use_view_transition else None,
        view_transition_selector=view_transition_selector,
    )
    return event


def encode_remove(selector: str) -> bytes:
    """Encode the removal of every element that `selector` matches; ValueError without a selector."""
    if not selector:
        raise ValueError('remove needs a selector that says what, for example "#message-7".')
    return encode_elements("", selector, "remove")


def encode_signals(signals: Mapping[str, Any] | BaseModel, *, only_if_missing: bool = False) -> bytes:
    """Encode a patch of the signals, a dict or a pydantic model, with Django's JSON encoder.

    Raises TypeError for anything else and for values that have no JSON form, ValueError for NaN and infinities.
    """
    signals = _dumped(signals)
    if not isinstance(signals, Mapping):
        raise TypeError(f"signals must be a dict or a pydantic model, not {type(signals).__name__} ({signals!r}).")
    text = _json("signals", dict(signals))
    return str(_generator.patch_signals(text, only_if_missing=True if only_if_missing else None)).encode()


def encode_script(javascript: str, *, auto_remove: bool = True, attributes: Mapping[str, str] | None = None) -> bytes:
    """Encode a script that each page runs, with `attributes` of its element; `auto_remove` then removes it.

    `</script`, `</body` and `<!--` are sent with an escape that is the same in strings, templates and regular
    expressions. Raises TypeError for what is no string, and ValueError for NUL and names that no attribute can have.
    """
    if not isinstance(javascript, str):
        raise TypeError(f"javascript must be a string, not {type(javascript).__name__} ({javascript!r}).")
    javascript = plain(javascript)
    if "\0" in javascript:
        raise ValueError(r"javascript must not hold NUL: write \u0000 inside of a string.")
    every = {"data-effect": "el.remove()"} if auto_remove else {}
    every.update(attributes or {})
    for name in every:
        if not _ATTRIBUTE_NAME.fullmatch(name):
            raise ValueError(f'attributes must have names that HTML allows, such as "type", got {name!r}.')
    javascript = _NOT_IN_SCRIPTS.sub(_with_last_escaped, javascript)
    tag = format_html_join("", ' {}="{}"', every.items())
    return encode_elements(f"<script{tag}>{javascript}</script>", "body", "append")


def encode_redirect(url: "str | Promise") -> bytes:
    """Encode a script that takes each page to a URL: a path, or an address with http or https.

    Raises TypeError for what is no string, lazy ones aside, and ValueError for an empty URL and other schemes.
    """
    if not isinstance(url, (str, Promise)):
        raise TypeError(f"url must be a string, such as reverse(...) gives it, not {type(url).__name__} ({url!r}).")
    address = str(url) if isinstance(url, Promise) else plain(url)
    # Browsers take such characters out before they look for the scheme.
    scheme = _SCHEME.match(re.sub(r"[\x00-\x20]", "", address))
    if not address.strip() or (scheme and scheme[1].lower() not in ("http", "https")):
        raise ValueError(f'url must be a path such as "/rooms/", or begin with http:// or https://, got {address!r}.')
    address = iri_to_uri(address.strip()).replace("'", r"\'")
    # In a timer, as all SDKs do it: Firefox would replace the page's entry in the history.
    return encode_script(f"setTimeout(() => window.location = '{address}')")


def encode_dispatch(event_name: str, detail: Any = None, selector: str | None = None) -> bytes:
    """Encode a CustomEvent that bubbles: on each element that the selector matches, or else on the document.

    `detail` is anything that Django's JSON encoder takes, or a pydantic model. Raises as encode_signals() does, and
    ValueError for an empty name or selector.
    """
    if not isinstance(event_name, str):
        raise TypeError(f"event_name must be a string, not {type(event_name).__name__} ({event_name!r}).")
    if not event_name.strip():
        raise ValueError('event_name must not be empty: write a name such as "order-paid".')
    told = {"name": event_name, "detail": _dumped(detail), "selector": _selector("selector", selector)}
    text = _json("detail", told)
    return encode_script(text, auto_remove=False, attributes={"type": "application/json", "data-init": _DISPATCH})


def split_fragment(fragment: Any, source: str) -> tuple[str | None, Mapping[str, Any] | BaseModel | None]:
    """Return the HTML and the signals in what a callback or a hook returned.

    Raises TypeError with the name of the `source` for what is neither.
    """
    html, signals = fragment if isinstance(fragment, tuple) and len(fragment) == 2 else (fragment, None)
    if isinstance(html, (Mapping, BaseModel)) and html is fragment:
        html, signals = None, html
    elif hasattr(html, "__html__"):
        html = str(html.__html__())
    if (html is None or isinstance(html, str)) and (signals is None or isinstance(signals, (Mapping, BaseModel))):
        return html, signals
    found = type(fragment).__name__
    if isinstance(fragment, tuple):
        found += f" ({', '.join(type(each).__name__ for each in fragment)})"
    raise TypeError(f"{source} must return HTML, a dict of signals, a tuple of both, or None, not {found}.")


def encode_fragment(fragment: object) -> bytes:
    """Encode what a callback returned, an empty event for None. Raises TypeError as split_fragment() does."""
    html, signals = split_fragment(fragment, "The callback")
    elements = encode_elements(html) if html is not None else b""
    return elements + (encode_signals(signals) if signals is not None else b"")


def check_order(channel: object, html: object) -> None:
    """Raise ValueError for a channel and HTML in each other's place."""
    if not (isinstance(channel, str) and "<" in channel and _TAG.search(channel)):
        return
    # A channel may have such a name, if what is sent to it is HTML.
    is_html = "<" in html if isinstance(html, str) else hasattr(html, "__html__")
    if not is_html:
        raise ValueError(
            f"The channel comes first, as in broadcast(channel, html): {channel!r} is no channel, and {html!r} no HTML."
        )


def encode_patch(
    channel: object,
    html: str,
    selector: str | None,
    mode: Mode | None,
    namespace: Namespace | None,
    use_view_transition: bool,
    view_transition_selector: str | None,
) -> bytes:
    """See encode_elements(). Raises ValueError for a channel and HTML in each other's place."""
    check_order(channel, html)
    return encode_elements(
        html,
        selector,
        mode,
        namespace=namespace,
        use_view_transition=use_view_transition,
        view_transition_selector=view_transition_selector,
    )


def check_size(payload: bytes, limit: int) -> bytes:
    """Return the payload, or raise EventTooLarge."""
    if len(payload) > limit:
        raise EventTooLarge(len(payload), limit)
    return payload


def data_for(frame: Frame, tab: str | None) -> bytes:
    """Return what a tab gets of a frame: all of it, or the id alone, which a transient event does not have."""
    if not (is_left_out(frame, tab) or frame.facts.is_audience):
        return frame.data
    if frame.facts.is_transient:
        return b""
    return frame.data[: frame.data.index(b"\n") + 1] + b"\n"


def is_left_out(frame: Frame, tab: str | None) -> bool:
    """Tell whether a tab does not get a frame."""
    return tab is not None and frame.facts.exclude == tab


def live_frame(heartbeat: float) -> bytes:
    """Return the frame that tells an element that its stream is open, and the seconds between heartbeats.

    The client ignores the second line of data, and hands it to the page.
    """
    return b"%bdata: heartbeat %g\n\n" % (_LIVE.removesuffix(b"\n"), heartbeat)


def farewell(element: str | None) -> bytes:
    """Return the last frames of a stream that is closed for good: one that says so replaces its element, which would
    return.

    The huge retry comes first: a busy client may see the end before it applies the last events. The replacement has
    to be the last event: clients ignore what comes for an element that is gone (1.0.2 and newer).
    """
    if element is None:
        return b""
    closed = f'<div id="{element}" hidden data-broadcast="closed"></div>'
    return retry_frame(NEVER) + encode_elements(closed, mode="replace")


def make_frame(event_id: str, payload: bytes, facts: Facts = PLAIN) -> Frame:
    """Return the frame of an encoded event: its id comes first, unless it is transient."""
    if facts.is_transient:
        return Frame(payload, facts)
    return Frame(b"id: %b\n%b" % (event_id.encode(), payload), facts)


def with_id(frames: bytes, event_id: str | None) -> bytes:
    """Return frames that move the client's cursor on once it has all of them."""
    if event_id is None:
        return frames
    if frames.count(b"\n\n") == 1:
        return b"id: %b\n%b" % (event_id.encode(), frames)
    return frames + id_frame(event_id)


def without_id(data: bytes) -> bytes:
    """Return a frame that leaves the client's cursor where it is; nothing for one that only moves it."""
    rest = data[data.index(b"\n") + 1 :] if data.startswith(b"id: ") else data
    return b"" if rest == b"\n" else rest


def owing(data: bytes) -> bytes:
    """Return a frame whose id says that a refresh before it is still to be shown."""
    if not data.startswith(b"id: "):
        return data
    end = data.index(b"\n")
    return data[:end] + OWING.encode() + data[end:]


def id_frame(event_id: str) -> bytes:
    """Return a frame that only moves the client's cursor on: the heartbeat."""
    return b"id: %b\n\n" % event_id.encode()


def visible_heartbeat(event_id: str | None) -> bytes:
    """Return the heartbeat for an element; without an id, it does not move the cursor."""
    return (b"" if event_id is None else b"id: %b\n" % event_id.encode()) + b"event: datastar\n\n"


def hello_frame(event_id: str, retry: int, *, gap: bool) -> bytes:
    """Return what opens a stream: its cursor, and the client's base retry interval in milliseconds.

    A comment tells of a gap, for people who read the network tab.
    """
    return b"%bretry: %d\nid: %b\n\n" % (b": gap\n" if gap else b"", retry, event_id.encode())


def retry_frame(retry: int) -> bytes:
    """Return a frame that only sets the client's base retry interval, in milliseconds."""
    return b"retry: %d\n\n" % retry


def _selector(argument: str, value: str | None) -> str | None:
    if value is None:
        return None
    text = single_line(argument, value)
    if not text.strip():
        raise ValueError(f'{argument} must not be empty: write a CSS selector such as "#messages".')
    return text


def _with_last_escaped(found: re.Match[str]) -> str:
    return f"{found[0][:-1]}\\u{ord(found[0][-1]):04x}"


def _choice(argument: str, value: str | None, kind: type[E]) -> E | None:
    if value is None:
        return None
    try:
        return kind(single_line(argument, value))
    except ValueError as error:
        allowed = ", ".join(f'"{each}"' for each in kind)
        raise ValueError(f"{argument} must be one of {allowed}, got {value!r}.") from error


def _dumped(value: Any) -> Any:
    return value.model_dump(mode="json", by_alias=True) if isinstance(value, BaseModel) else value


def _json(argument: str, value: Any) -> str:
    try:
        return json.dumps(value, cls=DjangoJSONEncoder, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{argument} must have a JSON form: {error}") from error


_LIVE = encode_signals({"_broadcast": "live"})
