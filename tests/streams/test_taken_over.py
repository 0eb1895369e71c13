"""Streams that have left uvicorn: nothing of the server is left of them, and all else is as if they had not.

The server runs on the loop of the test, each time with another parser of HTTP, another loop, and with TLS.
"""

import asyncio
import contextlib
import datetime
import gc
import ipaddress
import logging
import ssl
import weakref
from contextvars import ContextVar

import pytest
import uvicorn
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ds_broadcaster import asgi_servers
from ds_broadcaster.asgi import HandoffApplication
from ds_broadcaster.broadcaster import Broadcaster
from ds_broadcaster.hub.hub import Hub
from ds_broadcaster.streams import taken_over
from ds_broadcaster.streams.replayed_requests import still_allowed
from tests.fakes import InlineThreads, make_request

PARSERS = ("httptools", "h11")
LOOPS = {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}
# Each pair of choices is there.
WAYS = [
    ("httptools", "asyncio", "plain"),
    ("httptools", "uvloop", "tls"),
    ("h11", "asyncio", "tls"),
    ("h11", "uvloop", "plain"),
]

viewer = ContextVar("viewer", default="nobody")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Return the files of a key and of its certificate, for the loopback address."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key").write_bytes(key.private_bytes(serialization.Encoding.PEM, *private))
    (folder / "certificate").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return folder / "key", folder / "certificate"


class Site:
    """A uvicorn with an application that answers `/stream` with a stream of the channel "room"."""

    def __init__(self, certificate, tls):
        self.scopes = []
        self.clients = []
        self.viewers = []
        self.hold = None  # An event that a view waits for, after its answer has begun.
        self._files = certificate if tls == "tls" else None
        self.broadcast = Broadcaster(create_hub=self._create_hub)
        self.application = HandoffApplication(self._answer)

    @staticmethod
    def _create_hub(*args, **parts):
        return Hub(*args, **{**parts, "threads": InlineThreads()})

    async def _answer(self, scope, receive, send):
        self.scopes.append(scope)
        self.viewers.append(viewer.get())
        if scope["path"] == "/stream":
            response = self.broadcast.connect("room", make_request(scope))
            headers, status = (
                [(name.encode(), value.encode()) for name, value in response.items()],
                response.status_code,
            )
        else:
            headers, status = [(b"content-length", b"2")], 200
        await send({"type": "http.response.start", "status": status, "headers": headers})
        if self.hold is not None:
            await self.hold.wait()
        await send({"type": "http.response.body", "body": b"ok", "more_body": False})

    @contextlib.asynccontextmanager
    async def serving(self, http="httptools", application=None, **options):
        if self._files:
            options |= {"ssl_keyfile": self._files[0], "ssl_certfile": self._files[1]}
        options = {"lifespan": "off", **options}
        config = uvicorn.Config(application or self.application, port=0, http=http, log_config=None, **options)
        self.server = uvicorn.Server(config)
        serving = asyncio.get_running_loop().create_task(self.server.serve())
        try:
            await until(lambda: self.server.started)
            yield self
        finally:
            self.server.should_exit = True
            try:
                await asyncio.wait_for(serving, 3)
            finally:
                self.broadcast._forget()
                for client in self.clients:
                    client.writer.transport.abort()
                for client in self.clients:
                    with contextlib.suppress(OSError):
                        await client.writer.wait_closed()
        assert not self.connections

    @property
    def connections(self):
        return list(self.hub._connections.all()) if self.broadcast.hubs() else []

    @property
    def hub(self):
        (hub,) = self.broadcast.hubs()
        return hub

    async def client(self):
        context = None
        if self._files:
            context = ssl.create_default_context(cafile=self._files[1])
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.clients.append(Client(*await asyncio.open_connection("127.0.0.1", port, ssl=context)))
        return self.clients[-1]

    async def stream(self, *lines, path="/stream?a=%C3%A9"):
        client = await self.client()
        client.ask(path, *lines)
        await client.expect("\n\n")
        await until(lambda: self.broadcast.hubs() and self.hub.count)
        return client


class Client:
    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.seen = ""

    def ask(self, path, *lines, method="GET", version="1.1", body=""):
        head = [f"{method} {path} HTTP/{version}", "Host: 127.0.0.1", *lines, "", body]
        self.writer.write("\r\n".join(head).encode())

    async def expect(self, text):
        """Read up to this text."""
        async with asyncio.timeout(5):
            self.seen += (await self.reader.readuntil(text.encode())).decode()

    async def rest(self):
        """Read until the server closes."""
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError):
                while data := await self.reader.read(1 << 16):
                    self.seen += data.decode()
        return self.seen


