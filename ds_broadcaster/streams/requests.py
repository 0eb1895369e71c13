"""What a request for a stream says: its client, its user, where the stream begins; and the arguments of connect()."""

import logging
import re
import time
from collections.abc import Callable, Sequence
from contextvars import Context
from functools import lru_cache
from inspect import iscoroutinefunction
from typing import Any, NamedTuple

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation, ValidationError
from django.http import HttpRequest
from django.utils.module_loading import import_string

from ..brokers import Position
from ..conf import get_settings
from ..hub.channel import AttendanceHook, PresenceCallback
from ..hub.grant import Arrival, Audience, StreamGrant
from ..ids import channel_names
from ..observers import name_of, render_observed
from ..present import checked_meta
from ..sse import OWING, Fragment, encode_fragment
from .scope import RECHECK_KEY, REFRESH_KEY
from .tabs import tab_of

logger = logging.getLogger("ds_broadcaster")

SnapshotCallback = Callable[[HttpRequest, str], Fragment]
PresenceMeta = dict[str, Any] | Callable[[HttpRequest], dict[str, Any] | None]


class StreamOptions(NamedTuple):
    """What a view gives with the stream that it opens; see Broadcaster.connect() and BroadcastChannelView."""

    presence_callback: PresenceCallback | None = None
    snapshot_callback: SnapshotCallback | None = None
    attendance_hook: AttendanceHook | None = None
    recheck_interval: float | None = None
    audience: Audience | None = None
    presence_meta: PresenceMeta | None = None
    compress: bool = True


# The query parameter that carries broadcast.cursor() from a rendered page to its stream.
CURSOR_PARAMETER = "cursor"
# The query parameter that carries the id of the element that opens the stream.
ELEMENT_PARAMETER = "element"
# The attribute of a request in which the middleware keeps the id of the moment at which it came in.
CURSOR_ATTRIBUTE = "_ds_broadcaster_cursor"
# The most that a stream keeps of its request: path, query and headers, in bytes. A browser sends one or two thousand.
REQUEST_BYTES = 32_768
# A header costs its bytes and about this much for the objects around it.
HEADER_OVERHEAD = 150
LOGIN_MIDDLEWARE = "django.contrib.auth.middleware.LoginRequiredMiddleware"

_GZIP = re.compile(r"(?:^|,)\s*gzip\s*(?:;\s*q=([01](?:\.\d*)?)\s*)?(?=,|$)", re.ASCII | re.IGNORECASE)
_ELEMENT_ID = re.compile(r"[A-Za-z][0-9A-Za-z_-]{0,63}", re.ASCII)

# The arguments.


def check_asgi(request: HttpRequest) -> None:
    """Raise ImproperlyConfigured for a request that no stream can answer."""
    if not hasattr(request, "scope"):
        raise ImproperlyConfigured(
            "broadcast.connect() needs an ASGI server: this request came through WSGI. "
            'Put "ds_broadcaster.contrib.runserver" first in INSTALLED_APPS and run `manage.py runserver`, or run '
            "`uvicorn yourproject.asgi:application`."
        )


def check_callback(argument: str, callback: Any) -> None:
    """Raise TypeError for anything but a plain function or None."""
    if callback is None:
        return
    if not callable(callback):
        raise TypeError(f"{argument} must be a function, not {type(callback).__name__} ({callback!r}).")
    if iscoroutinefunction(callback) or iscoroutinefunction(getattr(callback, "__call__", None)):  # noqa: B004
        raise TypeError(f"{argument} must be a plain function: write `def`, not `async def`. It may use the ORM.")


def checked_channels(
    channel: Any,
    request: HttpRequest,
    options: StreamOptions,
) -> tuple[str, ...]:
    """Return the names of the channels; raise TypeError or ValueError for arguments that connect() cannot use."""
    check_asgi(request)
    check_callback("presence_callback", options.presence_callback)
    check_callback("snapshot_callback", options.snapshot_callback)
    if not isinstance(options.presence_meta, dict):
        check_callback("presence_meta", options.presence_meta)
    names = channel_names(channel)
    most = get_settings().max_channels_per_stream
    if len(names) > most:
        raise ValueError(
            f"A stream carries at most {most} channels, got {len(names)}: send what belongs together to one channel, "
            "or set DS_BROADCASTER_MAX_CHANNELS_PER_STREAM."
        )
    return names


