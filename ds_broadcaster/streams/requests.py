"""Who gets what: the arguments of connect() and disconnect(), and where a granted stream begins."""

import logging
import re
from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation, ValidationError
from django.http import HttpRequest, HttpResponse

from ..brokers import Position
from ..exceptions import BrokerUnavailable
from ..hub.channel import AttendanceHook, PresenceCallback
from ..hub.grant import StreamGrant
from ..ids import channel_names
from ..sse import Fragment, encode_fragment
from .scope import RECHECK_KEY
from .tabs import tab_of

logger = logging.getLogger("ds_broadcaster")

SnapshotCallback = Callable[[HttpRequest, str], Fragment]

# The query parameter that carries broadcast.cursor() from a rendered page to its stream.
CURSOR_PARAMETER = "cursor"
# And the one that carries the id of the element that opens the stream.
ELEMENT_PARAMETER = "element"
# Where the middleware keeps, on a request, the id of the moment at which it came in.
CURSOR_ATTRIBUTE = "_ds_broadcaster_cursor"

_ELEMENT_ID = re.compile(r"[A-Za-z][0-9A-Za-z_-]{0,63}", re.ASCII)


def check_asgi(request: HttpRequest) -> None:
    """Raise ImproperlyConfigured for a request that no stream can answer."""
    if not hasattr(request, "scope"):
        raise ImproperlyConfigured(
            "broadcast.connect() needs an ASGI server: this request came through WSGI. "
            "Run for example `uvicorn yourproject.asgi:application`."
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
    presence_callback: PresenceCallback | None,
    snapshot_callback: SnapshotCallback | None,
) -> tuple[str, ...]:
    """Return the names of the channels; raises for what connect() cannot work with."""
    check_asgi(request)
    check_callback("presence_callback", presence_callback)
    check_callback("snapshot_callback", snapshot_callback)
    return channel_names(channel)


def last_id_of(request: HttpRequest) -> str | None:
    """Return the id that the client brings: of the last event it saw, or of the moment its page was rendered."""
    return request.headers.get("last-event-id") or request.GET.get(CURSOR_PARAMETER) or None


def grant_of(
    channels: tuple[str, ...],
    position: Position,
    request: HttpRequest,
    user_id: Any,
    *,
    presence_callback: PresenceCallback | None = None,
    attendance_hook: AttendanceHook | None = None,
    recheck_interval: float | None = None,
) -> StreamGrant:
    """Return what is granted to a client at this position."""
    element = request.GET.get(ELEMENT_PARAMETER, "")
    if is_recheck(request) and hasattr(request, "session"):
        # Nobody came: a session that expires without visits must not be kept alive by its own stream.
        request.session.save = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return StreamGrant(
        channels,
        user_id,
        position.epoch,
        position.cursor,
        position.granted,
        position.gaps,
        presence_callback=presence_callback,
        attendance_hook=attendance_hook,
        tab=tab_of(request),
        element=element if _ELEMENT_ID.fullmatch(element) else None,
        recheck_interval=recheck_interval,
    )


def is_recheck(request: HttpRequest) -> bool:
    """Tell whether this request only asks whether it would still be granted its stream."""
    return RECHECK_KEY in request.scope  # type: ignore[attr-defined]


def snapshot_of(callback: SnapshotCallback, request: HttpRequest, grant: StreamGrant) -> bytes:
    """Render what stands for the missing events, for each channel that misses some."""
    return b"".join(encode_fragment(callback(request, name)) for name in grant.channels if name in grant.gaps)


def user_id_of(request: HttpRequest) -> Any:
    """Return the primary key of the request's user, None for somebody anonymous."""
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
    return user.pk if user is not None and user.is_authenticated else None


def user_pk(user_id: Any) -> Any:
    """Return a user id in the type of the user model's primary key; a user stands for its own."""
    value = getattr(user_id, "pk", user_id)
    model = get_user_model()
    try:
        pk = model._meta.pk.to_python(value)
    except ValidationError:
        pk = None
    if pk is None:
        raise ValueError(f"user_id must be a primary key of {model.__name__}, got {user_id!r}.")
    return pk


def come_back() -> HttpResponse:
    """Return the answer of a server that is about to stop."""
    return HttpResponse("The server is about to stop.", status=503, headers={"Connection": "close", "Retry-After": "1"})


def broker_is_away(channels: tuple[str, ...], error: BrokerUnavailable) -> HttpResponse:
    """Return the answer of a server that cannot open streams for a while."""
    logger.warning("A stream of %s could not be granted: %s", ", ".join(channels), error)
    return HttpResponse("Streams cannot be opened now.", status=503, headers={"Retry-After": "1"})