async def until(condition):
    """Let the loop turn until this is true."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def run(loop, coroutine):
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(coroutine)


@pytest.fixture(params=WAYS, ids="-".join)
def way(request, certificate):
    """Return what runs a test on one of the WAYS: `way(test, **options)`, where `test(site)` is async."""
    http, loop, tls = request.param

    def go(test, **options):
        async def main():
            async with Site(certificate, tls).serving(http, **options) as site:
                await test(site)

        run(loop, main())

    return go


@pytest.fixture(params=PARSERS)
def quick(request):
    """The same for what does not depend on the loop."""

    def go(test, **options):
        async def main():
            async with Site(None, "plain").serving(**{"http": request.param, **options}) as site:
                await test(site)

        run("asyncio", main())

    return go


# What is left of it


def test_stream_leaves_nothing_to_the_server_but_its_count(way):
    async def test(site):
        gc.disable()
        try:
            client = await site.client()
            await until(lambda: site.server.server_state.connections)
            (protocol,) = site.server.server_state.connections
            left = weakref.ref(protocol)
            del protocol
            client.ask("/stream")
            await client.expect("\n\n")
            await until(lambda: not site.server.server_state.tasks)
            (connection,) = site.connections
            assert type(connection) is taken_over.TakenOverConnection
            assert site.server.server_state.connections == {connection}
            await until(lambda: left() is None)
        finally:
            gc.enable()
        site.broadcast("room", "<p id=a>hello</p>")
        await client.expect("hello</p>\n\n")
        assert site.hub.ways == {"taken over": 1}
        client.writer.close()
        await until(lambda: not site.hub.count)
        assert not site.server.server_state.connections
        assert site.hub.ways == {"taken over": 0}

    way(test)


def test_request_is_asked_about_again_as_it_was(quick):
    async def test(site):
        await site.stream("Cookie: sessionid=a", "X-Two: 1", "User-Agent: me", "X-Two: 2", path="/stream?b=%C3%A9&c")
        first = {key: value for key, value in site.scopes.pop().items() if not key.startswith("ds_broadcaster")}
        (connection,) = site.connections
        assert await still_allowed(connection) is True
        again = {key: value for key, value in site.scopes.pop().items() if not key.startswith("ds_broadcaster")}
        assert again == first
        assert (b"x-two", b"2") in again["headers"]

    quick(test)


# Clients that do not read


def test_stalled_client_is_waited_for_and_gets_all_in_order(way):
    async def test(site):
        client = await site.stream()
        (connection,) = site.connections
        text, count = "x" * 200_000, 0
        while not connection.busy:
            count += 1
            site.broadcast("room", f"<p id=e{count}>{text}({count})</p>")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert connection in site.hub._connections.blocked
        for number in range(count + 1, count + 4):
            site.broadcast("room", f"<p id=e{number}>({number})</p>")
        for number in range(1, count + 4):
            client.reader._limit = 1 << 20
            await client.expect(f"({number})</p>")
        assert not connection.busy
        assert not site.hub._connections.blocked

    way(test)


# Clients that leave


def test_client_that_leaves_is_noticed_at_once(way):
    async def test(site):
        for leave in ("close", "write_eof", "abort"):
            client = await site.stream()
            if leave != "write_eof" or client.writer.can_write_eof():
                getattr(client.writer, leave, client.writer.transport.abort)()
            else:
                client.writer.close()
            await until(lambda: not site.hub.count)
            assert site.broadcast.get_channels() == []

    way(test)


def test_client_that_leaves_while_its_stream_opens_leaves_nothing(quick):
    async def test(site):
        witness = await site.stream()
        gate = asyncio.Event()
        commands = site.broadcast._broker.commands

        async def slowly(*args):
            await gate.wait()
            return await commands(*args)

        site.broadcast._broker.commands = slowly
        client = await site.client()
        client.ask("/stream")
        await until(lambda: site.hub.count == 2)
        client.writer.close()
        await until(lambda: site.hub.count == 1)
        gate.set()
        await until(lambda: not site.server.server_state.tasks)
        site.broadcast("room", "<p id=a>hello</p>")
        await witness.expect("hello</p>")

    quick(test)


@pytest.mark.parametrize("how", ["error", "cancelled"])
def test_stream_that_fails_to_open_leaves_no_connection(quick, caplog, how):
    async def test(site):
        witness = await site.stream()
        gate = asyncio.Event()

        async def fail(*args):
            gate.set()
            if how == "error":
                raise RuntimeError("told in the server's log")
            await asyncio.sleep(60)

        site.broadcast._broker.commands = fail
        client = await site.client()
        client.ask("/stream")
        await gate.wait()
        for task in list(site.server.server_state.tasks):  # As after the grace of a server that stops.
            task.cancel()
        await client.rest()
        await until(lambda: site.hub.count == 1 == len(site.server.server_state.connections))
        site.broadcast("room", "<p id=a>hello</p>")
        await witness.expect("hello</p>")

    quick(test)
    assert ("told in the server's log" in caplog.text) == (how == "error")


# Ends


def test_clean_end_gives_the_connection_back_to_its_server(way):
    async def test(site):
        client = await site.stream()
        site.broadcast("room", "<p id=a>last</p>")
        site.broadcast.kill("room")
        await client.expect("\r\n0\r\n\r\n")
        assert "last</p>" in client.seen
        requests = site.server.server_state.total_requests
        assert requests == 1
        client.ask("/page")
        await client.expect("\r\n\r\nok")
        client.ask("/stream")
        await client.expect("\n\n")
        await until(lambda: site.hub.count == 1)
        (connection,) = site.connections
        assert site.server.server_state.connections == {connection}

    way(test)


def test_requests_sent_on_a_stream_are_answered_after_it_in_no_one_elses_context(quick):
    async def test(site):
        client = await site.stream()
        client.ask("/one")
        client.ask("/two")
        (connection,) = site.connections
        await until(lambda: b"/two" in connection._unread)
        viewer.set("ann")
        site.broadcast.kill("room")
        await client.expect("\r\n0\r\n\r\n")
        await client.expect("\r\n\r\nok")
        await client.expect("\r\n\r\nok")
        assert [scope["path"] for scope in site.scopes] == ["/stream", "/one", "/two"]
        assert set(site.viewers) == {"nobody"}

    quick(test)


def test_connection_that_was_to_close_closes_behind_a_clean_end(quick):
    async def test(site):
        client = await site.stream("Connection: close")
        site.broadcast.kill("room")
        assert (await client.rest()).endswith("\r\n0\r\n\r\n")
        assert site.server.server_state.total_requests == 1

    quick(test)


def test_client_that_sends_more_than_a_request_is_cut_off(quick):
    async def test(site):
        client = await site.stream()
        client.writer.write(b"x" * taken_over.MAX_UNREAD + b"y")
        await until(lambda: not site.hub.count)
        assert "\r\n0\r\n\r\n" not in await client.rest()

    quick(test)


def test_server_that_stops_tells_when_to_return(way):
    async def test(site):
        clients = [await site.stream() for _ in range(3)]
        site.server.should_exit = True
        for client in clients:
            text = await client.rest()
            assert text.count("retry: ") == 2
            assert "\r\n0\r\n\r\n" not in text

    way(test)


def test_server_that_tells_no_one_of_its_end_ends_all_the_same(quick, monkeypatch):
    monkeypatch.setattr(asgi_servers.UVICORN, "before_shutdown", lambda *args: True)

    async def test(site):
        client = await site.stream()
        site.server.should_exit = True
        assert "\r\n0\r\n\r\n" not in await client.rest()

    quick(test)


def test_streams_count_for_the_servers_limit(quick):
    async def test(site):
        await site.stream()
        await site.stream()
        client = await site.client()
        client.ask("/page")
        assert (await client.rest()).startswith("HTTP/1.1 503 ")

    quick(test, limit_concurrency=3)


# Streams that stay


def is_taken(site):
    return list(site.hub.ways) == ["taken over"]


async def staying(site, client):
    """Wait for a stream that is not taken over, and have something sent on it."""
    await client.expect("event-stream")
    await until(lambda: site.broadcast.hubs() and site.hub.count)
    assert not is_taken(site)
    site.broadcast("room", "<p id=a>hello</p>")
    await client.expect("hello</p>")
    site.broadcast.kill("room")
    await client.expect("\r\n0\r\n\r\n")


def test_stream_stays_whose_client_sends_more(quick):
    """A further request, a part of one, or the rest of its own."""

    async def test(site):
        client = await site.client()
        client.ask("/stream")
        client.ask("/page")
        await staying(site, client)
        await client.expect("\r\n\r\nok")

        client = await site.client()
        client.writer.write(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\nGET /pa")
        await staying(site, client)
        client.writer.write(b"ge HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.expect("\r\n\r\nok")

        client = await site.client()
        client.ask("/stream", "Content-Length: 5", body="abc")
        await staying(site, client)

    quick(test)


def test_stream_stays_of_a_client_of_http_1_0(quick):
    async def test(site):
        client = await site.client()
        client.ask("/stream", version="1.0")
        await client.expect("\n\n")
        await until(lambda: site.broadcast.hubs() and site.hub.count)
        assert not is_taken(site)
        site.broadcast("room", "<p id=a>hello</p>")
        await client.expect("hello</p>")

    quick(test)


async def check_that_a_stream_stays(site):
    client = await site.stream()
    assert not is_taken(site)
    site.broadcast("room", "<p id=a>hello</p>")
    await client.expect("hello</p>")


def said_of_uvicorn(caplog):
    return [record.getMessage() for record in caplog.records if "uvicorn" in record.getMessage()]


class NewProtocol(HttpToolsProtocol):
    """A protocol of uvicorn's that was not there when this was written."""


