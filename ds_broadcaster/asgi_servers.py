"""What the ASGI servers do not tell through ASGI: the transport behind a stream, and that they are about to stop.

Everything here is optional: with a server that is not known, streams work, and end when the server ends them.
The recipes were found by measuring uvicorn 0.54, hypercorn 0.18, daphne 4.2 and granian 2.8; each looks before
it touches, so that another version of a server costs a feature and not a failure.
"""

import asyncio
import contextlib
import gc
import os
import re
import signal
import socket
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

EndStreams = Callable[[], Awaitable[None]]

# A loop holds its tasks weakly; this one has nobody else.
_waiting: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[None]]" = weakref.WeakKeyDictionary()

# Their own send() is a coroutine that does not ask for the current task, so that a hub may run its first step.
DRIVEABLE = {"uvicorn", "hypercorn", "daphne"}

# Seconds. A peer that has gone silent is noticed in at most KEEPALIVE_IDLE + USER_TIMEOUT, for 15 in all: an idle
# connection is probed after the first; what was sent must be acknowledged within the second.
KEEPALIVE_IDLE = 5
KEEPALIVE_INTERVAL = 2
USER_TIMEOUT = 8

# Seconds in which a server tells of a transport that the hub closed. uvicorn does not, when there is a further request
# behind the one that the stream answers; a stream that returned earlier would be an error in its log.
SERVER_REPORTS = 0.3


_WORKERS = re.compile(r"(?:^|\s)(?:--workers[= ]|-w[= ]?)(\d+)")


def worker_count() -> int:
    """Return how many worker processes the server of this one was told to run, 1 where nobody says so.

    uvicorn, gunicorn, hypercorn and granian all take `--workers`, and a worker has the arguments of its parent.
    """
    told = _WORKERS.search(" ".join(sys.argv[1:]))
    number = told[1] if told is not None else os.environ.get("WEB_CONCURRENCY", "")
    return int(number) if number.isdigit() else 1


def _owner(function: Any) -> Any:
    """Return the object whose method `function` is, through a partial."""
    if isinstance(function, partial):
        function = function.func
    return getattr(function, "__self__", None)


def _module(thing: Any) -> str:
    return type(thing).__module__.partition(".")[0]


def is_driveable(send: Any) -> bool:
    """Tell whether `send` is a server's own, not one that middleware wrapped."""
    return _module(_owner(send)) in DRIVEABLE


def chunked_cycle(send: Any) -> Any:
    """Return uvicorn's state of a response that httptools serves, None for all others."""
    owner = _owner(send)
    known = _module(owner) == "uvicorn" and all(
        hasattr(owner, name) for name in ("chunked_encoding", "flow", "disconnected", "response_complete", "transport")
    )
    return owner if known else None


def find_transport(send: Any, scope: Any) -> asyncio.Transport | None:
    """Return the transport that carries this stream and nothing else, where it can be reached.

    `send` is None in plain mode, where only uvicorn's list of connections leads there (a look at each of them,
    one of the costs that the handoff saves).
    """
    owner = _owner(send)
    transport = None
    if _module(owner) == "uvicorn":
        transport = getattr(owner, "transport", None)
    elif _module(owner) == "hypercorn":
        protocol = _owner(getattr(owner, "send", None))
        if type(protocol).__name__ == "H11Protocol":  # HTTP/2 carries other streams on the same transport.
            writer = getattr(_owner(getattr(protocol, "send", None)), "writer", None)
            transport = getattr(writer, "transport", None)
    elif (server := _uvicorn_server()) is not None:
        for protocol in list(server.server_state.connections):
            if getattr(protocol, "scope", None) is scope:
                transport = getattr(protocol, "transport", None)
                break
    return transport if hasattr(transport, "abort") else None


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


def before_shutdown(loop: asyncio.AbstractEventLoop, end_streams: EndStreams) -> None:
    """Have `end_streams` called on `loop` when its server is about to stop, before the server waits for its streams.

    Called on the loop, once, when its first stream opens: no server waits for streams that there are not.
    `end_streams` ends them in the call; what it returns is done when the last byte is out.
    """
    for hook in (_hook_uvicorn, _hook_hypercorn, _hook_daphne, _hook_granian):
        if hook(loop, end_streams):
            return


def _uvicorn_server() -> Any:
    """Return the uvicorn server that runs here, found through the signal handler that it installs."""
    if "uvicorn" not in sys.modules:
        return None
    server = _owner(signal.getsignal(signal.SIGTERM))
    return server if hasattr(server, "server_state") and hasattr(server, "shutdown") else None


def _hook_uvicorn(loop: asyncio.AbstractEventLoop, end_streams: EndStreams) -> bool:
    server = _uvicorn_server()
    if server is None:
        return False
    shutdown = server.shutdown

    async def end_streams_first(*args: Any, **kwargs: Any) -> None:
        for listener in server.servers:  # Whoever comes back now is to reach the next process.
            listener.close()
        await end_streams()
        await shutdown(*args, **kwargs)

    # Not the signal handler: --limit-max-requests and --reload come here without one.
    server.shutdown = end_streams_first
    return True


def _hook_hypercorn(loop: asyncio.AbstractEventLoop, end_streams: EndStreams) -> bool:
    module = sys.modules.get("hypercorn.asyncio.worker_context")
    # Neither a signal nor an ASGI message tells a hypercorn worker's app of the end; its one context does.
    context = module and next((each for each in gc.get_objects() if type(each) is module.WorkerContext), None)
    if context is None:
        return False

    async def wait_for_the_end() -> None:
        await context.terminated.wait()
        await end_streams()

    _waiting[loop] = loop.create_task(wait_for_the_end())
    return True


def _hook_daphne(loop: asyncio.AbstractEventLoop, end_streams: EndStreams) -> bool:
    if "daphne.server" not in sys.modules or "twisted.internet.reactor" not in sys.modules:
        return False

    def end_before_daphne_cancels() -> None:
        end_streams()

    sys.modules["twisted.internet.reactor"].addSystemEventTrigger("before", "shutdown", end_before_daphne_cancels)
    return True


def _hook_granian(loop: asyncio.AbstractEventLoop, end_streams: EndStreams) -> bool:
    if "granian" not in sys.modules or threading.current_thread() is not threading.main_thread():
        return False
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, partial(_end_then, signal.getsignal(number), loop, end_streams))
    return True


def _end_then(previous: Any, loop: asyncio.AbstractEventLoop, end_streams: EndStreams, *received: Any) -> None:
    loop.call_soon_threadsafe(end_streams)
    if callable(previous):
        previous(*received)
