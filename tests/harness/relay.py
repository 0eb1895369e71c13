"""A network between a browser and a server, which can go away without a word."""

import asyncio
import contextlib
from types import TracebackType

from tests.harness.loop import loop_thread
from tests.harness.server import Server


class Relay:
    """Passes TCP connections on to a server, from a port of its own.

        with Relay(server) as relay:
            tab.goto(relay.url)
            relay.cut()

    After cut(), what either side sends is lost, and neither is told. mend() lets new connections through: those from
    before stay dead, as where a server or a router forgot them meanwhile.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._is_cut = False
        self._passing: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        loop_thread().run(self._cut())

    async def _cut(self) -> None:
        self._is_cut = True
        for task in self._passing:
            task.cancel()

    def drop(self) -> None:
        """End all connections, so that both sides notice."""
        loop_thread().call(self._drop)

    def _drop(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def lead_to(self, server: Server) -> None:
        """Pass new connections on to another server."""
        self._server = server

    def mend(self) -> None:
        self._is_cut = False

    def __enter__(self) -> "Relay":
        loop_thread().run(self._start())
        return self

    async def _start(self) -> None:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        if self._is_cut:
            return
        there, back = await asyncio.open_connection("127.0.0.1", self._server.port)
        self._writers.append(back)
        for source, target in ((reader, back), (there, writer)):
            task = asyncio.ensure_future(self._pass_on(source, target))
            self._passing.add(task)
            task.add_done_callback(self._passing.discard)

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        target.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        loop_thread().run(self._stop())

    async def _stop(self) -> None:
        await self._cut()
        self._listener.close()
        self._drop()
