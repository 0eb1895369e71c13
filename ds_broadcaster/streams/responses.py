"""The response that opens a stream, the stream itself in plain mode, and the answers that refuse one."""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from contextvars import copy_context
from functools import cache
from typing import Any, TypeVar
from urllib.parse import quote

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.db import connections
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse

from ..asgi_servers import find_transport
from ..exceptions import BrokerUnavailable, Gap
from ..hub.grant import StreamGrant
from ..hub.hub import Hub
from ..hub.hubs import Hubs
from ..hub.limits import PROCESS, USER
from ..ids import listed
from .handoff import Message, Receive, Send
from .plain import PlainConnection, StreamCut
from .replayed_requests import OriginalRequest
from .requests import ELEMENT_PARAMETER, REQUEST_BYTES, element_of, is_recheck, is_returning, is_too_large
from .scope import HANDOFF_HEADER, is_of_test_client
from .tabs import tab_of

logger = logging.getLogger("ds_broadcaster")

HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-store",
    "X-Accel-Buffering": "no",  # nginx
    "Vary": "Accept-Encoding",
}
# There always is one, so that no middleware compresses: GZipMiddleware would hold events back.
GZIP, IDENTITY = "gzip", "identity"


async def release_connections() -> None:
    """Give back the database connections of the view's thread: a stream does not need them."""
    await sync_to_async(_close_connections)()


class Stream:
    """A granted stream that has not started: nothing of it counts before it does."""

    __slots__ = ("get_hub", "grant", "scope")

    def __init__(self, get_hub: Callable[[], Hub], grant: StreamGrant, scope: Any) -> None:
        self.get_hub = get_hub
        self.grant = grant
        self.scope = scope

    async def body(
        self,
        *,
        release: Callable[[], Awaitable[None]] = release_connections,
        transport: asyncio.Transport | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """Yield the stream, in plain mode. `transport` is found where it is not given."""
        await release()
        is_test = is_of_test_client(self.scope)
        transport = transport or find_transport(self.scope)
        connection = PlainConnection(self.grant.user_id, transport, owns_task=not is_test)
        connection.request = (
            OriginalRequest(_ask_in_test, self.scope, copy_context())
            if is_test
            else OriginalRequest(_ask_django, self.scope)
        )
        try:
            async with (
                self.get_hub().stream(connection, self.grant) as frames,
                aclosing(connection.body(frames)) as parts,
            ):
                async for part in parts:
                    yield part
        except (Gap, StreamCut):
            # A test's loop over the parts just ends: for it there is no difference.
            if not is_test:
                raise StreamCut from None


class BroadcastResponse(StreamingHttpResponse):
    """An event stream. With the handoff its content is empty: the wrapper streams when Django is done with it.

    `permitted_by` are the channel views whose permission check let it pass.
    """

    permitted_by: tuple[type, ...] = ()

    def __init__(self, stream: Stream | None, handoff: dict[str, Stream] | None, *, is_compressed: bool) -> None:
        super().__init__(_nothing() if stream is None or handoff is not None else stream.body(), headers=HEADERS)
        self["Content-Encoding"] = GZIP if is_compressed else IDENTITY
        self.stream = stream
        if stream is not None and handoff is not None:
            self[HANDOFF_HEADER] = token = str(len(handoff))
            handoff[token] = stream


@cache
def _django() -> Any:
    return ASGIHandler()


async def _ask_django(scope: Message, receive: Receive, send: Send) -> None:
    """Answer a replayed request in plain mode; the first time loads the middleware once more."""
    await _django()(scope, receive, send)


async def _ask_in_test(scope: Message, receive: Receive, send: Send) -> None:
    """Answer a replayed request as the test client does, which leaves the test's database connection open."""
    from django.test.client import AsyncClientHandler

    response = await AsyncClientHandler(enforce_csrf_checks=False)(scope)
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.items()]
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})


async def _nothing() -> AsyncGenerator[bytes, None]:
    return
    yield


def _close_connections() -> None:
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()


# Refusals.

# 204, 404 and 405 may be cached where nothing forbids it, and permission may be given later.
NO_STORE = {"Cache-Control": "no-store"}

# The answers to a stream over a limit, which may try again after so many seconds.
FULL = {USER: ("This user has too many streams open: close some pages.", 429), PROCESS: ("Too many are open.", 503)}
FULL_FOR = "10"

# Statuses that mean "not you" or "not here".
REFUSALS = {401, 403, 404, 410}

