"""Real servers in real processes."""

import contextlib
import http.client
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.harness import selection
from tests.harness.sse import SSEClient

SERVERS = ("uvicorn-httptools", "uvicorn-h11", "hypercorn", "daphne", "granian")
MODES = ("handoff", "plain")

# Beside the servers: gunicorn with a worker that runs uvicorn, and with its own for ASGI, where streams are plain.
GUNICORN = ("gunicorn-uvicorn", "gunicorn-asgi")
WORKERS = {"uvicorn": "uvicorn_worker.UvicornWorker", "asgi": "asgi"}

ROOT = Path(__file__).resolve().parent.parent.parent

# Give the `server` fixture each of them in turn.
each_server = pytest.mark.parametrize("server", [f"{kind}/{mode}" for kind in SERVERS for mode in MODES], indirect=True)
each_mode = pytest.mark.parametrize("server", [f"uvicorn-httptools/{mode}" for mode in MODES], indirect=True)

running_servers: "list[Server]" = []
# Who has logged in to a server since the database was last emptied.
logins: list[str] = []

# What a script runs in its background ignores Ctrl-C, and so would every server that is started from there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def command(kind: str, app: str, port: int) -> list[str]:
    """Return the command line that serves `app` on this port of the loopback interface."""
    name, _, variant = kind.partition("-")
    options = {
        "uvicorn": ["--host=127.0.0.1", f"--port={port}", f"--http={variant or 'auto'}", "--no-access-log"],
        "hypercorn": [f"--bind=127.0.0.1:{port}", "--error-logfile=-"],
        "daphne": ["-b", "127.0.0.1", "-p", str(port), "-v", "1"],
        "granian": ["--interface=asgi", "--host=127.0.0.1", f"--port={port}", "--http=1", "--no-access-log"],
        "gunicorn": [f"--bind=127.0.0.1:{port}", f"--worker-class={WORKERS.get(variant)}"],
    }
    if name == "runserver":  # Of Django, or of an app that brings its own.
        return [sys.executable, "-m", "django", "runserver", f"127.0.0.1:{port}"]
    return [sys.executable, "-X", "faulthandler", "-m", name, *options[name], app]


# Below those that Linux gives to outgoing connections, one of which may otherwise sit on a port before its server does,
# or while that starts again. In an order of this process's own, for others run tests on this machine too.
_ports = itertools.cycle(random.Random().sample(range(20_000, 32_768), 12_768))


def free_port() -> int:
    """Return a port of the loopback interface that is free, each time another one."""
    for port in _ports:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("unreachable")


def descendants(pid: int) -> list[int]:
    """Return the ids of this process and everything it started (Linux)."""
    found = [pid]
    for parent in found:
        # Any of them may end while it is looked at.
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{parent}/task").iterdir():
                with contextlib.suppress(OSError):
                    found += [int(child) for child in (thread / "children").read_text().split()]
    return found


