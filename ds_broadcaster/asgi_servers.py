"""What ASGI servers do not tell through ASGI: the transport of a stream, and that the server is about to stop.

Everything here is optional: with an unknown server streams work in plain mode, and end when the server ends them. A
class for each server holds what was found by measuring uvicorn 0.54, hypercorn 0.18, daphne 4.2 and granian 2.8. Each
looks before it touches, so that another version of a server costs a feature and not a failure.

The handoff calls receive() again after Django has cancelled its own call. The known servers wait on; gunicorn's own
ASGI worker says from then on that the client is gone (27.0).

Deviations from ASGI, all deliberate:

- the transport is taken from behind `send`: only an abort evicts a stalled client, and only the socket can be told to
  notice a dead peer;
- uvicorn's state of a response is read and its transport is written to: a third of a delivery's cost is `send` itself;
- the servers' shutdown is hooked: they wait for open streams, and tell no application of it.
"""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable
from functools import cache, partial
from typing import Any, NamedTuple

logger = logging.getLogger("ds_broadcaster")

EndStreams = Callable[[], Awaitable[None]]

# Seconds. A peer that has gone silent is noticed in at most KEEPALIVE_IDLE + USER_TIMEOUT, for 15 in all: an idle
# connection is probed after the first; what was sent must be acknowledged within the second. A client whose network
# was away for longer is not told: our element misses its heartbeats and returns. A longer limit would keep users online
# who are gone, and there would still be a longer outage.
KEEPALIVE_IDLE = 5
KEEPALIVE_INTERVAL = 2
USER_TIMEOUT = 8

# Seconds in which a server reports a transport that the hub closed. uvicorn does not where a further request waits
# after the one that the stream answers; a stream that returned earlier would be an error in its log.
SERVER_REPORTS = 0.3


class Link(NamedTuple):
    """What can be reached of the server of one stream.

    `transport` carries this stream and nothing else. `cycle` is uvicorn's state of a response that httptools serves.
    `is_driveable` tells that send() is the server's own, a coroutine that does not ask for the current task, so that
    a hub may run its first step.
    """

    transport: asyncio.Transport | None = None
    cycle: Any = None
    is_driveable: bool = False


class ASGIServer:
    """What is known of one server."""

    name = ""

    def owns(self, owner: Any) -> bool:
        """Tell whether the object whose method `send` is belongs to this server: no middleware wrapped it."""
        return _module(owner) == self.name

    def carries(self, task: asyncio.Task[Any]) -> bool:
        """Tell whether this server made the task, however many middlewares run in it."""
        frame = getattr(task.get_coro(), "cr_frame", None)
        return frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == self.name

    def link(self, owner: Any) -> Link:
        """Return what can be reached from that object."""
        return Link(is_driveable=True)

    def before_shutdown(self, loop: asyncio.AbstractEventLoop, end_streams: EndStreams) -> bool:
        """Hook the server's shutdown; return False when this is not the server that runs here."""
        raise NotImplementedError


class Uvicorn(ASGIServer):
    """Its protocols keep the transport. The server is found through the signal handler that it installs.

    In another thread than the main one it installs none: there its own task leads to it.
    """

    name = "uvicorn"

    def link(self, owner: Any) -> Link:
        is_known = all(
            hasattr(owner, name)
            for name in ("chunked_encoding", "flow", "disconnected", "response_complete", "transport")
        )
        return Link(_abortable(getattr(owner, "transport", None)), owner if is_known else None, is_driveable=True)

    def link_of_scope(self, scope: Any) -> Link:
        """Return what can be reached in plain mode: a look at each connection, one of the costs the handoff saves."""
        server = self._running()
        for protocol in list(server.server_state.connections) if server is not None else ():
            if getattr(protocol, "scope", None) is scope:
                return Link(_abortable(getattr(protocol, "transport", None)))
        return Link()

    def before_shutdown(self, loop: asyncio.AbstractEventLoop, end_streams: EndStreams) -> bool:
        server = self._running()
        if server is None:
            return False
        shutdown = server.shutdown

        async def end_streams_first(*args: Any, **kwargs: Any) -> None:
            for listener in server.servers:  # Clients that return now are to reach the next process.
                listener.close()
            await end_streams()
            await shutdown(*args, **kwargs)

        # Not the signal handler: --limit-max-requests and --reload come here without one.
        server.shutdown = end_streams_first
        return True

    def _running(self) -> Any:
        if "uvicorn" not in sys.modules:
            return None
        server = _owner(signal.getsignal(signal.SIGTERM))
        if hasattr(server, "server_state") and hasattr(server, "shutdown"):
            return server
        for task in asyncio.all_tasks():
            frame = getattr(task.get_coro(), "cr_frame", None)
            if frame is not None and isinstance(server := frame.f_locals.get("self"), sys.modules["uvicorn"].Server):
                return server
        return None


