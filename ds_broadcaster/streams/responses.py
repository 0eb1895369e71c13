"""The response that opens a stream: what Django sees of it, and the stream itself in plain mode."""

from collections.abc import AsyncGenerator, Callable
from functools import cache
from typing import Any

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.db import connections
from django.http import StreamingHttpResponse

from ..exceptions import Gap
from ..hub.connections import Message, Origin, Receive, Send
from ..hub.grant import HANDOFF_HEADER, StreamGrant
from ..hub.hub import Hub
from .plain import PlainConnection, StreamCut

HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx
    "Content-Encoding": "identity",  # So that no middleware compresses: GZipMiddleware would hold events back.
}


class Stream:
    """A stream that a view has granted and nobody has started yet: nothing of it counts before it starts."""

    __slots__ = ("get_hub", "opening", "scope")

    def __init__(self, get_hub: Callable[[], Hub], opening: StreamGrant, scope: Any) -> None:
        self.get_hub = get_hub
        self.opening = opening
        self.scope = scope

    async def body(self) -> AsyncGenerator[bytes, None]:
        """Yield the stream, in plain mode."""
        await sync_to_async(_release_connections)()
        hub = self.get_hub()
        connection = PlainConnection(hub, self.opening.user_id, self.scope)
        connection.origin = Origin(_ask_django, self.scope)
        try:
            frames = await hub.open(connection, self.opening)
            async for part in connection.body(frames):
                yield part
        except Gap:
            raise StreamCut from None
        finally:
            hub.close(connection)


class BroadcastResponse(StreamingHttpResponse):
    """An event stream. With the handoff its content is empty: the wrapper streams when Django is done with it."""

    def __init__(self, stream: Stream | None, handoff: dict[str, Stream] | None) -> None:
        super().__init__(_nothing() if stream is None or handoff is not None else stream.body(), headers=HEADERS)
        if stream is not None and handoff is not None:
            self[HANDOFF_HEADER] = token = str(len(handoff))
            handoff[token] = stream


@cache
def _django() -> Any:
    return ASGIHandler()


async def _ask_django(scope: Message, receive: Receive, send: Send) -> None:
    """Answer a request that is asked again, in plain mode; the first time loads the middleware once more."""
    await _django()(scope, receive, send)


async def _nothing() -> AsyncGenerator[bytes, None]:
    return
    yield


def _release_connections() -> None:
    """Give back what the view's thread holds: a stream does not need a database."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()