# The stream.


def last_id_of(request: HttpRequest) -> str | None:
    """Return the id that the client brings: of the last event it saw, or of the moment its page was rendered."""
    return _given_id(request).removesuffix(OWING) or None


def _given_id(request: HttpRequest) -> str:
    # Not request.headers, which are made of all of META when they are first asked for.
    return request.META.get("HTTP_LAST_EVENT_ID") or request.GET.get(CURSOR_PARAMETER) or ""


def element_of(request: HttpRequest) -> str | None:
    """Return the id of the element that opens the stream, None for another client."""
    element = request.GET.get(ELEMENT_PARAMETER, "")
    return element if _ELEMENT_ID.fullmatch(element) else None


def takes_gzip(request: HttpRequest) -> bool:
    """Tell whether the client names gzip among the encodings that it takes."""
    found = _GZIP.search(request.META.get("HTTP_ACCEPT_ENCODING", ""))
    return found is not None and float(found[1] or 1) > 0


def is_too_large(request: HttpRequest) -> bool:
    """Tell whether a request is more than a stream keeps of it, to be asked again."""
    scope = request.scope  # type: ignore[attr-defined]
    size = len(scope["path"]) + len(scope["query_string"])
    return size + sum(len(name) + len(value) + HEADER_OVERHEAD for name, value in scope["headers"]) > REQUEST_BYTES


def grant_of(
    channels: tuple[str, ...],
    position: Position,
    request: HttpRequest,
    user_id: Any,
    arrival: Arrival,
    granted_at: float,
    options: StreamOptions,
) -> StreamGrant:
    """Return the grant of a stream that begins at this position."""
    if is_recheck(request) and hasattr(request, "session"):
        # A re-check is no visit: it must not prolong a session that expires without visits.
        request.session.save = lambda *args, **kwargs: None  # type: ignore[method-assign]
    can_refresh = options.snapshot_callback is not None
    is_owing = _given_id(request).endswith(OWING)
    return StreamGrant(
        channels,
        user_id,
        position.epoch,
        position.cursor,
        position.granted,
        arrival,
        granted_at,
        position.gaps,
        # A missed refresh is a gap on purpose, where there is something to show in its place.
        (frozenset(channels) if is_owing else position.refreshed) - position.gaps if can_refresh else frozenset(),
        presence_callback=options.presence_callback,
        attendance_hook=options.attendance_hook,
        tab=tab_of(request),
        element=element_of(request),
        recheck_interval=options.recheck_interval,
        can_refresh=can_refresh,
        audience=options.audience,
        is_compressed=options.compress and get_settings().compression and takes_gzip(request),
    )


def with_snapshot(grant: StreamGrant, request: HttpRequest, options: StreamOptions) -> StreamGrant:
    """Return the grant with what its page shows now, for each channel with a gap, or with a refresh in a re-check."""
    refreshed: frozenset[str] | None = request.scope.get(REFRESH_KEY)  # type: ignore[attr-defined]
    if refreshed is None:
        channels = frozenset() if is_recheck(request) else grant.gaps | grant.refreshed
        return grant._replace(snapshot=_snapshot(grant, request, options, channels))
    try:
        return grant._replace(snapshot=_snapshot(grant, request, options, refreshed))
    except Exception:
        name = getattr(request.resolver_match, "_func_path", request.path)
        logger.exception("The refresh of %s failed for user %r: the stream goes on without.", name, grant.user_id)
        return grant


