"""The response that opens a stream: what Django sees of it, and the stream itself in plain mode."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import cache
from typing import Any

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.db import connections
from django.http import StreamingHttpResponse

from ..asgi_servers import find_link
from ..exceptions import Gap
from ..hub.grant import StreamGrant
from ..hub.hub import Hub
from .handoff import Message, Receive, Send
from .plain import PlainConnection, StreamCut
from .replayed_requests import OriginalRequest
from .scope import HANDOFF_HEADER

HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx
    "Content-Encoding": "identity",  # So that no middleware compresses: GZipMiddleware would hold events back.
}


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
        connection = PlainConnection(self.grant.user_id, transport or find_link(None, self.scope).transport)
        connection.request = OriginalRequest(_ask_django, self.scope)
        try:
            async with (
                self.get_hub().stream(connection, self.grant) as frames,
                aclosing(connection.body(frames)) as parts,
            ):
                async for part in parts:
                    yield part
        except Gap:
            raise StreamCut from None


class BroadcastResponse(StreamingHttpResponse):
    """An event stream. With the handoff its content is empty: the wrapper streams when Django is done with it."""

    def __init__(self, stream: Stream | None, handoff: dict[str, Stream] | None) -> None:
        super().__init__(_nothing() if stream is None or handoff is not None else stream.body(), headers=HEADERS)
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


async def _nothing() -> AsyncGenerator[bytes, None]:
    return
    yield


def _close_connections() -> None:
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()
