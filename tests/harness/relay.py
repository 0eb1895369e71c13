"""A network between a browser and a server, which can go away without a word."""

import asyncio
import contextlib
import socket
from collections.abc import Coroutine
from types import TracebackType
from typing import Any

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
        self._serving: set[asyncio.Task[None]] = set()
        self._passing: set[asyncio.Task[None]] = set()
        self._clients: list[socket.socket] = []
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
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    @staticmethod
    def _spawn(coroutine: Coroutine[Any, Any, None], group: set[asyncio.Task[None]]) -> None:
        task = asyncio.ensure_future(coroutine)
        group.add(task)
        task.add_done_callback(group.discard)

    def _accept(self) -> None:
        # By hand: in asyncio's own server, what was accepted just before it closes stays open.
        client, _ = self._listener.accept()
        self._clients.append(client)
        self._spawn(self._serve(client), self._serving)

    async def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(ConnectionError):
            reader, writer = await asyncio.open_connection(sock=client)
            self._writers.append(writer)
            if self._is_cut:
                return
            there, back = await asyncio.open_connection("127.0.0.1", self._server.port)
            self._writers.append(back)
            for source, target in ((reader, back), (there, writer)):
                self._spawn(self._pass_on(source, target), self._passing)

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
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        tasks = [*self._serving, *self._passing]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._drop()
        await asyncio.sleep(0)
        for client in self._clients:
            client.close()