def _snapshot(grant: StreamGrant, request: HttpRequest, options: StreamOptions, channels: frozenset[str]) -> bytes:
    callback, audience = options.snapshot_callback, options.audience
    if callback is None or not channels:
        return b""
    if audience is not None and audience.render is not None:
        # In an empty context: nothing of this viewer is for the others.
        return render_observed(name_of(audience.render), Context().run, audience.render)
    return b"".join(
        encode_fragment(render_observed(name_of(callback), callback, request, name))
        for name in grant.channels
        if name in channels
    )


def with_meta(grant: StreamGrant, request: HttpRequest, options: StreamOptions) -> StreamGrant:
    """Return the grant with what the stream says about itself in presence.

    Raises TypeError or ValueError for what is no metadata.
    """
    said = options.presence_meta
    if said is None or is_recheck(request):
        return grant
    source = "presence_meta"
    if callable(said):
        source = f"{getattr(said, '__qualname__', source)}()"
        said = said(request)
    meta = checked_meta(said, source)
    return grant if meta is None else grant._replace(meta=(time.time(), meta))


# The client.


def is_recheck(request: HttpRequest) -> bool:
    """Tell whether a request only asks whether its stream would still be granted."""
    return RECHECK_KEY in getattr(request, "scope", ())


def is_returning(request: HttpRequest) -> bool:
    """Tell whether a client comes back for a stream that it had; a re-check asks in the name of such a client."""
    return "HTTP_LAST_EVENT_ID" in request.META or is_recheck(request)


def is_from_datastar(request: HttpRequest) -> bool:
    """Tell whether a request is a stream client's, which has no use for a page."""
    return "HTTP_DATASTAR_REQUEST" in request.META or is_returning(request)


# The user.


def is_authenticated(user: Any) -> bool:
    """Tell whether a user is logged in; without the authentication middleware the user is None."""
    return user is not None and bool(user.is_authenticated)


def is_logged_in(request: HttpRequest) -> bool:
    """Tell whether the user of a request is logged in."""
    return is_authenticated(getattr(request, "user", None))


def login_is_required() -> bool:
    """Tell whether the project requires a login for every view without login_not_required()."""
    return _has_login_middleware(tuple(settings.MIDDLEWARE))


@lru_cache(maxsize=8)
def _has_login_middleware(names: Sequence[str]) -> bool:
    # By its name: to import it needs django.contrib.auth among the apps, and a project may have no users.
    bases = (base for name in names for base in getattr(import_string(name), "__mro__", ()))
    return any(f"{base.__module__}.{base.__name__}" == LOGIN_MIDDLEWARE for base in bases)


def user_id_of(request: HttpRequest) -> Any:
    """Return the primary key of the request's user, None for an anonymous one."""
    try:
        return _pk_of(getattr(request, "user", None))
    except SynchronousOnlyOperation as error:
        raise RuntimeError(
            "broadcast.connect() has to load request.user, which an async view must not wait for: "
            "write `await broadcast.aconnect(...)`."
        ) from error


async def auser_id_of(request: HttpRequest) -> Any:
    """See user_id_of()."""
    auser = getattr(request, "auser", None)
    return _pk_of(await auser() if auser is not None else getattr(request, "user", None))


def _pk_of(user: Any) -> Any:
    return user.pk if is_authenticated(user) else None


def user_pk(user_id: Any) -> Any:
    """Return a user id in the type of the user model's primary key; a user stands for its own.

    Raises ValueError for what is no key, and TypeError for an instance of another model: its key is another user's.
    """
    value = getattr(user_id, "pk", user_id)
    model = get_user_model()
    if hasattr(user_id, "_meta") and not isinstance(user_id, model):
        raise TypeError(
            f"user_id must be a {model.__name__} or its primary key, not the {type(user_id).__name__} {user_id!r}: "
            f"write for example user_id={type(user_id).__name__.lower()}.user_id."
        )
    try:
        pk = model._meta.pk.to_python(value)
    except ValidationError:
        pk = None
    if pk is None:
        raise ValueError(f"user_id must be a primary key of {model.__name__}, got {user_id!r}.")
    return pk
