"""A connection: a cursor into the logs of its channels, and a way to write.

`PushConnection` is a stream that was handed off: the hub itself drives the server's send(). `PullConnection` is a
stream in Django's hands: a response body that waits to be asked for its next part. Both belong to the hub's loop.
"""

import asyncio
import math
import sys
import types
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

from django.core.exceptions import RequestAborted

from .channel import Channel, Chunk, merged_chunk
from .exceptions import Gap
from .servers import find_transport, is_driveable, notice_dead_peers

if TYPE_CHECKING:
    from .hub import Hub

Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]

# Seconds. A client that takes nothing for longer is aborted; it returns with its cursor.
STALL_LIMIT = 30
# Seconds. The log of a burst is held for a client that is still taking it, not for one that has stopped.
KEEPING_UP = 2

EAGER_TASKS = sys.version_info >= (3, 12)


class StreamCut(asyncio.CancelledError, RequestAborted):
    """Ends a response without its last chunk. Django 5.2 takes the one quietly, Django 6 the other."""


class Connection:
    """What both kinds share: where the client stands and what comes next."""

    __slots__ = (
        "_patient",
        "blocked_since",
        "busy",
        "channels",
        "cursor",
        "ending",
        "granted",
        "hub",
        "presence_at",
        "slot",
        "transport",
        "until",
        "user_id",
    )

    def __init__(self, hub: "Hub", user_id: Any, transport: asyncio.Transport | None) -> None:
        self.hub = hub
        self.user_id = user_id
        self.transport = transport
        self.channels: tuple[Channel, ...] = ()
        self.cursor = 0
        self.presence_at: float = 0
        # Those that share a turn for heartbeats; None before hub.open() and after hub.close().
        self.slot: dict[Connection, None] | None = None
        self.busy = True  # Until the opening frames are out.
        self.blocked_since = 0.0
        self._patient = False
        # Once set, only what was published up to `until` and these last bytes go out. The flag: a clean end?
        self.ending: tuple[bytes, bool] | None = None
        self.until = 0
        # The newest sequence when the view granted the stream: no command from before concerns it.
        self.granted = 0
        if transport is not None:
            notice_dead_peers(transport)

    def next_chunk(self) -> Chunk | None:
        """Return what to write next and move the cursor there; raises Gap when the client is too far behind."""
        if self.ending is not None:
            chunk = merged_chunk(self.channels, self.cursor, math.inf, self.until)
        elif len(self.channels) == 1:
            chunk = self.channels[0].next_chunk(self.cursor, self.presence_at)
        else:
            chunk = merged_chunk(self.channels, self.cursor, self.presence_at)
        if chunk is not None:
            self.cursor = chunk.cursor
            self.presence_at = chunk.presence_at
        return chunk

    def stop_at(self, farewell: bytes, clean: bool) -> bool:
        """Take nothing in that is newer than now; False when the end was decided before."""
        if self.ending is not None:
            return False
        self.ending = (farewell, clean)
        self.until = self.hub.head
        return True

    def keeps_up(self) -> bool:
        """Tell whether a blocked connection was writing a moment ago."""
        return self.hub.now() - self.blocked_since < KEEPING_UP

    def pump(self) -> None:
        """Write what is new, as far as the client takes it."""
        raise NotImplementedError

    def beat(self, message: Message, sequence: int) -> None:
        """Write a heartbeat that moves the client's cursor to `sequence`, unless the client is busy anyway."""
        raise NotImplementedError

    def end(self, farewell: bytes = b"", *, clean: bool = True) -> None:
        """End the stream behind everything published so far.

        A clean end is final for most clients; an unclean one, without HTTP's last chunk, makes all of them return.
        """
        raise NotImplementedError

    def abort(self) -> None:
        """End the stream at once, whatever is still to be written."""
        raise NotImplementedError

    def be_patient(self) -> None:
        """Let the kernel wait for a stalled client as long as the hub does."""
        if not self._patient and self.transport is not None:
            self._patient = True
            notice_dead_peers(self.transport, user_timeout=STALL_LIMIT)

    def _block(self) -> None:
        self.hub.blocked.pop(self, None)  # It is in the order of time.
        self.blocked_since = self.hub.now()
        self.hub.blocked[self] = None
        for channel in self.channels:
            channel.blocked[self] = None

    def _unblock(self) -> None:
        self.hub.blocked.pop(self, None)
        for channel in self.channels:
            channel.blocked.pop(self, None)
        if self._patient and self.transport is not None:
            self._patient = False
            notice_dead_peers(self.transport)


class PushConnection(Connection):
    """A handed-off stream.

    The server's send() is started at once. While the client keeps up it finishes there and then, and costs no task.
    When it suspends, the transport is full: the suspended call is carried on and the connection is skipped until
    it is done.
    """

    __slots__ = ("_driveable", "_leaving", "_said_goodbye", "_send", "_task", "_writing")

    def __init__(self, hub: "Hub", user_id: Any, send: Send, scope: Message) -> None:
        super().__init__(hub, user_id, find_transport(send, scope))
        self._send = send
        self._driveable = is_driveable(send)
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
            while (await receive())["type"] != "http.disconnect":
                pass
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
                if not self._write(chunk.message):
                    return
                if not chunk.more:
                    break
        except Gap:
            if self.ending is None:
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
        self.ending = self.ending or (b"", False)
        self._unblock()
        if self._writing is not None:
            self._writing.cancel()
        if self.transport is not None:
            self.transport.abort()
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
        else:
            self._leave()

    def _leave(self) -> None:
        """Have stay() return: the server has no reason of its own to end its receive()."""
        if not self._leaving:
            self._leaving = True
            if self._task is not None:
                self._task.cancel()

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
        if self not in self.hub.blocked:  # An eager task that did not have to wait: _write() goes on.
            return
        self._writing = None
        self._unblock()
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


class PullConnection(Connection):
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
        part = b"" if self.ending is not None else opening
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
            if self.transport is None:
                raise StreamCut
            self.transport.close()
            await self.hub.loop.create_future()  # Django cancels it when the server reports the disconnect.

    async def _next_part(self) -> bytes:
        """Wait for what comes next; nothing means the end."""
        while True:
            try:
                chunk = self.next_chunk()
            except Gap:
                if self.ending is None:
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
        self.ending = self.ending or (b"", False)
        self.until = 0
        self._beat = None
        if self.transport is not None:
            self.transport.abort()
        elif self._task is not None and self.busy:
            self._task.cancel()  # To Django, that is a client who left.
        self.pump()
