"""What ASGI servers do not tell through ASGI: the transport of a stream, and that the server is about to stop.

Everything here is optional: with an unknown server streams work in plain mode, and end when the server ends them. A
class for each server holds what was found by measuring uvicorn 0.54, hypercorn 0.18, daphne 4.2 and granian 2.8. Each
looks before it touches, so that another version of a server costs a feature and not a failure.

The handoff calls receive() again after Django has cancelled its own call. The known servers wait on; gunicorn's own
ASGI worker says from then on that the client is gone (27.0).

Deviations from ASGI, all deliberate:

- the transport is taken from behind `send`: only an abort evicts a stalled client, and only the socket can be told to
  notice a dead peer;
- streams leave uvicorn: a protocol of ours takes over the transport, and of the server's objects none is left. Task,
  parser, scope and state of the response are 7 KB a stream, and `send` is a third of what a delivery costs;
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
from typing import Any, NamedTuple, Protocol

logger = logging.getLogger("ds_broadcaster")

EndStreams = Callable[[], Awaitable[None]]

# Seconds. A peer that has gone silent is noticed in at most KEEPALIVE_IDLE + USER_TIMEOUT, for 15 in all: an idle
# connection is probed after the first, or written a heartbeat; what was sent must be acknowledged within the second. A
# client whose network was away for longer is not told: our element misses its heartbeats and returns. A longer limit
# would keep users online who are gone, and there would still be a longer outage.
KEEPALIVE_IDLE = 5
KEEPALIVE_INTERVAL = 2
USER_TIMEOUT = 8

# How HTTP/1.1's chunked encoding ends.
LAST_CHUNK = b"0\r\n\r\n"

# Seconds in which a server reports a transport that the hub closed. uvicorn does not where a further request waits
# after the one that the stream answers; a stream that returned earlier would be an error in its log.
SERVER_REPORTS = 0.3


class Home(Protocol):
    """The server that streams have left, as one object for all of them."""

    # The server's own set, each with a shutdown(): it waits for them to leave, and counts them for its limit.
    connections: set[Any]

    def count_response(self) -> None:
        """Count a response that has ended as it should."""

    def take_back(self, transport: asyncio.Transport, unread: bytes) -> None:
        """Serve a connection whose stream has ended, from what the client has sent since it began."""


class Release(NamedTuple):
    """A transport that its server has let go of, and whether the connection may carry more than the stream."""

    home: Home
    keeps_alive: bool


class Link(NamedTuple):
    """What can be reached of the server of one stream.

    `transport` carries this stream and nothing else. `is_driveable` tells that send() is the server's own, a coroutine
    that does not ask for the current task, so that a hub may run its first step. `release` has the server let go of
    the transport, once the headers of the response are out, and returns None where the stream has to stay.
    """

    transport: asyncio.Transport | None = None
    is_driveable: bool = False
    release: Callable[[], Release | None] | None = None


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

    def __init__(self) -> None:
        self._home: UvicornHome | None = None
        # Whether the classes of a protocol and of its state of a response have the shape that was tested.
        self._known: dict[tuple[type, type], bool] = {}

    def link(self, owner: Any) -> Link:
        transport = _abortable(getattr(owner, "transport", None))
        if transport is None:
            return Link(is_driveable=True)
        return Link(transport, is_driveable=True, release=partial(self._release, owner))

    def _release(self, cycle: Any) -> Release | None:
        """Detach a response's transport. A stream stays that another request waits for, or that is not chunked."""
        transport = cycle.transport
        if not _has(transport, "get_protocol set_protocol"):
            return None
        protocol = transport.get_protocol()
        kinds = type(protocol), type(cycle)
        is_known = self._known.get(kinds)
        if is_known is None:
            is_known = self._known[kinds] = _is_known(protocol, cycle, getattr(protocol, "flow", None))
        if not is_known:
            return None
        flow, scope = protocol.flow, cycle.scope
        is_alone = protocol.cycle is cycle and protocol.scope is scope and not cycle.more_body
        is_open = cycle.response_started and not (cycle.response_complete or cycle.disconnected)
        is_paused = flow.read_paused or flow.write_paused
        if not (is_alone and is_open and scope["http_version"] == "1.1" and scope["method"] != "HEAD") or is_paused:
            return None
        if transport.is_closing():
            return None
        keeps_alive = _keeps_alive_h11(cycle) if hasattr(protocol, "conn") else _keeps_alive_httptools(protocol)
        if keeps_alive is None:
            return None
        # As it does itself when a client is gone: its task then returns without a word.
        protocol.connections.discard(protocol)
        cycle.disconnected = True
        cycle.message_event.set()
        if hasattr(protocol, "parser"):
            protocol.parser = None  # They refer to each other.
        if self._home is None or self._home.state is not protocol.server_state:
            self._home = UvicornHome(protocol)
        return Release(self._home, keeps_alive)

    def tell_way(self, receive: Any) -> None:
        """Tell the log how streams will be carried, from what leads to the server's configuration; see tell_way()."""
        kind = getattr(getattr(_owner(receive), "config", None), "http_protocol_class", None)
        if isinstance(kind, type):
            module = sys.modules.get(kind.__module__)
            _is_known(kind, getattr(module, "RequestResponseCycle", None), getattr(module, "FlowControl", None))

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


