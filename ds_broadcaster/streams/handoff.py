"""A stream that was handed off: the hub itself drives the server's send()."""

import asyncio
import sys
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

from ..asgi_servers import SERVER_REPORTS, Link
from ..hub.channel import Chunk
from ..hub.connections import ABORTED, Connection

Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

EAGER_TASKS = sys.version_info >= (3, 12)


def start_task(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Return a task, whose first step is done where Python can begin a task at once."""
    if EAGER_TASKS:
        return asyncio.Task(coroutine, loop=loop, eager_start=True)  # type: ignore[call-arg]
    return loop.create_task(coroutine)


class HandoffConnection(Connection):
    """The server's send() is started at once. While the client keeps up it finishes there and then and costs no task.
    When it suspends, the transport is full: the suspended call goes on in a task, and the connection is skipped until
    it is done.
    """

    way = "handed off"

    __slots__ = ("_is_driveable", "_leaving", "_send", "_task", "_writing")

    def __init__(self, user_id: Any, send: Send, link: Link) -> None:
        super().__init__(user_id, link.transport)
        self._send = send
        self._is_driveable = link.is_driveable
        self._leaving = False
        self._writing: asyncio.Task[None] | None = None
        self._task: asyncio.Task[Any] | None = None

    def start(self, opening: Chunk | None) -> None:
        """See Connection.start(). Call it in the task that goes on with wait_closed()."""
        self._task = asyncio.current_task()
        super().start(opening)

    async def wait_closed(self, receive: Receive) -> None:
        """Wait until the client or the hub ends the stream."""
        if self._leaving and self._task is None:
            return
        try:
            while not self._leaving and (await receive())["type"] != "http.disconnect":
                pass
            if self._leaving:
                await asyncio.sleep(0)  # The cancel() arrives here, and not in what the server does next.
        except asyncio.CancelledError:
            # The hub's own cancel() only means that the stream has ended.
            if not self._leaving or self._task is None:
                raise
            self._task.uncancel()
        finally:
            self._task = None  # It refers to this object as well: without the cycle both are freed at once.

    def abort(self) -> None:
        self.busy = True
        self.closing = ABORTED
        self._unblock()
        if self._writing is not None:
            self._writing.cancel()
        if self.transport is not None:
            self.transport.abort()
            self.registry.loop.call_later(SERVER_REPORTS, self._leave)
        else:
            self._leave()

    def _end(self) -> None:
        self.busy = True
        if self.closing is not None and not self.closing.clean and self.transport is not None:
            self.transport.close()  # What is in its buffer still goes out; the server reports the end.
            self.registry.loop.call_later(SERVER_REPORTS, self._leave)
        else:
            self._leave()

    def _leave(self) -> None:
        """Have wait_closed() return where the server does not end its receive()."""
        if not self._leaving:
            self._leaving = True
            if self._task is not None:
                self._task.cancel()

    def _write(self, chunk: Chunk) -> bool:
        try:
            sending = self._send(chunk.message())
            if self._is_driveable:
                assert isinstance(sending, Coroutine)
                sending = _carry_on(sending, sending.send(None))
        except StopIteration:
            return True
        except Exception:
            self.abort()
            return False
        self.busy = True
        writing = self._finish_write(sending)
        loop = self.registry.loop
        self._writing = loop.create_task(writing) if self._is_driveable else start_task(loop, writing)
        if self._writing.done():
            self._writing = None
            return not self.busy
        self._block()
        return False

    async def _finish_write(self, sending: Awaitable[None]) -> None:
        try:
            await sending
        except Exception:
            self.abort()
            return
        if self not in self.registry.blocked:  # An eager task that did not have to wait: _write() goes on.
            self.busy = False
            return
        self._writing = None
        self._written()


@types.coroutine
def _carry_on(coroutine: Coroutine[Any, Any, None], waited_for: Any) -> Generator[Any, Any, None]:
    """Go on, in a task, with a coroutine whose first step was run by hand and which waits for `waited_for`."""
    try:
        while True:
            try:
                value = yield waited_for
            except BaseException as error:
                waited_for = coroutine.throw(error)
            else:
                waited_for = coroutine.send(value)
    except StopIteration:
        return