# With DEBUG, why a stream was refused, percent-encoded: an element of ours tells the browser's console.
REASON_HEADER = "Broadcast-Refused"
MAX_REASON_LENGTH = 1000

R = TypeVar("R", bound=HttpResponseBase)

_ELEMENT = re.compile(rb"(?:^|&)%b=" % ELEMENT_PARAMETER.encode())


def refusal_status(returns: bool, status: int = 403) -> int:
    """Return the status that refuses a stream: `status`, and 204 for a client that returns for it.

    204 is the one answer that stops every Datastar client: with any other, some retry mode asks again without end.
    """
    return 204 if returns else status


def refusal(request: HttpRequest, status: int = 403, *, why: str) -> HttpResponse:
    """Return the answer to a client that may not have its stream; `why` is for its developer alone."""
    return with_reason(HttpResponse(status=refusal_status(is_returning(request), status), headers=NO_STORE), why)


def with_reason(response: R, why: str) -> R:
    """Return the response, with DEBUG with the reason for which it refuses a stream."""
    if settings.DEBUG:
        response.headers[REASON_HEADER] = _reason(why)
    return response


def redirect_reason(location: str) -> str:
    """Return why a redirect became a refusal."""
    return f"the answer was a redirect to {location}, which would replace the whole page: is a login needed?"


def _reason(why: str) -> str:
    return quote(why[:MAX_REASON_LENGTH], safe=" ", errors="replace")


def without_redirect(scope: Message, start: Message) -> Message:
    """Return the start of an ASGI response, or its refusal where it would redirect an element of ours.

    The client would show the page at the other end, a login page for example, in place of the whole document. The
    caller leaves out the body of what was replaced.
    """
    headers = dict(scope["headers"])
    is_ours = b"datastar-request" in headers and _ELEMENT.search(scope["query_string"]) is not None
    if not (is_ours and 300 <= start["status"] < 400):
        return start
    replaced = (b"location", b"content-length", b"cache-control")
    kept = [each for each in start["headers"] if each[0].lower() not in replaced]
    kept.append((b"cache-control", b"no-store"))
    if settings.DEBUG:
        location = next((value for name, value in start["headers"] if name.lower() == b"location"), b"")
        kept.append((REASON_HEADER.lower().encode(), _reason(redirect_reason(location.decode("latin-1"))).encode()))
    return {**start, "status": refusal_status(b"last-event-id" in headers), "headers": kept}


def broker_is_away(channels: tuple[str, ...], error: BrokerUnavailable) -> HttpResponse:
    """Return the answer of a server that cannot open streams for a while."""
    logger.warning("A stream of %s could not be granted: %s", listed(channels), error)
    return not_now(f"the broker is away: {error}")


def not_now(why: str) -> HttpResponse:
    """Return the answer of a server in trouble, which may be over when the client asks again."""
    headers = {"Retry-After": "1", **NO_STORE}
    return with_reason(HttpResponse("Streams cannot be opened now.", status=503, headers=headers), why)


def no_room(request: HttpRequest, user_id: Any, hubs: Hubs) -> HttpResponse | None:
    """Return the answer to a request for a stream that this process cannot carry now, None where it can."""
    if hubs.is_closing():
        headers = {"Connection": "close", "Retry-After": "1", **NO_STORE}
        return HttpResponse("The server is about to stop.", status=503, headers=headers)
    if is_recheck(request):
        return None
    if is_too_large(request):
        logger.warning(
            "Refused a stream of %r: the request has over %d bytes. Send fewer signals (filterSignals) or cookies.",
            request.path,
            REQUEST_BYTES,
        )
        text = "The request is too large for a stream."
        return with_reason(HttpResponse(text, status=431, headers=NO_STORE), text)
    limit = hubs.refuse(user_id, tab_of(request), element_of(request))
    return None if limit is None else _full(limit)


def _full(limit: str) -> HttpResponse:
    text, status = FULL[limit]
    return with_reason(HttpResponse(text, status=status, headers={"Retry-After": FULL_FOR, **NO_STORE}), text)


def without_stream(start: Message, limit: str) -> tuple[Message, bytes]:
    """Return the start and the body of an ASGI response in place of a stream's, when others took the last place."""
    response = _full(limit)
    replaced = {name.lower().encode() for name in [*HEADERS, "Content-Encoding"]}
    kept = [each for each in start["headers"] if each[0].lower() not in replaced]
    length = str(len(response.content))
    own = [(name.lower().encode(), value.encode()) for name, value in [*response.items(), ("Content-Length", length)]]
    return {**start, "status": response.status_code, "headers": kept + own}, response.content
