"""Stand-ins for tests of the core: a loop with its own clock, servers that stall and fail, workers without threads."""

import asyncio
import contextlib
import io
import itertools
import os
import zlib
from concurrent.futures import Future
from types import SimpleNamespace

from django.core.handlers.asgi import ASGIRequest

from ds_broadcaster import signals
from ds_broadcaster.asgi import HandoffApplication
from ds_broadcaster.asgi_servers import Link, Release
from ds_broadcaster.broadcaster import Broadcaster
from ds_broadcaster.brokers import GONE, LEASE, Command, PresenceDiff, PresenceStore, ProcessHoldings
from ds_broadcaster.brokers.memory import MemoryBroker
from ds_broadcaster.exceptions import BrokerUnavailable
from ds_broadcaster.hub.hub import Hub
from ds_broadcaster.streams.replayed_requests import still_allowed
from ds_broadcaster.streams.requests import StreamOptions, checked_channels
from ds_broadcaster.streams.responses import _ask_django
from tests.harness.sse import Comment, Event, Retry, SSEParser


class Factor(float):
    """Multiplies a number of examples, of which at least one is left."""

    def __rmul__(self, count):
        return max(1, round(count * float(self)))


# EXAMPLES=20 multiplies the work of every hypothesis test, for a thorough run; `make test-fast` takes a quarter.
FACTOR = Factor(os.environ.get("EXAMPLES", "1"))


class Hostile(str):
    """A string that passes each check, and then says something else."""

    FORGED = "#a\ndata: forged"

    def __str__(self):
        return self.FORGED

    def __format__(self, spec):
        return self.FORGED

    def __getitem__(self, index):
        return self.FORGED

    def __bool__(self):
        return True

    def __eq__(self, other):
        return True

    def __hash__(self):
        return 1

    def strip(self, *args):
        return self.FORGED

    def encode(self, *args):
        return self.FORGED.encode()


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that runs only when told to, and whose clock only advance() moves."""

    def __init__(self):
        super().__init__()
        self.clock = 1000.0
        self.errors = []
        self.set_exception_handler(lambda loop, context: self.errors.append(context))

    def time(self):
        return self.clock

    def turn(self, count=1):
        """Run what is ready now, and what that makes ready not before the next turn."""
        for _ in range(count):
            self.call_soon(self.stop)
            self.run_forever()

    def settle(self):
        """Run until nothing more happens without the clock."""
        for _ in range(10_000):
            self.turn()
            due = self._scheduled and self._scheduled[0]._when <= self.clock
            if not self._ready and not due:
                return
        raise AssertionError("The loop never comes to rest.")

    def advance(self, seconds, step=0.25):
        """Let time pass in small steps, as a loop that is not busy sees it."""
        self.settle()
        end = self.clock + seconds
        while self.clock < end:
            self.clock = min(end, self.clock + step)
            self.settle()

    def close_down(self):
        """Cancel what is left, as asyncio.run() does, and close."""
        if self.is_closed():
            return
        for task in asyncio.all_tasks(self):
            task.cancel()
        self.settle()
        self.run_until_complete(self.shutdown_asyncgens())
        self.close()


class InlineThreads:
    """The hub's threads without threads: renders happen at once, signals are kept in `sent`."""

    def __init__(self):
        self.sent = []
        self.closed = False

    def render(self, function, *args):
        done = Future()
        try:
            done.set_result(function(*args))
        except Exception as error:
            done.set_exception(error)
        return done

    def send(self, signal, channel, user_id):
        name = next(name for name, each in vars(signals).items() if each is signal)
        self.sent.append((name, channel, user_id))

    def call(self, function, *args):
        function(*args)

    def close(self):
        self.closed = True


class SlowThreads(InlineThreads):
    """Threads that look at once, and answer on the loop as many seconds later as `delay()` says."""

    def __init__(self, delay):
        super().__init__()
        self.delay = delay
        self.loop = None

    def render(self, function, *args):
        seen, answer = super().render(function, *args), Future()

        def give():
            if answer.set_running_or_notify_cancel():
                error = seen.exception()
                answer.set_result(seen.result()) if error is None else answer.set_exception(error)

        self.loop.call_later(self.delay(), give)
        return answer


