"""The tab that a request comes from, so that a change need not go back to the page that made it.

The element that opens a stream gives its page an id, in a signal, and the Datastar client sends the signals with every
request. A form with contentType 'form' carries the id in a hidden field of the same name.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

from django.http import HttpRequest, QueryDict
from django.urls import NoReverseMatch, reverse

from ..compaction import REFRESH, replaces_of
from ..conf import Settings, get_settings
from ..ids import plain, single_line
from ..sse import Facts, check_size

# The name of the signal, and of the form field, for a tab's id.
TAB = "broadcastTab"

# Characters. The key of a transient event names what moves, such as "cursor-7".
MAX_KEY_LENGTH = 200
# The URL at which a page tells that it closes.
CLOSED_URL_NAME = "ds_broadcaster:tab-closed"

_ID = re.compile(r"[0-9A-Za-z_-]{8,64}", re.ASCII)
_KEPT = "_ds_broadcaster_tab"

_request: ContextVar[HttpRequest | None] = ContextVar("ds_broadcaster.request", default=None)


@contextmanager
def serving(request: HttpRequest) -> Iterator[None]:
    """Make `request` the current one, also in the threads that its view waits for."""
    token = _request.set(request)
    if "HTTP_DATASTAR_REQUEST" in request.META:
        tab_of(request)  # A view that reads the body as a stream, such as one of REST framework, leaves nothing of it.
    try:
        yield
    finally:
        _request.reset(token)


def current_tab() -> str | None:
    """Return the tab of the current request; None outside of requests, and without the middleware."""
    request = _request.get()
    return None if request is None else tab_of(request)


def tab_of(request: HttpRequest) -> str | None:
    """Return the id of the tab that sent a request, None for a request without one."""
    kept: str | None
    if hasattr(request, _KEPT):
        kept = getattr(request, _KEPT)
    else:
        kept = _read(request)
        if kept is not None or not _is_unread_upload(request):
            setattr(request, _KEPT, kept)
    return kept


def closed_url(current_app: str | None = None) -> str | None:
    """Return where a page tells that it closes; None where it cannot, and no user is away."""
    if not get_settings().presence_away:
        return None
    try:
        return reverse(CLOSED_URL_NAME, current_app=current_app)
    except NoReverseMatch:  # The project's urls do not include ours.
        return None


def hub_settings() -> Settings:
    """Return the settings for a hub: no user is away where no page can tell that it closes."""
    settings = get_settings()
    return settings if closed_url() is not None else settings.model_copy(update={"presence_away": 0.0})


def excluded(exclude: HttpRequest | str | None) -> str | None:
    """Return the id of the tab that `exclude` means: the tab of a request, or an id.

    Raises TypeError for other types, and ValueError for a string that is no id.
    """
    if exclude is None:
        return None
    # The request of Django REST framework wraps Django's.
    request = getattr(exclude, "_request", exclude)
    if isinstance(request, HttpRequest):
        return tab_of(request) or (_parsed_tab(exclude) if request is not exclude else None)
    if not isinstance(exclude, str):
        raise TypeError(f"exclude must be a request or a tab's id, not {type(exclude).__name__} ({exclude!r}).")
    tab = plain(exclude)
    if not _ID.fullmatch(tab):
        raise ValueError(f"exclude must be a tab's id: 8 to 64 letters, digits, - and _, got {tab!r}.")
    return tab


def facts_of(
    payload: bytes,
    exclude: HttpRequest | str | None,
    transient: bool = False,
    key: str | None = None,
    compress: bool = True,
) -> Facts:
    """Return what brokers carry beside an event; raises EventTooLarge, and for `exclude` what excluded() does.

    Raises ValueError and TypeError for a key that is no short text, or of an event that is not transient.
    """
    check_size(payload, get_settings().max_event_bytes)
    tab = excluded(exclude)
    if key is not None:
        key = single_line("key", key)
        if not transient:
            raise ValueError(f"key={key!r} is for transient events: write transient=True beside it.")
        if not 0 < len(key) <= MAX_KEY_LENGTH:
            raise ValueError(f"key must have 1 to {MAX_KEY_LENGTH} characters, got {len(key)}.")
    if transient:
        return Facts(exclude=tab, is_transient=True, key=key, is_uncompressed=not compress)
    replaces = replaces_of(payload)
    if not compress:
        return Facts(exclude=tab, replaces=replaces, is_uncompressed=True)
    return _replacing(replaces) if tab is None else Facts(exclude=tab, replaces=replaces)


# Many events have the same facts.
@lru_cache(maxsize=1024)
def _replacing(replaces: str | None) -> Facts:
    return Facts(replaces=replaces)


def audience_facts(
    payload: bytes,
    request: HttpRequest | None = None,
    exclude: HttpRequest | str | None = None,
    transient: bool = False,
    key: str | None = None,
    compress: bool = True,
) -> Facts:
    """Return the facts of a template for each audience; raises what facts_of() does.

    Raises ValueError for a request, which is one viewer's, and for a transient event.
    """
    if request is not None:
        raise ValueError("audience=True renders without a request, which is one viewer's: leave request out.")
    if transient or key is not None:
        raise ValueError("A template for audiences cannot be transient: render it, and send it with elements().")
    return facts_of(payload, exclude, compress=compress)._replace(replaces=None, is_refresh=True, is_audience=True)


def refresh_facts(exclude: HttpRequest | str | None) -> Facts:
    """Return the facts of a refresh; raises what excluded() does."""
    return Facts(exclude=excluded(exclude), replaces=REFRESH, is_refresh=True)


def _read(request: HttpRequest) -> str | None:
    tab = None
    try:
        if "datastar" in request.GET:
            tab = _signal(request.GET["datastar"])
        elif request.content_type == "application/json":
            tab = _signal(request.body)
        elif hasattr(request, "_post") or (request.method == "POST" and not _is_unread_upload(request)):
            tab = request.POST.get(TAB)
        elif request.content_type == "application/x-www-form-urlencoded":  # Django parses those of POST alone.
            tab = QueryDict(request.body).get(TAB)
    except Exception:
        # The view has read the body as a stream, or it is too large, or malformed: the view sees the same error when it
        # reads the body.
        return None
    return _valid(tab)


def _parsed_tab(request: Any) -> str | None:
    """Return the tab's id among what REST framework has parsed, which may leave nothing in the body."""
    try:
        return _valid(_named(request.data))
    except Exception:
        return None


def _valid(tab: Any) -> str | None:
    return tab if isinstance(tab, str) and _ID.fullmatch(tab) else None


def _is_unread_upload(request: HttpRequest) -> bool:
    """Tell whether reading the fields would consume an upload before the view can choose its own way to read it."""
    return request.content_type == "multipart/form-data" and not hasattr(request, "_post")


def _signal(text: str | bytes) -> Any:
    return _named(json.loads(text))


def _named(signals: Any) -> Any:
    return signals.get(TAB) if isinstance(signals, dict) else None
