"""A stream in plain mode: a response body in Django's hands, which waits to be asked for its next part."""

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from django.core.exceptions import RequestAborted

from ..asgi_servers import SERVER_REPORTS, find_transport
from ..exceptions import Gap
from ..hub.connections import Connection, Message

if TYPE_CHECKING:
    from ..hub.hub import Hub


class StreamCut(asyncio.CancelledError, RequestAborted):
    """Ends a response without its last chunk. Django 5.2 takes the one quietly, Django 6 the other."""


class PlainConnection(Connection):
    """A stream in Django's hands: body() is the response's content.

    While Django is busy writing a part, body() is not asked for the next one, so the connection waits, blocked,
    and its cursor with it.
    """

    __slots__ = ("_beat", "_task", "_waiter")

    def __init__(self, hub: "Hub", user_id: Any, scope: Message) -> None:
        super().__init__(hub, user_id, find_transport(None, scope))
        self._waiter: asyncio.Future[None] | None = None
        self._task: asyncio.Task[Any] | None = None
        self._beat: tuple[bytes, int] | None = None

    async def body(self, opening: bytes) -> AsyncGenerator[bytes, None]:
        """Yield the frames until the stream ends; raises StreamCut for an end that is not clean."""
        part = opening
        if self.ending is not None:  # Before it began: nothing but the end.
            part = b""
            self.until = 0
        self._task = asyncio.current_task()
        try:
            while part or (part := await self._next_part()):
                self._block()
                yield part
                part = b""
        finally:
            self._task = None
            self._unblock()
        assert self.ending is not None
        farewell, clean = self.ending
        if farewell:
            yield farewell
        if not clean:
            if self.transport is not None:
                self.transport.close()
                await asyncio.sleep(SERVER_REPORTS)  # Django cancels it when the server reports the disconnect.
            raise StreamCut

    async def _next_part(self) -> bytes:
        """Wait for what comes next; nothing means the end."""
        while True:
            try:
                chunk = self.next_chunk()
            except Gap:
                self.hub.lost(self)
                return b""
            if chunk is not None:
                body: bytes = chunk.message["body"]
                return body
            if self.ending is not None:
                return b""
            if self._beat is not None:
                (part, sequence), self._beat = self._beat, None
                if self.cursor <= sequence:
                    self.cursor = sequence
                    return part
            self._unblock()
            self.busy = False
            self._waiter = self.hub.loop.create_future()
            await self._waiter

    def pump(self) -> None:
        if not self.busy and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
            # From here on, and not only when body() has its turn, the log is held for it.
            self.busy = True
            self._block()

    def beat(self, message: Message, sequence: int) -> None:
        if not self.busy and self.ending is None:
            self._beat = (message["body"], sequence)
            self.pump()

    def end(self, farewell: bytes = b"", *, clean: bool = True) -> None:
        if self.stop_at(farewell, clean):
            self.pump()

    def abort(self) -> None:
        self.ending = (b"", False)
        self.until = 0
        self._beat = None
        if self.transport is not None:
            self.transport.abort()
        elif self.busy and self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()  # It is waiting in Django's send(). To Django, that is a client who left.
        self.pump()
