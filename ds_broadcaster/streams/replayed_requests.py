"""Re-checks: whether a stream that was granted once would be granted now.

The only way to know, whatever a project's authentication is made of, is to ask: the request that opened the stream runs
through Django once more, middleware and all, and its view decides again. The answer goes nowhere.
"""

import asyncio
import contextlib
import logging
import sys
from contextvars import Context, ContextVar
from http.client import HTTPException
from typing import Any, NamedTuple, Protocol

from django.db.utils import InterfaceError, OperationalError

from ..hub.connections import Connection
from ..hub.grant import StreamGrant
from ..hub.refreshes import Rendered
from ..observers import observers
from .handoff import Application, Message
from .requests import is_authenticated
from .scope import RECHECK_KEY, REFRESH_KEY, SCOPE_KEY, find_mark

logger = logging.getLogger("ds_broadcaster")

# Errors that say nothing about permission: a database, a broker or another service is away.
TROUBLE = (OperationalError, InterfaceError, OSError, TimeoutError, MemoryError, HTTPException)
# The same of libraries that need not be installed, by package and name; the errors of requests are OSErrors.
TROUBLE_OF_OTHERS = {
    ("redis", "RedisError"),
    ("django_redis", "ConnectionInterrupted"),
    ("httpx", "HTTPError"),
    ("urllib3", "HTTPError"),
    ("aiohttp", "ClientError"),
}

UNKNOWN = object()

_is_in_recheck: ContextVar[bool] = ContextVar("ds_broadcaster.is_in_recheck", default=False)


class OriginalRequest(NamedTuple):
    """The request that was granted a stream, and the ASGI application that answered it.

    `context` is that of a test, whose transaction is seen from its own thread alone. Others have none: it would keep
    the first request alive.
    """

    application: Application
    scope: Message
    context: Context | None = None


class KeptRequest(Protocol):
    """What replay() needs of a request. See OriginalRequest."""

    @property
    def application(self) -> Application: ...

    @property
    def scope(self) -> Message: ...

    @property
    def context(self) -> Context | None: ...


class Failure(NamedTuple):
    """What a view raised in a re-check, and for which user (UNKNOWN where even that could not be found out)."""

    error: BaseException | None
    user_id: Any


class Answer(NamedTuple):
    """The status of a replayed request's response, the stream that it grants, and what went wrong."""

    status: int
    grant: StreamGrant | None = None
    failure: Failure | None = None


def is_trouble(error: BaseException | None) -> bool:
    """Tell whether an error says nothing about permission."""
    if isinstance(error, PermissionError):  # Of a file, or meant for PermissionDenied.
        return False
    names = {(each.__module__.partition(".")[0], each.__name__) for each in type(error).__mro__}
    return isinstance(error, TROUBLE) or not names.isdisjoint(TROUBLE_OF_OTHERS)


async def still_allowed(connection: Connection) -> bool | None:
    """Tell whether a connection's request would be granted its stream now; None where the answer says nothing."""
    return (await _ask(connection))[0]


async def render_own(connection: Connection, refreshed: frozenset[str]) -> Rendered:
    """Return what a connection's page shows now, for its own viewer, who is asked about by the way."""
    allowed, grant = await _ask(connection, {REFRESH_KEY: refreshed})
    return Rendered(None if grant is None else grant.snapshot, allowed is not False)


async def _ask(connection: Connection, marks: Message | None = None) -> tuple[bool | None, StreamGrant | None]:
    request: KeptRequest | None = connection.request
    if request is None:
        return None, None
    scope = request.scope
    path = scope["path"]
    if scope["method"] != "GET":
        return False, None  # Asking would do again what the request did.
    try:
        answer = await replay(request, marks)
    except Exception as error:
        if connection.is_open:
            logger.warning("The re-check of %r failed: the stream stays.", path, exc_info=error)
        return None, None
    grant = answer.grant
    if grant is None:
        if _says_nothing(connection, path, answer):
            return None, None
        return _refused(path, f"it was answered with {answer.status}")
    if grant.user_id != connection.user_id:
        return _refused(path, "it is the stream of another user now")
    if set(grant.channels) != {channel.name for channel in connection.channels}:
        return _refused(path, "its channels are others now")
    connection.see_as(grant.audience)
    return True, grant


def _refused(path: str, why: str) -> tuple[bool, None]:
    for each in observers:
        each.recheck_refused(path, why)
    return False, None


def _says_nothing(connection: Connection, path: str, answer: Answer) -> bool:
    """Tell whether an answer that grants nothing is no refusal either."""
    if answer.status < 500 and answer.status != 429:
        return False
    failure = answer.failure
    if failure is not None:
        # A view that fails for an anonymous user, or for a room that is gone, would grant the stream to no one who
        # asked now. A database that is away says nothing about that.
        if failure.user_id is not UNKNOWN and failure.user_id != connection.user_id:
            return False
        if not is_trouble(failure.error):
            logger.warning("The re-check of %r failed, so the stream ends.", path, exc_info=failure.error)
            return False
    logger.warning("The re-check of %r was answered with %d: the stream stays.", path, answer.status)
    return True


def is_in_recheck() -> bool:
    """Tell whether the current code runs for a re-check, in whatever thread."""
    return _is_in_recheck.get()


def note_failure(sender: Any = None, request: Any = None, **kwargs: Any) -> None:
    """Remember what went wrong in a re-check, and for which user; receives Django's got_request_exception."""
    note = getattr(request, "scope", {}).get(RECHECK_KEY)
    if note is not None:
        user_id: Any = UNKNOWN
        with contextlib.suppress(Exception):
            user: Any = getattr(request, "user", None)
            user_id = user.pk if is_authenticated(user) else None
        note.append(Failure(sys.exception(), user_id))


async def replay(request: KeptRequest, marks: Message | None = None) -> Answer:
    """Run a request again, with `marks` in its scope, and return its answer."""
    granted: dict[str, Any] = {}
    failures: list[Failure] = []
    status = 500
    mark: str | None = None
    is_asked = False
    enough = asyncio.Event()

    async def receive() -> Message:
        nonlocal is_asked
        if is_asked:
            await enough.wait()  # Django waits for the client to leave.
            return {"type": "http.disconnect"}
        is_asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status, mark
        if message["type"] == "http.response.start":
            status = message["status"]
            mark = find_mark(message)
        elif message.get("more_body"):
            enough.set()  # Another answer, which may be without an end, and without a pause.
            await asyncio.sleep(0)

    # In the context of this task alone, and of the threads that its view waits for.
    _is_in_recheck.set(True)
    scope = {**request.scope, SCOPE_KEY: granted, RECHECK_KEY: failures, **(marks or {})}
    if request.context is None:
        await request.application(scope, receive, send)
    else:
        context = request.context.copy()
        context.run(_is_in_recheck.set, True)

        async def ask() -> None:
            await request.application(scope, receive, send)

        await asyncio.get_running_loop().create_task(ask(), context=context)
    stream = granted.get(mark) if mark is not None else None
    return Answer(status, stream.grant if stream is not None else None, failures[0] if failures else None)
