"""The site, served with uvicorn in the process of the tests, for browsers."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, cast

from django.core.handlers.asgi import ASGIHandler
from django.test import TransactionTestCase, modify_settings

from ..asgi import HandoffApplication
from ..broadcaster import broadcast
from ..conf import Settings
from ..contrib.runserver.application import with_static_files
from ..contrib.runserver.databases import shared_databases
from ..hub.hub import Hub
from ..hub.threads import RENDER_THREADS, Threads
from ..streams.handoff import Application
from .broker import StageBroker
from .browser import plain_code_beside_a_loop
from .cases import BroadcastTestMixin
from .kit import staged
from .stage import Stage

try:
    import uvicorn
except ModuleNotFoundError as error:
    raise ModuleNotFoundError('The live server needs uvicorn: run `pip install "ds-broadcaster[uvicorn]"`.') from error

# Seconds that a server has to begin, and to end. A view that takes longer is in the test's way.
PATIENCE = 10.0


class LiveServer:
    """The address of a server: `url`, which is also str(server), and server + "/path"."""

    def __init__(self, host: str) -> None:
        self._socket = socket.create_server((host, 0))
        self.url = f"http://{host}:{self._socket.getsockname()[1]}"
        self._server = _Server()
        self._thread = threading.Thread(target=self._serve, name="live_asgi_server", daemon=True)
        self._error: BaseException | None = None

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"<LiveServer {self.url}>"

    def __add__(self, path: str) -> str:
        return f"{self.url}{path}"

    def start(self) -> None:
        """Return when it answers."""
        self._thread.start()
        self._server.is_up.wait(PATIENCE)
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End its streams, and return when it has ended."""
        self._server.stop()
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            raise RuntimeError(f"The live server has not ended in {PATIENCE:g} s: a view of the site takes longer.")

    def _serve(self) -> None:
        try:
            self._server.run([self._socket])
        except BaseException as error:
            self._error = error
        finally:
            self._server.is_up.set()


class _Server(uvicorn.Server):
    """uvicorn, which another thread waits for and ends."""

    def __init__(self) -> None:
        super().__init__(
            uvicorn.Config(
                # As Django's own live server, it is no application of the project: that one has kept its settings.
                with_static_files(HandoffApplication(cast(Application, ASGIHandler()))),
                loop="asyncio",
                lifespan="off",
                ws="none",
                log_config=None,
                log_level="warning",
                access_log=False,
                proxy_headers=False,
                timeout_graceful_shutdown=1,
            )
        )
        self.is_up = threading.Event()
        self._end: Callable[[], object] = lambda: None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()

    async def main_loop(self) -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        self._end = lambda: loop.call_soon_threadsafe(ended.set)
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), 1.0)
        # asyncio leaves a connection open for which a listener that closes had no turn of the loop left.
        for listener in (each for server in self.servers for each in server.sockets):
            loop.remove_reader(listener)
        for _ in range(3):
            await asyncio.sleep(0)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        # Those that took longer than the grace. A loop that closes would leave them open.
        for each in list(self.server_state.connections):
            each.transport.abort()
        await asyncio.sleep(0)

    def stop(self) -> None:
        """End; any thread may call it."""
        self.should_exit = True
        self._end()


@contextlib.contextmanager
def live_server(host: str = "localhost") -> Iterator[LiveServer]:
    """Serve the site for the time of a block.

    Its threads use the databases of this thread, outside of any transaction of a TestCase. Its streams get what this
    process broadcasts, and go by the real clock.
    """
    with contextlib.ExitStack() as undo:
        stage = undo.enter_context(staged())
        undo.enter_context(modify_settings(ALLOWED_HOSTS={"append": host}))
        undo.enter_context(shared_databases())
        parts = _Parts(stage)
        undo.enter_context(
            broadcast.replaced(create_broker=parts.create_broker, create_hub=parts.create_hub, clock=time.monotonic)
        )
        undo.callback(parts.close)
        server = LiveServer(host)
        server.start()
        undo.callback(server.stop)
        yield server


class _Parts:
    """The broker and hubs of a live server beside a stage, and their threads."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._pools: list[Executor] = []

    def create_broker(self, settings: Settings) -> StageBroker:
        return StageBroker("", {}, settings.history)

    def create_hub(self, loop: asyncio.AbstractEventLoop, *args: Any, **named: Any) -> Hub:
        if loop is self._stage.loop:
            return self._stage.create_hub(loop, *args, **named)
        threads = Threads(named["sender"], renderers=self._pool(RENDER_THREADS), ordered=self._pool(1))
        return Hub(loop, *args, **named, threads=threads)

    def close(self) -> None:
        for each in self._pools:
            each.shutdown()

    def _pool(self, size: int) -> Executor:
        pool = ThreadPoolExecutor(size, "live_asgi_server")
        self._pools.append(pool)
        return pool


class BroadcastLiveServerTestCase(BroadcastTestMixin, TransactionTestCase):
    """A TestCase with a live server of the site: `self.live_server_url`, and what BroadcastTestMixin gives.

    Each test has a server of its own, which has ended when the database is emptied. As with Django's live server, the
    tests' rows are committed. `host` is the name in its URL.
    """

    host = "localhost"
    live_server: LiveServer

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.enterClassContext(plain_code_beside_a_loop())

    def setUp(self) -> None:
        super().setUp()
        self.live_server = self.enterContext(live_server(self.host))

    @property
    def live_server_url(self) -> str:
        """The address of the server, without a slash in the end."""
        return self.live_server.url
