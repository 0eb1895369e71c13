"""A panel of django-debug-toolbar: the streams that a page opens, what its request broadcast, and what that rendered.

    DEBUG_TOOLBAR_PANELS = [..., "ds_broadcaster.contrib.debug_toolbar.BroadcasterPanel"]

Nothing is noted where the toolbar does not show.
"""

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from inspect import getmodule, unwrap
from time import perf_counter
from typing import Any
from urllib.parse import unquote, urlsplit

from debug_toolbar.panels import Panel
from django.contrib.auth.mixins import AccessMixin
from django.db import connections
from django.http import HttpRequest, HttpResponse, QueryDict
from django.urls import get_script_prefix, resolve

from ..ids import channel_names
from ..observers import Observer, observers
from ..sse import Facts
from ..views.channel_view import BroadcastChannelView

# Rows of a table, and characters in one of their cells. The toolbar keeps the panels of the last 25 requests.
MAX_ROWS, MAX_TEXT, MAX_URL = 200, 500, 60

MIXINS = AccessMixin.__module__


class BroadcasterPanel(Panel):
    """Shows what ds_broadcaster did for one request: streams, broadcasts and renders."""

    is_async = True
    title = nav_title = "Broadcasts"
    template = "ds_broadcaster/debug_toolbar.html"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._notes = Notes()

    @property
    def nav_subtitle(self) -> str:
        stats = self.get_stats()
        counts = {name: stats.get(f"{name}_count", 0) for name in ("stream", "broadcast", "render")}
        return ", ".join(f"{count} {name}{'s' if count > 1 else ''}" for name, count in counts.items() if count)

    def enable_instrumentation(self) -> None:
        _notes.set(self._notes)
        if observer not in observers:
            observers.append(observer)

    def disable_instrumentation(self) -> None:
        _notes.set(None)

    def generate_stats(self, request: HttpRequest, response: HttpResponse) -> None:
        notes = self._notes
        repeated = Counter(sql for _, _, queries in notes.renders for sql in queries)
        self.record_stats(
            {
                "stream_count": len(notes.streams),
                "broadcast_count": notes.sent_count,
                "render_count": len(notes.renders),
                "render_time": 1000 * sum(seconds for _, seconds, _ in notes.renders),
                "streams": [_stream(request, *each) for each in notes.streams[:MAX_ROWS]],
                "broadcasts": notes.events,
                "renders": [
                    {
                        "what": what,
                        "time": 1000 * seconds,
                        "count": len(queries),
                        "queries": [
                            {"sql": _cut(sql), "count": count, "repeated": repeated[sql]}
                            for sql, count in Counter(queries).items()
                        ],
                    }
                    for what, seconds, queries in notes.renders[:MAX_ROWS]
                ],
            }
        )


class Notes(Observer):
    """What is shown of one request."""

    def __init__(self) -> None:
        # The URL, the channels, and who may listen.
        self.streams: list[tuple[str, Sequence[str] | None, str | None]] = []
        self.sent_count = 0
        self.events: list[dict[str, Any]] = []
        # What was rendered, the seconds that it took, and the SQL that it ran, without its parameters.
        self.renders: list[tuple[str, float, list[str]]] = []

    def sent(self, channel: str, payload: bytes, facts: Facts) -> None:
        self.sent_count += 1
        if len(self.events) < MAX_ROWS:
            self.events.append({"channel": channel, "size": len(payload), **_event(payload, facts)})

    @contextmanager
    def rendering(self, name: str) -> Iterator[None]:
        queries: list[str] = []

        def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            queries.append(sql)
            return execute(sql, params, many, context)

        with ExitStack() as stack:
            for connection in connections.all():
                stack.enter_context(connection.execute_wrapper(note))
            begin = perf_counter()
            try:
                yield
            finally:
                self.renders.append((name, perf_counter() - begin, queries))

    def opens(self, url: str, channels: Sequence[str] | None, user: Any) -> None:
        who = None
        if channels is not None:
            who = f"{user} (user {user.pk})" if user.is_authenticated else "visitors who are not logged in"
        self.streams.append((url, channels, who))


# The notes of the request that runs in this context, and in the threads and tasks that it began.
_notes: ContextVar[Notes | None] = ContextVar("ds_broadcaster.notes", default=None)