def test_stream_stays_where_the_server_is_another_than_was_tested(caplog):
    caplog.set_level(logging.INFO, "ds_broadcaster")

    async def main():
        async with Site(None, "plain").serving(NewProtocol) as site:
            await site.stream()
            await check_that_a_stream_stays(site)

    run("asyncio", main())
    (message,) = said_of_uvicorn(caplog)
    assert message.startswith("Streams stay in tasks of uvicorn: its tests.streams.test_taken_over.NewProtocol")


def test_stream_stays_where_a_middleware_wraps_send(caplog, quick):
    caplog.set_level(logging.INFO, "ds_broadcaster")
    asgi_servers._log_wrapped.cache_clear()
    site_application = []

    async def wrapped(scope, receive, send):
        async def wrapped_send(message):
            await send(message)

        await site_application[0](scope, receive, wrapped_send)

    async def test(site):
        site_application.append(site.application)
        for _ in range(2):
            await site.stream()
        assert not is_taken(site)

    quick(test, application=wrapped)
    (message,) = said_of_uvicorn(caplog)
    assert message.startswith("Streams stay in tasks of uvicorn: an ASGI middleware hides its send()")


def test_log_says_once_that_streams_leave(caplog, quick):
    caplog.set_level(logging.INFO, "ds_broadcaster")
    asgi_servers._log_way.cache_clear()
    asgi_servers.UVICORN._known.clear()

    async def test(site):
        for _ in range(2):
            await site.stream()

    quick(test)
    (message,) = said_of_uvicorn(caplog)
    assert message.startswith("Streams leave uvicorn: their transports are taken over from uvicorn.protocols.http.")