class Hypercorn(ASGIServer):
    """Its workers get neither a signal nor an ASGI message at the end; their one context tells."""

    name = "hypercorn"

    def __init__(self) -> None:
        # A loop holds its tasks weakly, and nothing else holds this one.
        self._waiting: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[None]]
        self._waiting = weakref.WeakKeyDictionary()

    def link(self, owner: Any) -> Link:
        transport = None
        protocol = _owner(getattr(owner, "send", None))
        if type(protocol).__name__ == "H11Protocol":  # HTTP/2 carries other streams on the same transport.
            writer = getattr(_owner(getattr(protocol, "send", None)), "writer", None)
            transport = _abortable(getattr(writer, "transport", None))
        return Link(transport, is_driveable=True)

    def before_shutdown(self, loop: asyncio.AbstractEventLoop, end_streams: EndStreams) -> bool:
        module = sys.modules.get("hypercorn.asyncio.worker_context")
        context = module and next((each for each in gc.get_objects() if type(each) is module.WorkerContext), None)
        if context is None:
            return False

        async def wait_for_the_end() -> None:
            await context.terminated.wait()
            await end_streams()

        self._waiting[loop] = loop.create_task(wait_for_the_end())
        return True


class Daphne(ASGIServer):
    """Twisted's reactor tells of the end before daphne cancels its applications."""

    name = "daphne"

    def carries(self, task: asyncio.Task[Any]) -> bool:
        # The task is made of the application's own coroutine.
        return getattr(self._reactor(), "running", False)

    def before_shutdown(self, loop: asyncio.AbstractEventLoop, end_streams: EndStreams) -> bool:
        reactor = self._reactor()
        if reactor is None:
            return False

        def end_before_daphne_cancels() -> None:
            end_streams()

        reactor.addSystemEventTrigger("before", "shutdown", end_before_daphne_cancels)
        return True

    @staticmethod
    def _reactor() -> Any:
        return sys.modules.get("twisted.internet.reactor") if "daphne.server" in sys.modules else None


class Granian(ASGIServer):
    """Its send() has no first step to run by hand, and its workers are told of the end by signals."""

    name = "granian"

    def link(self, owner: Any) -> Link:
        return Link()

    def before_shutdown(self, loop: asyncio.AbstractEventLoop, end_streams: EndStreams) -> bool:
        if "granian" not in sys.modules or threading.current_thread() is not threading.main_thread():
            return False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, partial(self._end_then, signal.getsignal(number), loop, end_streams))
        return True

    @staticmethod
    def _end_then(previous: Any, loop: asyncio.AbstractEventLoop, end_streams: EndStreams, *received: Any) -> None:
        loop.call_soon_threadsafe(end_streams)
        if callable(previous):
            previous(*received)


UVICORN = Uvicorn()
SERVERS: tuple[ASGIServer, ...] = (UVICORN, Hypercorn(), Daphne(), Granian())


def find_link(send: Any) -> Link | None:
    """Return what can be reached of the server behind `send`, None for one that is not known to bear the handoff.

    Of a server whose send() a middleware wrapped, nothing can be reached. Call it in the task of the request.
    """
    owner = _owner(send)
    for server in SERVERS:
        if server.owns(owner):
            return server.link(owner)
    task = asyncio.current_task()
    if task is not None and any(server.carries(task) for server in SERVERS):
        return Link()
    _log_plain(str(getattr(send, "__module__", None) or type(send).__module__))
    return None


def find_transport(scope: Any) -> Any:
    """Return the transport of a stream in plain mode, None where it cannot be reached."""
    return UVICORN.link_of_scope(scope).transport


@cache
def _log_plain(module: str) -> None:
    logger.warning(
        "Streams are served in plain mode: requests come from %s, which is not known to bear the handoff. Known are "
        "%s; with gunicorn, run `-k uvicorn_worker.UvicornWorker`. A middleware that runs the application in a task of "
        "its own hides its server.",
        module,
        ", ".join(server.name for server in SERVERS),
    )


def before_shutdown(loop: asyncio.AbstractEventLoop, end_streams: EndStreams) -> None:
    """Have `end_streams` called on `loop` when its server is about to stop, before the server waits for its streams.

    Call once per loop, when the first stream opens. `end_streams` ends the streams in the call; what it returns is
    done when the last byte is out.
    """
    for server in SERVERS:
        if server.before_shutdown(loop, end_streams):
            return


def notice_dead_peers(transport: asyncio.Transport, *, user_timeout: float = USER_TIMEOUT) -> None:
    """Have the kernel drop the connection soon after the peer is gone without a word (a pulled cable)."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    # Not every system has each of these, and the client may be gone (uvloop then raises ValueError).
    with contextlib.suppress(OSError, AttributeError, ValueError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(user_timeout * 1000))


def _owner(function: Any) -> Any:
    """Return the object whose method `function` is, through a partial."""
    if isinstance(function, partial):
        function = function.func
    return getattr(function, "__self__", None)


def _module(thing: Any) -> str:
    return type(thing).__module__.partition(".")[0]


def _abortable(transport: Any) -> Any:
    return transport if hasattr(transport, "abort") else None