class UvicornHome:
    """A uvicorn server that streams have left. See Home."""

    def __init__(self, protocol: Any) -> None:
        self.state = protocol.server_state
        self.connections = protocol.connections
        make: Callable[..., Any] = type(protocol)
        self._make_protocol = partial(
            make,
            config=protocol.config,
            server_state=self.state,
            app_state=protocol.app_state,
            _loop=protocol.loop,
        )

    def count_response(self) -> None:
        self.state.total_requests += 1

    def take_back(self, transport: asyncio.Transport, unread: bytes) -> None:
        protocol = self._make_protocol()
        protocol.connection_made(transport)
        transport.set_protocol(protocol)
        protocol.on_response_complete()  # Which counts the response, and limits the wait for the next request.
        if unread:
            protocol.data_received(unread)


# What the takeover uses, for each module of a protocol of uvicorn's: the names in that protocol, in its state of a
# response, and in its flow control. Tested with uvicorn 0.30 and 0.54.
_PROTOCOL = "app_state config connection_made connections cycle data_received flow loop on_response_complete scope "
_CYCLE = "disconnected keep_alive message_event more_body response_complete response_started scope transport "
_FLOW = "read_paused write_paused"
UVICORN_SHAPES = {
    "uvicorn.protocols.http.httptools_impl": (
        f"{_PROTOCOL} server_state parser pipeline",
        f"{_CYCLE} chunked_encoding",
        _FLOW,
    ),
    "uvicorn.protocols.http.h11_impl": (f"{_PROTOCOL} server_state conn", f"{_CYCLE} conn", _FLOW),
}


def _is_known(protocol: Any, cycle: Any, flow: Any) -> bool:
    """Look whether a protocol can be left, and tell the log. All three are objects, or the classes of such objects."""
    kind = protocol if isinstance(protocol, type) else type(protocol)
    shape = UVICORN_SHAPES.get(kind.__module__)
    is_known = shape is not None and _of_module(cycle) == kind.__module__
    is_known = is_known and all(map(_has, (protocol, cycle, flow), shape or ()))
    _log_way(f"{kind.__module__}.{kind.__qualname__}", bool(is_known))
    return is_known


def _of_module(thing: Any) -> str:
    return (thing if isinstance(thing, type) else type(thing)).__module__


def _has(thing: Any, names: str) -> bool:
    # A class has what its __init__() gives its objects.
    code = getattr(thing.__init__, "__code__", None) if isinstance(thing, type) else None  # type: ignore[misc]
    given = code.co_names if code is not None else ()
    return all(name in given or hasattr(thing, name) for name in names.split())