class Store(PresenceStore):
    """A presence store that knows of other processes what a test puts into `remote`, and can be `away`."""

    def __init__(self):
        super().__init__()
        self.remote = {}
        self.away = False
        self.diffs = []

    async def sync(self, receiver, changes, lease, memory):
        return self.diffs.pop(0) if self.diffs else PresenceDiff([], [])

    def online(self, channel, *, excluding=()):
        if self.away:
            raise BrokerUnavailable("It is away.")
        return [(user, 1) for user in self.remote.get(channel, [])]

    def holdings(self, *, excluding=()):
        return []


class SharedPresence(PresenceStore):
    """A presence store of several processes in the memory of one, with a test's clock."""

    def __init__(self, clock, lease=LEASE):
        super().__init__(lease)
        self._clock = clock
        self._memories = itertools.count()
        self.forget()

    def forget(self):
        """Lose everything, as a server does that crashes."""
        self._memory = f"memory-{next(self._memories)}"
        # When it has settled, once it has begun to.
        self._settles = None
        self._ends, self._users, self._connections, self._parts = {}, {}, {}, {}
        # Whose join or leave is still to be told.
        self._owed = set()

    def _online(self):
        return {pair for held in self._users.values() for pair in held}

    def _here(self):
        parts = [part for held in self._parts.values() for part in held.items()]
        return {pair for pair, part in parts if part is None or not part.is_away}

    async def sync(self, receiver, changes, lease, memory):
        now, me = self._clock(), receiver.process
        if self._settles is None and memory not in (None, self._memory):
            self._settles = now + lease
        before, were_here = self._online(), self._here()
        told = before ^ self._owed
        told |= {(each.channel, each.user) for each in changes if each.is_known}
        for dead in [name for name, end in self._ends.items() if end <= now and name != me]:
            del self._ends[dead], self._users[dead], self._connections[dead], self._parts[dead]
        is_forgotten = me not in self._ends
        self._ends[me] = now + lease
        users, connections = self._users.setdefault(me, {}), self._connections.setdefault(me, {})
        parts, longer = self._parts.setdefault(me, {}), []
        for channel, user, count, _ in changes:
            held, key = (connections, channel) if user is None else (users, (channel, user))
            if count == GONE:
                held.pop(key, None)
            else:
                held[key] = count
            if user is not None:
                parts.pop(key, None)
                if count != GONE and (part := receiver.part(channel, user)) is not None:
                    others = [theirs[key].since for theirs in self._parts.values() if theirs.get(key) is not None]
                    if (since := min([part.since, *others])) < part.since:
                        longer.append((channel, user, since))
                    parts[key] = part._replace(since=since)
        online = self._online()
        is_settled = self._settles is None or self._settles <= now
        self._owed = set() if is_settled else online ^ told
        joined, left = (online - told, told - online) if is_settled else (set(), set())
        next_end = min([*self._ends.values(), *([] if is_settled else [self._settles])]) - now
        stayed = online & before - joined - left if is_settled else set()
        away = [pair for pair in stayed if pair in were_here and pair not in self._here()]
        back = [pair for pair in stayed if pair not in were_here and pair in self._here()]
        return PresenceDiff(
            list(joined), list(left), is_forgotten, next_end, self._memory, is_settled, away, back, longer
        )

    def parts(self, channel, *, excluding=()):
        return [
            part
            for _, parts in self._living(self._parts, excluding)
            for (name, _), part in parts.items()
            if name == channel
        ]

    def online(self, channel, *, excluding=()):
        return [
            (user, count)
            for process, users in self._living(self._users, excluding)
            for (name, user), count in users.items()
            if name == channel
        ]

    def holdings(self, *, excluding=()):
        return [ProcessHoldings(*each) for each in self._living(self._connections, excluding)]

    def _living(self, parts, excluding):
        now = self._clock()
        return [(name, part) for name, part in parts.items() if self._ends[name] > now and name not in excluding]


