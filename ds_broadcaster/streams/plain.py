"""A stream in plain mode: a response body in Django's hands, which asks for one part after the other."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from django.core.exceptions import RequestAborted

from ..asgi_servers import SERVER_REPORTS
from ..hub.channel import Chunk
from ..hub.connections import ABORTED, Connection


class StreamCut(asyncio.CancelledError, RequestAborted):
    """Ends a response without its last chunk. Django 5.2 takes the one quietly, Django 6 the other."""


class PlainConnection(Connection):
    """A stream in Django's hands: body() is the response's content.

    Each chunk waits for body(). While Django writes a part, body() does not ask for the next: the connection is
    blocked, and its cursor waits with it.

    `owns_task` tells that the task which asks for the parts does nothing else, so that an abort may cancel it.
    """

    way = "plain"

    __slots__ = ("_is_over", "_owns_task", "_part", "_task", "_waiter")

    def __init__(self, user_id: Any, transport: asyncio.Transport | None, *, owns_task: bool = True) -> None:
        super().__init__(user_id, transport)
        self._owns_task = owns_task
        self._part: bytes | None = None
        self._is_over = False
        self._waiter: asyncio.Future[None] | None = None
        self._task: asyncio.Task[Any] | None = None

    async def body(self, opening: Chunk | None) -> AsyncGenerator[bytes, None]:
        """Yield the opening frames and what follows, until the stream ends; raises StreamCut for an unclean end."""
        self._task = asyncio.current_task() if self._owns_task else None
        self.start(opening)
        del opening  # They may be large, and the stream is long.
        try:
            while not self._is_over:
                part, self._part = self._part, None
                if part is None:
                    self._waiter = self.registry.loop.create_future()
                    await self._waiter
                    continue
                if part:
                    yield part
                if not self._is_over:
                    self._written()
        finally:
            self._task = None
            self._unblock()
        assert self.closing is not None
        if not self.closing.clean:
            if self.transport is not None:
                self.transport.close()
                await asyncio.sleep(SERVER_REPORTS)  # Django cancels it when the server reports the disconnect.
            raise StreamCut

    def _write(self, chunk: Chunk) -> bool:
        self._part = chunk.body
        # From here on, and not only when body() has its turn, the log is held for the client.
        self.busy = True
        self._block()
        self._wake()
        return False

    def _end(self) -> None:
        self.busy = True
        self._is_over = True
        self._wake()

    def abort(self) -> None:
        is_waiting = self._waiter is not None
        self.closing = ABORTED
        self._part = None
        self._end()
        if self.transport is not None:
            self.transport.abort()
        elif not is_waiting and self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()  # It waits in Django's send(). To Django, that is a client that left.

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        self._waiter = None