class Server:
    """One server process and its children, with the test project or another ASGI app.

        with Server("daphne", "plain", settings={"DS_BROADCASTER_HEARTBEAT_INTERVAL": 0.5}) as server:
            client = server.login("ann").connect("room")

    `args` are added to the server's command line (as in `["--workers=2"]`), `env` to its environment. Its
    port stays the same when it is started again.
    """

    def __init__(
        self,
        kind: str = "uvicorn-httptools",
        mode: str = "handoff",
        *,
        settings: dict[str, Any] | None = None,
        app: str | None = None,
        args: list[str] | None = None,
        env: dict[str, str] | None = None,
        port: int | None = None,
    ) -> None:
        selection.needs("servers")
        self.kind, self.mode = kind, mode
        self.settings = settings or {}
        self.app = app or f"tests.project.asgi_{mode}:application"
        self.args = args or []
        self.env = env or {}
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()

    def __repr__(self) -> str:
        return f"<{self.kind}/{self.mode} on port {self.port}>"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    # Starting and ending

    def start(self, timeout: float = 60) -> "Server":
        """Start the process and return when it answers a request."""
        assert not self.alive, f"{self} is running already."
        # A port that was free a moment ago may be taken now; a given or a former port must be that one.
        ports = [self.port] if self.port else [free_port() for _ in range(3)]
        for port in ports:
            self.port = port
            self._launch()
            try:
                self._wait_until_ready(timeout)
            except BaseException:
                self.kill()
                if port != ports[-1] and "in use" in self.log():
                    continue
                self.stop()
                raise
            running_servers.append(self)
            return self
        raise AssertionError("unreachable")

    def _launch(self) -> None:
        if self._log.closed:
            self._log = tempfile.TemporaryFile()  # noqa: SIM115
        env = os.environ | {
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "TEST_SETTINGS": json.dumps(self.settings),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            "PYTHONUNBUFFERED": "1",
        }
        self.process = subprocess.Popen(
            [*command(self.kind, self.app, self.port), *self.args],
            cwd=ROOT,
            env=env | self.env,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            # A group of its own, so that workers and reloaders end with it.
            start_new_session=True,
        )

    def _wait_until_ready(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                self.get("/ready/", timeout=timeout)
            except (ConnectionError, http.client.HTTPException):
                # Waiting for the process to end is the pause between two tries.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    status = self.process.wait(0.02)
                    raise AssertionError(f"{self} ended at once with status {status}:\n{self.log()}") from None
            else:
                return
        raise AssertionError(f"{self} did not answer within {timeout} s:\n{self.log()}")

    def signal(self, number: int, *, group: bool = False) -> None:
        """Send a signal to the main process, or (as a terminal's Ctrl-C does) to the whole group."""
        (os.killpg if group else os.kill)(self.process.pid, number)

    def sigterm(self, timeout: float = 10) -> float:
        """Send SIGTERM and return the seconds until the process has ended."""
        return self._end_with(signal.SIGTERM, timeout)

    def sigint(self, timeout: float = 10) -> float:
        """Press Ctrl-C and return the seconds until the process has ended."""
        return self._end_with(signal.SIGINT, timeout, group=True)

    def _end_with(self, number: int, timeout: float, *, group: bool = False) -> float:
        begin = time.monotonic()
        self.signal(number, group=group)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self} still runs {timeout} s after signal {number}:\n{self.log()}") from None
        return time.monotonic() - begin

    def kill(self) -> None:
        """End the whole group with SIGKILL, whatever state it is in."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        if self in running_servers:
            running_servers.remove(self)

    def restart(self) -> "Server":
        """Deploy: end the process with SIGTERM and start it again on the same port."""
        self.sigterm()
        self.kill()
        return self.start()

    def stop(self) -> None:
        self.kill()
        self._log.close()

    def __enter__(self) -> "Server":
        return self if self.alive else self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    # Looking inside

    def log(self, since: int = 0) -> str:
        """Return what the process printed, from this byte on."""
        if self._log.closed:
            return ""
        size = os.fstat(self._log.fileno()).st_size
        # The process writes at the file's shared offset, so read without moving it.
        return os.pread(self._log.fileno(), max(0, size - since), since).decode(errors="replace")

    def log_size(self) -> int:
        return 0 if self._log.closed else os.fstat(self._log.fileno()).st_size

    def wait_for_log(self, text: str, timeout: float = 5) -> str:
        """Return the log when it holds this text (looking again and again: a file does not tell that it grew)."""
        deadline = time.monotonic() + timeout
        while text not in (log := self.log()):
            assert time.monotonic() < deadline, f"Waited {timeout} s for {text!r} in the log of {self}:\n{log}"
            time.sleep(0.02)
        return log

    def pids(self) -> list[int]:
        """Return the ids of the main process and all its descendants (Linux)."""
        return descendants(self.process.pid)

    def facts(self) -> dict[str, int]:
        """Return counts of the process that answers: pid, tasks, threads, files, memory (bytes)."""
        return self.get("/facts/").json()

    # Talking to it, as an anonymous visitor

    def visitor(self) -> "Visitor":
        """Return a new client with an empty cookie jar."""
        return Visitor(self)

    def login(self, username: str, *, staff: bool = False) -> "Visitor":
        """Return a client who is logged in as this user (made where there is none), with their `user_id`."""
        visitor = Visitor(self)
        logins.append(username)
        answer = visitor.get(f"/login/{username}/" + ("?staff=1" if staff else ""))
        visitor.user_id = answer.json()["id"]
        return visitor

    def get(self, path: str, **options: Any) -> "Answer":
        return self.visitor().request("GET", path, **options)

    def connect(self, *channels: str, **options: Any) -> SSEClient:
        return self.visitor().connect(*channels, **options)

    def call(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        """Call `broadcast.<verb>(...)` in a sync view of the server and return its result."""
        return self._call("/call/", verb, args, kwargs)

    def acall(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        """Await `broadcast.a<verb>(...)` in an async view of the server and return its result."""
        return self._call("/acall/", verb, args, kwargs)

    def _call(self, path: str, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        answer = self.visitor().post(path, {"verb": verb, "args": args, "kwargs": kwargs})
        content = answer.json()
        if answer.status != 200:
            raise RemoteError(content["error"], content["message"])
        return content["result"]

    def burst(self, channel: str, count: int = 100, **query: Any) -> None:
        """Append numbered items to `#log` back to back; see the view for `start`, `size` and `thread`."""
        assert self.get(f"/burst/{channel}/?{urlencode({'count': count, **query})}").status == 200


class RemoteError(Exception):
    """What a verb raised in the server: `.name` is the exception's class name."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name, self.message = name, message