class SharedBroker(MemoryBroker):
    """The memory broker, as if there were other processes."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.presence = Store()


class MortalBroker(MemoryBroker):
    """The memory broker, as if its server could lose its memory."""

    def begin_anew(self):
        receivers = self._receivers
        self.__init__(self.location, self.options, self.limits, clock=self._clock)
        self._receivers = receivers
        for receiver in receivers:
            receiver.reset(self.epoch)


async def release_nothing():
    """What plain mode does with database connections, where there are none."""


async def still_allowed_by_its_site(connection):
    """Ask again as a hub does, but where the request is of no site: Django would be asked in a thread, for a 404."""
    request = connection.request
    return True if request is not None and request.application is _ask_django else await still_allowed(connection)


@contextlib.contextmanager
def virtual_world(*, broker_class=MemoryBroker, **parts):
    """Yield a World of real classes, with a loop's own clock and without threads; `parts` go to its hubs."""
    loop = VirtualLoop()

    def create_broker(settings):
        return broker_class(settings.broker.LOCATION, settings.broker.OPTIONS, settings.history, clock=loop.time)

    def create_hub(*args, **named):
        hub_parts = {"threads": InlineThreads(), **named, "still_allowed": still_allowed_by_its_site, **parts}
        hub_parts["threads"].loop = loop
        hub = Hub(*args, **hub_parts)
        world.threads[hub] = hub_parts["threads"]
        return hub

    broadcaster = Broadcaster(create_broker=create_broker, create_hub=create_hub, clock=loop.time)
    world = World(loop, broadcaster)
    try:
        yield world
    finally:
        loop.close_down()
        broadcaster._forget()
    assert not loop.errors, loop.errors


class World:
    """A loop that only moves when told to, and a broadcaster on it."""

    def __init__(self, loop, broadcaster):
        self.loop = loop
        self.broadcast = broadcaster
        self.threads = {}  # Of each hub.

    @property
    def broker(self):
        return self.broadcast._broker

    @property
    def hub(self):
        (hub,) = self.broadcast.hubs()
        return hub

    @property
    def signals(self):
        """The Django signals that were sent: (name, channel, user)."""
        return self.threads[self.hub].sent

    @property
    def connections(self):
        """The open connections, in the order of their channels."""
        hubs = self.broadcast.hubs()
        return list(dict.fromkeys(each for hub in hubs for channel in hub.live() for each in channel.connections))

    def client(self, channels="room", user_id=None, **options):
        """Open a stream, and let it take its opening frames."""
        client = FakeClient(self.loop, self.broadcast, channels, user_id, **options)
        self.loop.settle()
        return client

    def disconnect(self, channel, user_id):
        """broadcast.disconnect() without a user model's say."""
        self.broker.command(channel, Command("disconnect", user_id))

    def settle(self):
        self.loop.settle()

    def advance(self, seconds):
        self.loop.advance(seconds)


def make_scope(cursor=None, query=b"", method="GET", *, gzip=False):
    headers = [(b"last-event-id", cursor.encode("latin-1"))] if cursor is not None else []
    if gzip:
        headers.append((b"accept-encoding", b"gzip"))
    return {
        "type": "http",
        "method": method,
        "path": "/",
        "query_string": query,
        "headers": headers,
        "transport": None,
    }


def make_request(scope, user_id=None):
    """Return the ASGI request of a logged in user, or of an anonymous one."""
    request = ASGIRequest(scope, io.BytesIO())
    request.user = SimpleNamespace(pk=user_id, is_authenticated=user_id is not None)
    return request


# How a stream is carried: by whom, and whether its transport is within reach. The first is uvicorn.
KINDS = ("taken over", "driven", "driven, write last", "driven, no transport", "task", "plain", "plain, no transport")
# Those whose clients take gzip, unless a test says otherwise.
GZIP_KINDS = ("taken over", "driven, write last", "plain")


class FakeTransport:
    def __init__(self, client):
        self.client = client
        self.closing = False

    def abort(self):
        self.close()

    def close(self):
        self.closing = True
        self.client.loop.call_soon(self.client.vanish)

    def is_closing(self):
        return self.closing

    def get_extra_info(self, name):
        return None


