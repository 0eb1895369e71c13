"""The servers that are compared, and one running server with its readings."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from .machine import HERE, CannotMeasure, compile_tool, cores, free_port, pinned

if TYPE_CHECKING:
    from types import TracebackType

START_SECONDS = 20.0


@dataclass(frozen=True)
class Server:
    """One contestant: how it is started, and what must be installed for that."""

    key: str
    title: str
    app: str = ""  # an ASGI application for uvicorn; the C loop has none
    needs: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)

    def missing(self) -> list[str]:
        """Return the modules that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]

    def command(self, port: int) -> list[str]:
        """Return the command that serves on this port.

        All Python servers run on the same uvicorn: one worker, httptools, the asyncio loop, no access log.
        """
        if not self.app:
            return [str(compile_tool("writeloop")), str(port)]
        options = ["--http", "httptools", "--loop", "asyncio", "--no-access-log", "--log-level", "warning"]
        return [sys.executable, "-m", "uvicorn", self.app, "--port", str(port), "--backlog", "4096", *options]


UVICORN = ("uvicorn", "httptools")
OURS = {"DJANGO_SETTINGS_MODULE": "benchmarks.apps.ours.settings"}
EVENTSTREAM = {"DJANGO_SETTINGS_MODULE": "benchmarks.apps.eventstream.settings"}

SERVERS = {
    server.key: server
    for server in [
        Server(
            "handoff",
            "ds_broadcaster, handoff",
            "benchmarks.apps.ours.handoff:application",
            ("ds_broadcaster", "django", *UVICORN),
            OURS,
        ),
        Server(
            "plain",
            "ds_broadcaster, plain mode",
            "benchmarks.apps.ours.plain:application",
            ("ds_broadcaster", "django", *UVICORN),
            OURS,
        ),
        Server(
            "eventstream",
            "django-eventstream",
            "benchmarks.apps.eventstream.asgi:application",
            ("django_eventstream", "django", *UVICORN),
            EVENTSTREAM,
        ),
        Server(
            "starlette",
            "sse-starlette",
            "benchmarks.apps.starlette_queues:application",
            ("sse_starlette", "starlette", *UVICORN),
        ),
        Server("writeloop", "bare write() loop in C"),
    ]
}


class Running:
    """A server process, from `with` to the end of the block, and what it has used so far."""

    def __init__(self, server: Server) -> None:
        """Remember what to start; nothing runs yet."""
        self.server = server
        self.port = free_port()
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the server

    def __enter__(self) -> Running:
        """Start the server and wait until it answers on its port."""
        path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH", "")]))
        env = {**os.environ, "PYTHONPATH": path, **self.server.env}
        self.process = subprocess.Popen(
            pinned(self.server.command(self.port), cores()[0]), env=env, stdout=self._log, stderr=self._log
        )
        try:
            self._wait_until_up()
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Kill the server; how it ends by itself is for the tests to show."""
        self._kill()

    def cpu_seconds(self) -> float:
        """Return the CPU time, user and system, that all threads of the server have used."""
        # The process's CPU clock: the utime + stime of /proc/PID/stat, in nanoseconds.
        return time.clock_gettime((~self.process.pid << 3) | 2)

    def rss_kb(self) -> int:
        """Return the resident memory in KB (VmRSS)."""
        return self._status("VmRSS:")

    def threads(self) -> int:
        """Return the number of operating system threads."""
        return self._status("Threads:")

    def settle(self, seconds: float = 10.0) -> None:
        """Wait until the server has nothing left to do, at most this long."""
        deadline = time.monotonic() + seconds
        before = self.cpu_seconds()
        while time.monotonic() < deadline:
            time.sleep(0.25)
            before, last = self.cpu_seconds(), before
            if before - last < 0.005:
                return

    def log(self) -> str:
        """Return the end of what the server has printed."""
        self._log.seek(0)
        return "\n".join(self._log.read().decode(errors="replace").splitlines()[-3:])

    def _status(self, name: str) -> int:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
        raise CannotMeasure(f"{self.server.title} ended early:\n{self.log()}")

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise CannotMeasure(f"{self.server.title} does not start:\n{self.log()}")

    def _kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()