@dataclass
class Answer:
    """A whole response."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        assert self.headers.get_content_type() == "application/json", f"{self.status}: {self.text[:2000]}"
        return json.loads(self.body)


@dataclass
class Visitor:
    """A client of one server that keeps its cookies."""

    server: Server
    cookies: dict[str, str] = field(default_factory=dict)
    user_id: int | None = None

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout: float = 30,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=timeout)
        with contextlib.closing(connection):
            connection.request(method, path, body, self._headers() | {"Connection": "close"} | (headers or {}))
            with connection.getresponse() as response:
                answer = Answer(response.status, response.headers, response.read())
        for cookie in answer.headers.get_all("Set-Cookie", []):
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value
        return answer

    def get(self, path: str, **options: Any) -> Answer:
        return self.request("GET", path, **options)

    def post(self, path: str, data: Any, **options: Any) -> Answer:
        """Send JSON."""
        headers = {"Content-Type": "application/json"} | options.pop("headers", {})
        return self.request("POST", path, json.dumps(data).encode(), headers, **options)

    def connect(
        self,
        *channels: str,
        view: str = "connect",
        path: str | None = None,
        last_event_id: str | None = None,
        headers: dict[str, str] | None = None,
        receive_buffer: int | None = None,
        wait: bool = True,
        **query: Any,
    ) -> SSEClient:
        """Open a stream, by default wait for its headers, and return it.

        `view` is "connect" or "aconnect"; `path` takes any other URL of the server. `query` goes to the view
        (`presence="html"`, `snapshot="state"`, `cursor=...`).
        """
        path = path or f"/{view}/{','.join(channels)}/"
        if query:
            path += f"?{urlencode(query)}"
        sent = self._headers()
        if last_event_id is not None:
            sent["last-event-id"] = last_event_id
        client = SSEClient(self.server.url + path, sent | (headers or {}), receive_buffer=receive_buffer)
        if wait:
            client.opened()
        return client

    def _headers(self) -> dict[str, str]:
        if not self.cookies:
            return {}
        return {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