class FakeTakenTransport(FakeTransport):
    """The transport of a stream that has left its server, as asyncio has it: it buffers while the client stalls."""

    def __init__(self, client):
        super().__init__(client)
        self.connections = set()
        self.protocol = None
        self.buffer = []
        self.unread = None  # What the server was given back with the transport.
        self.responses = 0
        self.is_lost = False

    def release(self):
        return None if self.client._gone.is_set() else Release(self, True)

    def set_protocol(self, protocol):
        self.protocol = protocol

    def write(self, data):
        client = self.client
        assert not self.closing or self.is_lost, "write() was called on a closing transport"
        if client.failing:
            client.loop.call_soon(self.lose, OSError("the connection is broken"))
        elif not client._gone.is_set():
            client.writes += 1
            self.buffer.append(data)
            self.flush()
            if self.buffer:
                self.protocol.pause_writing()

    def flush(self):
        client = self.client
        while self.buffer and not client.stalled:
            for message in dechunked(self.buffer.pop(0)):
                client.take(message)
            if client.is_slow:
                client._writable.clear()
        if self.closing and not self.buffer:
            client.loop.call_soon(self.lose)

    def drained(self):
        if self.buffer:
            self.flush()
            if not self.buffer and not self.is_lost:
                self.client.loop.call_soon(self.protocol.resume_writing)

    def abort(self):
        self.buffer.clear()
        self.close()

    def close(self):
        self.closing = True
        self.flush()

    def lose(self, error=None):
        if not self.is_lost:
            self.is_lost = self.closing = True
            self.client.is_over.set()
            if self.protocol is not None:
                self.protocol.connection_lost(error)

    def take_back(self, transport, unread):
        assert transport is self
        assert not self.connections
        self.protocol, self.unread = None, unread
        self.count_response()
        self.client.is_over.set()

    def count_response(self):
        self.responses += 1


def dechunked(data):
    """Return the bytes of a response in chunked encoding as ASGI messages."""
    while data:
        size, data = data.split(b"\r\n", 1)
        count = int(size, 16)
        body, end, data = data[:count], data[count : count + 2], data[count + 2 :]
        assert end == b"\r\n"
        yield {"body": body, "more_body": count > 0}