class _ContextObserver(Observer):
    """Passes what it is told to the notes of the request that it belongs to. There is one: it stays."""

    def sent(self, channel: str, payload: bytes, facts: Facts) -> None:
        if (notes := _notes.get()) is not None:
            notes.sent(channel, payload, facts)

    @contextmanager
    def rendering(self, name: str) -> Iterator[None]:
        notes = _notes.get()
        with nullcontext() if notes is None else notes.rendering(name):
            yield

    def opens(self, url: str, channels: Sequence[str] | None, user: Any) -> None:
        if (notes := _notes.get()) is not None:
            notes.opens(url, channels, user)


observer = _ContextObserver()


# Events


def _event(payload: bytes, facts: Facts) -> dict[str, Any]:
    """Return the cells of an event: its verb, what it says, and whom it is for."""
    if facts.is_audience:
        cells = {"verb": "template", "text": "rendered for each audience, where its streams are"}
    elif facts.is_refresh:
        cells = {"verb": "refresh", "text": ""}
    else:
        cells = _patch(payload)
    told = [
        "transient" if facts.is_transient else "",
        f"key {facts.key}" if facts.key else "",
        f"not to tab {facts.exclude}" if facts.exclude else "",
    ]
    return cells | {"facts": ", ".join(filter(None, told))}


def _patch(payload: bytes) -> dict[str, Any]:
    fields: dict[str, list[str]] = {}
    # The first event alone: a list with a limit has another one behind, that removes.
    for line in payload.split(b"\n\n", 1)[0].decode().split("\n"):
        name, _, value = line.removeprefix("data: ").partition(" ")
        fields.setdefault(name, []).append(value)
    mode, selector = (fields.get(name, [""])[0] for name in ("mode", "selector"))
    if "signals" in fields:
        return {"verb": "signals", "text": _cut("\n".join(fields["signals"]))}
    html = "\n".join(fields.get("elements", ()))
    if mode == "append" and selector == "body" and html.startswith("<script"):
        return {"verb": "script", "text": _cut(html)}
    if mode == "remove":
        return {"verb": "remove", "selector": selector, "text": ""}
    return {"verb": "elements", "mode": mode or "outer", "selector": selector, "text": _cut(html)}


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}... ({len(text)} characters)"


# Streams


def _stream(request: HttpRequest, url: str, channels: Sequence[str] | None, who: str | None) -> dict[str, Any]:
    """Return the cells of a stream; its view is asked for what is not known, without the stream's own request."""
    parts = urlsplit(url)
    path = "/" + unquote(parts.path).removeprefix(get_script_prefix())
    # The rest is a token.
    shown = url if len(url) <= MAX_URL else f"{url[:MAX_URL]}..."
    cells = {"url": shown, "view": "", "channels": "", "who": who or "those whom the view lets in"}
    if channels is not None:
        return cells | {"view": "{% broadcast_subscribe %}", "channels": ", ".join(channels)}
    try:
        match = resolve(path, getattr(request, "urlconf", None))
        view = getattr(match.func, "view_class", match.func)
        cells["view"] = f"{view.__module__}.{view.__qualname__}"
        if isinstance(view, type) and issubclass(view, BroadcastChannelView):
            cells["who"] = _who_may_listen(view)
            of_stream: Any = copy.copy(request)
            of_stream.method, of_stream.path, of_stream.path_info = "GET", parts.path, path
            of_stream.GET, of_stream.resolver_match = QueryDict(parts.query), match
            instance = view(**getattr(match.func, "view_initkwargs", {}))
            instance.setup(of_stream, *match.args, **match.kwargs)
            cells["channels"] = ", ".join(channel_names(instance.channel_name()))
        else:
            cells["channels"] = "those that the view connects"
    except Exception as error:
        # The project's code, in a request that it does not expect.
        cells["channels"] = f"not known before the stream opens: {_cut(repr(error))}"
    return cells


def _who_may_listen(view: type[BroadcastChannelView]) -> str:
    function = unwrap(view.has_permission)
    if function is BroadcastChannelView.has_permission:
        decides = "every user who is logged in"
    else:
        module = getattr(getmodule(function), "__name__", "?")
        line = function.__code__.co_firstlineno
        decides = f"those for whom {function.__qualname__}() is true ({module}, line {line})"
    mixins = [each.__name__ for each in view.__mro__ if each.__module__ == MIXINS and each is not AccessMixin]
    return decides + (f", after {', '.join(mixins)}" if mixins else "")
