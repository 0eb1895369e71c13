"""A stream that was handed off: the hub itself drives the server's send()."""

import asyncio
import sys
import types
from collections.abc import Awaitable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

from ..asgi_servers import SERVER_REPORTS, chunked_cycle, find_transport, is_driveable
from ..exceptions import Gap
from ..hub.channel import Chunk
from ..hub.connections import Connection, Message, Receive, Send

if TYPE_CHECKING:
    from ..hub.hub import Hub

EAGER_TASKS = sys.version_info >= (3, 12)


class HandoffConnection(Connection):
    """The server's send() is started at once. While the client keeps up it finishes there and then, and costs no task.
    When it suspends, the transport is full: the suspended call is carried on and the connection is skipped until
    it is done.
    """

    __slots__ = ("_cycle", "_driveable", "_leaving", "_said_goodbye", "_send", "_task", "_writing")

    def __init__(self, hub: "Hub", user_id: Any, send: Send, scope: Message) -> None:
        super().__init__(hub, user_id, find_transport(send, scope))
        self._send = send
        self._driveable = is_driveable(send)
        self._cycle = chunked_cycle(send)
        self._said_goodbye = False
        self._leaving = False
        self._writing: asyncio.Task[None] | None = None
        self._task: asyncio.Task[Any] | None = None

    def start(self, opening: bytes) -> None:
        """Write the opening frames and whatever came meanwhile; called in the task that goes on with stay()."""
        self._task = asyncio.current_task()
        self.busy = False
        if self.ending is not None:
            self._write_the_end()
        elif self._write({"type": "http.response.body", "body": opening, "more_body": True}):
            self.pump()

    async def stay(self, receive: Receive) -> None:
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
            self._task = None  # It refers to this object as well: without the cycle both are gone at once.

    def pump(self) -> None:
        if self.busy:
            return
        try:
            while (chunk := self.next_chunk()) is not None:
                if not (self._write_wire(chunk) or self._write(chunk.message)):
                    return
                if not chunk.more:
                    break
        except Gap:
            self.hub.lost(self)
        if self.ending is not None and not self.busy:
            self._write_the_end()

    def beat(self, message: Message, sequence: int) -> None:
        # Not busy is caught up. A page may have been rendered with an id that is still on its way to the hub.
        if not self.busy and self.ending is None and self.cursor <= sequence:
            self.cursor = sequence
            self._write(message)

    def end(self, farewell: bytes = b"", *, clean: bool = True) -> None:
        if self.stop_at(farewell, clean) and self._task is not None:
            self.pump()

    def abort(self) -> None:
        self.busy = True
        self.ending = (b"", False)
        self._unblock()
        if self._writing is not None:
            self._writing.cancel()
        if self.transport is not None:
            self.transport.abort()
            self.hub.loop.call_later(SERVER_REPORTS, self._leave)
        else:
            self._leave()

    def _write_the_end(self) -> None:
        assert self.ending is not None
        farewell, clean = self.ending
        self._said_goodbye = True
        if self._write({"type": "http.response.body", "body": farewell, "more_body": not clean}):
            self._ended()

    def _ended(self) -> None:
        self.busy = True
        if self.ending is not None and not self.ending[1] and self.transport is not None:
            self.transport.close()  # What is in its buffer still goes out; stay() learns of it from the server.
            self.hub.loop.call_later(SERVER_REPORTS, self._leave)
        else:
            self._leave()

    def _leave(self) -> None:
        """Have stay() return where the server does not end its receive()."""
        if not self._leaving:
            self._leaving = True
            if self._task is not None:
                self._task.cancel()

    def _write_wire(self, chunk: Chunk) -> bool:
        """Write a chunk the way uvicorn's send() does when it has nothing to wait for; False where it would have to.

        The call and the framing are a third of what a delivery costs outside the kernel.
        """
        cycle = self._cycle
        if (
            cycle is None
            or cycle.flow.write_paused
            or cycle.disconnected
            or cycle.response_complete
            or not cycle.chunked_encoding
            or not chunk.message["body"]
        ):
            return False
        try:
            cycle.transport.write(chunk.wire())
        except RuntimeError:  # uvloop's word for a transport that is closed; send() knows what to do.
            return False
        return True

    def _write(self, message: Message) -> bool:
        """Start a send; True when it is done, False when it goes on in a task or the client is gone."""
        try:
            sending = self._send(message)
            if self._driveable:
                assert isinstance(sending, Coroutine)
                sending = _carry_on(sending, sending.send(None))
        except StopIteration:
            return True
        except Exception:
            self.abort()
            return False
        self.busy = True
        writing = self._finish(sending)
        if EAGER_TASKS and not self._driveable:
            self._writing = asyncio.Task(writing, loop=self.hub.loop, eager_start=True)  # type: ignore[call-arg]
        else:
            self._writing = self.hub.loop.create_task(writing)
        if self._writing.done():
            self._writing = None
            return not self.busy
        self._block()
        return False

    async def _finish(self, sending: Awaitable[None]) -> None:
        """Wait until a send is done, then go on where the connection was."""
        try:
            await sending
        except Exception:
            self.abort()
            return
        self.busy = False
        if self not in self.hub.pulse.blocked:  # An eager task that did not have to wait: _write() goes on.
            return
        self._writing = None
        self._unblock()
        if self.slot is None and self.ending is None:  # The client left meanwhile.
            return
        if self._said_goodbye:
            self._ended()
        else:
            self.pump()


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