class FakeClient:
    """One stream from the view to the parser, through a server that stalls, drains and fails when told to.

    `end` tells how it ended: "clean" (for most clients final), "cut" (all of them return), "left", "refused".
    """

    def __init__(
        self,
        loop,
        broadcaster,
        channels,
        user_id=None,
        *,
        kind="driven",
        cursor=None,
        query=b"",
        before_opening=None,
        is_inspectors=False,
        gzip=None,
        **options,
    ):
        self.loop = loop
        self.kind = kind
        self.channels = channels
        self.user_id = user_id
        self.driveable = kind.startswith("driven")
        self.write_last = kind == "driven, write last"
        self.parser = SSEParser()
        self.decoder = None
        self.frames = []
        self.wire = []  # Of each write, what is on the wire, and the text that it is for the client.
        self.heard = []
        self.writes = 0
        self.end = None
        self.failing = False
        self.is_slow = False  # Takes one write for each drain().
        self.was_hindered = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._gone = asyncio.Event()
        self.is_over = asyncio.Event()  # Of a stream that was taken over: it has lost its transport.
        self._sending = False
        self.scope = make_scope(cursor, query, gzip=kind in GZIP_KINDS if gzip is None else gzip)
        if kind in ("driven", "driven, write last", "plain"):
            self.scope["transport"] = FakeTransport(self)
        elif kind == "taken over":
            self.scope["transport"] = FakeTakenTransport(self)
        options = StreamOptions(**options)

        def connect(scope):
            request = make_request(scope, user_id)
            names = channels if is_inspectors else checked_channels(channels, request, options)
            return broadcaster.opener.open(names, request, options)

        self._connect = connect
        self._before_opening = before_opening  # Called between the view and the stream, as if by middleware.
        self.task = loop.create_task(self._run())

    # What it got.

    @property
    def events(self):
        return [frame for frame in self.frames if isinstance(frame, Event)]

    @property
    def texts(self):
        return [event.elements for event in self.events if event.elements]

    @property
    def signals(self):
        return [event.signals for event in self.events if event.signals]

    @property
    def retries(self):
        return [frame.milliseconds for frame in self.frames if isinstance(frame, Retry)]

    @property
    def told_of_gap(self):
        return Comment("gap") in self.frames

    @property
    def last_id(self):
        return self.parser.last_event_id

    @property
    def stalled(self):
        return not self._writable.is_set()

    # What happens to it.

    def stall(self):
        self.was_hindered = True
        self._writable.clear()

    def drain(self):
        self._writable.set()
        if self.kind == "taken over":
            self.scope["transport"].drained()

    def fail(self):
        self.was_hindered = self.failing = True

    def vanish(self):
        """Close the page; the server notices."""
        if self.end is None:
            self.was_hindered = True
            self.end = "left" if self.scope["transport"] is None or not self.scope["transport"].closing else "cut"
        self._gone.set()
        self._writable.set()
        if self.kind == "taken over":
            self.scope["transport"].buffer.clear()
            self.loop.call_soon(self.scope["transport"].lose)
        if self.kind.startswith("plain"):
            self.task.cancel()  # As Django does when the server reports the disconnect.

    # The server.

    async def _send(self, message):
        assert not self._sending, "send() was called while an earlier one is not done"
        if message["type"] == "http.response.start":
            self.begin(dict(message["headers"]).get(b"content-encoding", b"identity"))
            return
        if self._gone.is_set() or self.end == "refused":
            return
        if self.failing:
            raise OSError("the connection is broken")
        self._sending = True
        self.writes += 1
        try:
            if not self.write_last:
                self.take(message)
            await self._writable.wait()
            if self.write_last and not self._gone.is_set():
                self.take(message)
        finally:
            self._sending = False
            if self.is_slow:
                self._writable.clear()

    def begin(self, encoding):
        """What the client's end makes of the headers."""
        assert encoding in (b"gzip", b"identity")
        if encoding == b"gzip":
            self.decoder = zlib.decompressobj(31)

    def take(self, message):
        """What the client's end of the connection receives."""
        assert self.end is None, f"{message} after the end"
        text = message["body"]
        self.wire.append(text)
        if self.decoder is not None:
            text = self.decoder.decompress(text)
            assert not self.decoder.eof, "an end of gzip, which the stream does not have"
        self.heard.append(text)
        self.frames += self.parser.feed(text)
        if not message["more_body"]:
            self.end = "clean"

    async def _receive(self):
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _run(self):
        try:
            await (self._run_plain() if self.kind.startswith("plain") else self._run_handed_off())
        except OSError:
            assert self.failing
        except asyncio.CancelledError:
            if not self.kind.startswith("plain"):
                raise
        if self.end is None:
            self.end = "cut"

    async def _pass_middleware(self):
        if self._before_opening is not None:
            self._before_opening()
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    async def _run_handed_off(self):
        async def django(scope, receive, send):
            response = self._connect(scope)
            if not response.streaming:
                self.end = "refused"
            await self._pass_middleware()
            headers = [(name.lower().encode(), value.encode()) for name, value in response.items()]
            await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        def find_link(send):
            transport = self.scope["transport"]
            return Link(transport, is_driveable=self.driveable, release=getattr(transport, "release", None))

        await HandoffApplication(django, find_link=find_link)(self.scope, self._receive, self._send)
        if self.kind == "taken over" and self.scope["transport"].protocol is not None:
            await self.is_over.wait()

    async def _run_plain(self):
        response = self._connect(self.scope)
        if not response.streaming:
            self.end = "refused"
            return
        self.begin(response["Content-Encoding"].encode())
        await self._pass_middleware()
        body = response.stream.body(release=release_nothing, transport=self.scope["transport"])
        async with contextlib.aclosing(body) as parts:
            async for part in parts:
                await self._send({"type": "http.response.body", "body": part, "more_body": True})
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