@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_log_says_at_the_start_that_streams_will_leave(caplog, http):
    caplog.set_level(logging.INFO, "ds_broadcaster")
    asgi_servers._log_way.cache_clear()

    async def main():
        async with Site(None, "plain").serving(http, lifespan="on"):
            assert len(said_of_uvicorn(caplog)) == 1

    run("asyncio", main())
    assert f"taken over from uvicorn.protocols.http.{http}_impl" in said_of_uvicorn(caplog)[0]


@pytest.mark.parametrize("lacking", [0, 1, 2])
@pytest.mark.parametrize("lifespan", ["on", "off"])
def test_stream_stays_where_a_part_of_the_server_has_another_shape(caplog, monkeypatch, lacking, lifespan):
    caplog.set_level(logging.INFO, "ds_broadcaster")
    asgi_servers._log_way.cache_clear()
    monkeypatch.setattr(asgi_servers.UVICORN, "_known", {})
    name = "uvicorn.protocols.http.httptools_impl"
    shape = list(asgi_servers.UVICORN_SHAPES[name])
    shape[lacking] += " something_new"
    monkeypatch.setitem(asgi_servers.UVICORN_SHAPES, name, tuple(shape))

    async def main():
        async with Site(None, "plain").serving(lifespan=lifespan) as site:
            await check_that_a_stream_stays(site)

    run("asyncio", main())
    (message,) = said_of_uvicorn(caplog)
    assert message.startswith(f"Streams stay in tasks of uvicorn: its {name}.HttpToolsProtocol is not known")