def _keeps_alive_httptools(protocol: Any) -> bool | None:
    """Tell whether the connection stays after the response; None for a response that cannot leave."""
    return bool(protocol.cycle.keep_alive) if protocol.cycle.chunked_encoding and not protocol.pipeline else None


def _keeps_alive_h11(cycle: Any) -> bool | None:
    """See _keeps_alive_httptools(). h11 tells when it has framed the end, which we send."""
    h11, conn = sys.modules["h11"], cycle.conn
    if conn.our_state is not h11.SEND_BODY or conn.trailing_data[0]:
        return None
    try:
        end = conn.send(h11.EndOfMessage())
    except h11.ProtocolError:  # The response has a length, which its stream exceeds.
        return None
    return cycle.keep_alive and conn.our_state is not h11.MUST_CLOSE if end == LAST_CHUNK else None


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


def tell_way(receive: Any) -> None:
    """Tell the log, when a server starts, how it will carry streams, if that shows by then.

    `receive` is that of its lifespan.
    """
    UVICORN.tell_way(receive)


def find_link(send: Any) -> Link | None:
    """Return what can be reached of the server behind `send`, None for one that is not known to bear the handoff.

    Of a server whose send() a middleware wrapped, nothing can be reached. Call it in the task of the request.
    """
    owner = _owner(send)
    for server in SERVERS:
        if server.owns(owner):
            return server.link(owner)
    task = asyncio.current_task()
    if task is not None:
        for server in SERVERS:
            if server.carries(task):
                _log_wrapped(server.name)
                return Link()
    _log_plain(str(getattr(send, "__module__", None) or type(send).__module__))
    return None


def find_transport(scope: Any) -> Any:
    """Return the transport of a stream in plain mode, None where it cannot be reached."""
    return UVICORN.link_of_scope(scope).transport


@cache
def _log_way(protocol: str, is_known: bool) -> None:
    if is_known:
        logger.info("Streams leave uvicorn: their transports are taken over from %s.", protocol)
    else:
        logger.info("Streams stay in tasks of uvicorn: its %s is not known, so no transport is taken over.", protocol)


@cache
def _log_wrapped(server: str) -> None:
    logger.info("Streams stay in tasks of %s: an ASGI middleware hides its send(), so they cost more memory.", server)


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


def limit_silence(transport: asyncio.Transport, seconds: float = USER_TIMEOUT) -> None:
    """Have the kernel drop the connection when what was sent is not acknowledged for so many seconds."""
    _set_options(transport, TCP_USER_TIMEOUT=int(seconds * 1000))


def probe_when_idle(transport: asyncio.Transport) -> None:
    """Have the kernel ask an idle peer whether it is still there, so that a pulled cable is noticed.

    Not for very many: the kernel asks all that are due within a quarter of a second in one go, and loopback and virtual
    links take 1000 packets at a time. The others are dropped, the same ones each time, and their peers given up.
    """
    _set_options(transport, SO_KEEPALIVE=1, TCP_KEEPIDLE=KEEPALIVE_IDLE, TCP_KEEPINTVL=KEEPALIVE_INTERVAL)


def _set_options(transport: asyncio.Transport, **options: int) -> None:
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    # Not every system has each of these, and the client may be gone (uvloop then raises ValueError).
    with contextlib.suppress(OSError, AttributeError, ValueError):
        for name, value in options.items():
            level = socket.SOL_SOCKET if name.startswith("SO_") else socket.IPPROTO_TCP
            sock.setsockopt(level, getattr(socket, name), value)


def _owner(function: Any) -> Any:
    """Return the object whose method `function` is, through a partial."""
    if isinstance(function, partial):
        function = function.func
    return getattr(function, "__self__", None)


def _module(thing: Any) -> str:
    return type(thing).__module__.partition(".")[0]


def _abortable(transport: Any) -> Any:
    return transport if hasattr(transport, "abort") else None
