"""A stream that has left its server: a protocol of ours has the transport."""

import asyncio
from contextvars import Context
from typing import Any

from ..asgi_servers import Link, Release
from ..hub.channel import Chunk
from ..hub.connections import ABORTED, Connection
from .handoff import Receive

# Bytes that a client may send on its stream, to be read when the stream is over: the headers of a further request.
MAX_UNREAD = 16 << 10


def take_over(user_id: Any, link: Link) -> "TakenOverConnection | None":
    """Return a connection that has the stream's transport, None where the server keeps it.

    Call it when the headers of the response are out, and open the stream without an await between.
    """
    released = link.release() if link.release is not None else None
    if released is None:
        return None
    assert link.transport is not None
    return TakenOverConnection(user_id, link.transport, released)


class TakenOverConnection(Connection, asyncio.Protocol):
    """No task, parser or scope of the server is left, and chunks are written straight to the transport.

    The transport calls connection_lost() in the end, and that closes the connection. The exception is a clean end: the
    server gets its transport back, and with it what the client has sent meanwhile.
    """

    way = "taken over"
    closes_itself = True

    __slots__ = ("_home", "_keeps_alive", "_unread")

    def __init__(self, user_id: Any, transport: asyncio.Transport, released: Release) -> None:
        super().__init__(user_id, transport)
        self._home = released.home
        self._keeps_alive = released.keeps_alive
        self._unread = b""
        self._home.connections.add(self)
        transport.set_protocol(self)

    def start(self, opening: Chunk | None) -> None:
        """See Connection.start()."""
        if self.transport is not None and not self.transport.is_closing():
            super().start(opening)

    async def wait_closed(self, receive: Receive) -> None:
        """Return at once: the stream needs no task."""

    def abort(self) -> None:
        self.busy = True
        self.closing = ABORTED
        self._unblock()
        if self.transport is not None:
            self.transport.abort()

    def shutdown(self) -> None:
        """Make way for the server's end; it calls this when the hub has ended all streams."""
        self.abort()

    def _end(self) -> None:
        self.busy = True
        if self.transport is None:
            return
        if self.closing is not None and self.closing.clean:
            # Not here, where the hub goes through its connections, and not in the context of a publisher.
            self.registry.loop.call_soon(self._go_home, context=Context())
        else:
            self.transport.close()

    def _go_home(self) -> None:
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if not self._keeps_alive:
            self._home.count_response()
            transport.close()
            return
        self._leave()
        self._home.take_back(transport, self._unread)

    def _write(self, chunk: Chunk) -> bool:
        if self.transport is None:
            return False
        if data := chunk.wire():
            try:
                self.transport.write(data)
            except RuntimeError:  # uvloop raises it for a closed transport.
                self.abort()
                return False
        return not self.busy

    def _leave(self) -> None:
        self.transport = None
        self._unblock()
        self._home.connections.discard(self)
        self.registry.on_lost(self)

    # What the transport calls.

    def pause_writing(self) -> None:
        self.busy = True
        self._block()

    def resume_writing(self) -> None:
        if self in self.registry.blocked:
            self._written()

    def data_received(self, data: bytes) -> None:
        self._unread += data
        if len(self._unread) > MAX_UNREAD:
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.busy = True
        if self.closing is None:
            self.closing = ABORTED
        self._leave()
