"""The servers that are compared, and one running server with its readings."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from .machine import HERE, CannotMeasure, compile_tool, cores, cpu_of, end_family, family, free_port, pinned

if TYPE_CHECKING:
    from types import TracebackType

START_SECONDS = 20.0
NCHAN = "ngx_nchan_module.so"
ESTABLISHED = "01"  # in /proc/net/tcp


@dataclass(frozen=True)
class Server:
    """One contestant: how it is started, and what must be installed for that."""

    key: str
    title: str
    app: str = ""  # an ASGI application for uvicorn; the C loop and nginx have none
    needs: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    loop: str = "asyncio"
    workers: int = 1
    websocket: bool = False
    store: str = ""  # what carries between its processes, see stores.py
    publisher: str = ""  # what its publishing process does, see publisher.py
    programs: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """Return what is not installed: modules, and programs with a word on where they come from."""
        modules = [name for name in self.needs if not _is_installed(name)]
        programs = [*self.programs, *([self.store] if self.store else [])]
        return modules + [f"{name} (Debian: {' '.join(PROGRAMS[name])})" for name in programs if program(name) is None]

    def command(self, port: int, folder: Path) -> list[str]:
        """Return the command that serves on this port, with its files in this folder.

        All Python servers run on the same uvicorn: httptools, no access log, and the asyncio loop but for one.
        """
        if "nginx" in self.programs:
            return _nginx(port, folder)
        if not self.app:
            return [str(compile_tool("writeloop")), str(port)]
        options = ["--http", "httptools", "--loop", self.loop, "--no-access-log", "--log-level", "warning"]
        if self.workers > 1:
            options += ["--workers", str(self.workers)]
        if self.websocket:
            options += ["--ws", WEBSOCKETS]
        return [sys.executable, "-m", "uvicorn", self.app, "--port", str(port), "--backlog", "4096", *options]


# The programs that are not Python's, each with the packages of Debian that bring it.
PROGRAMS = {
    "nginx": ("nginx-light",),
    NCHAN: ("nginx-light", "libnginx-mod-nchan"),
    "redis-server": ("redis-server",),
    "postgres": ("postgresql",),
    "cc": ("gcc", "libc6-dev"),
}


def install_programs() -> None:
    """Install what the servers need beside Python's packages, as root on Debian; else print the command for that."""
    wanted = {package for name, packages in PROGRAMS.items() if program(name) is None for package in packages}
    if not wanted or shutil.which("apt-get") is None:
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *sorted(wanted)]
    if os.geteuid() == 0:
        print(" ".join(command))
        subprocess.run(command, check=False)
    else:
        print(f"to compare with all: sudo {' '.join(command)}")


def program(name: str) -> str | None:
    """Return the path of a program, or of a module of nginx; Debian keeps some where no PATH looks."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[4]))
    places += [path for folder in PLACES if (path := Path(folder, name)).exists()]
    return shutil.which(name) or (str(places[-1]) if places else None)


PLACES = ("/usr/sbin", "/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/local/libexec/nginx")


def _nginx(port: int, folder: Path) -> list[str]:
    text = (HERE / "apps" / "nchan.conf").read_text()
    for word, value in (("MODULE", program(NCHAN)), ("FOLDER", folder), ("PORT", port)):
        text = text.replace(f"@{word}@", str(value))
    config = folder / "nginx.conf"
    config.write_text(text)
    return [str(program("nginx")), "-c", str(config), "-p", str(folder), "-e", "stderr"]


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # The package that it would be in.
        return False


UVICORN = ("uvicorn", "httptools")
# Also tried: uvicorn's two on the websockets package, which are within the noise of this one, and daphne, which costs
# Channels a quarter more.
WEBSOCKETS = "wsproto"
OURS = {"DJANGO_SETTINGS_MODULE": "benchmarks.apps.ours.settings"}
REDIS = {"DJANGO_SETTINGS_MODULE": "benchmarks.apps.ours.redis_settings"}
POSTGRES = {"DJANGO_SETTINGS_MODULE": "benchmarks.apps.ours.postgres_settings"}
# How many publish, where it is not one sync caller.
AT_ONCE = {"threads": "50 threads at once", "coroutines": "50 coroutines at once", "coroutine": "one coroutine"}
CHANNELS = {"DJANGO_SETTINGS_MODULE": "benchmarks.apps.channels_redis.settings"}
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
            "uvloop",
            "ds_broadcaster, handoff on uvloop",
            "benchmarks.apps.ours.handoff:application",
            ("ds_broadcaster", "django", "uvloop", *UVICORN),
            OURS,
            loop="uvloop",
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
            "eventstream-stored",
            "django-eventstream, events in PostgreSQL",
            "benchmarks.apps.eventstream.asgi:application",
            ("django_eventstream", "django", "psycopg", *UVICORN),
            {"DJANGO_SETTINGS_MODULE": "benchmarks.apps.eventstream.database_settings"},
            store="postgres",
        ),
        Server(
            "handoff-database",
            "ds_broadcaster, handoff",
            "benchmarks.apps.ours.handoff:application",
            ("ds_broadcaster", "django", "psycopg", *UVICORN),
            {"DJANGO_SETTINGS_MODULE": "benchmarks.apps.ours.database_settings"},
            store="postgres",
        ),
        Server(
            "plain-database",
            "ds_broadcaster, plain mode",
            "benchmarks.apps.ours.plain:application",
            ("ds_broadcaster", "django", "psycopg", *UVICORN),
            {"DJANGO_SETTINGS_MODULE": "benchmarks.apps.ours.database_settings"},
            store="postgres",
        ),
        Server(
            "starlette",
            "sse-starlette",
            "benchmarks.apps.starlette_queues:application",
            ("sse_starlette", "starlette", *UVICORN),
        ),
        Server("nchan", "nginx with nchan", programs=("nginx", NCHAN), publisher="nchan"),
        Server("writeloop", "bare write() loop in C"),
        Server(
            "redis",
            "ds_broadcaster, Redis",
            "benchmarks.apps.ours.handoff:application",
            ("ds_broadcaster", "django", "redis", *UVICORN),
            REDIS,
            workers=2,
            store="redis-server",
            publisher="ours",
        ),
        Server(
            "postgres",
            "ds_broadcaster, PostgreSQL",
            "benchmarks.apps.ours.handoff:application",
            ("ds_broadcaster.brokers.postgres", "ds_broadcaster.contrib.postgres", "django", "psycopg", *UVICORN),
            POSTGRES,
            workers=2,
            store="postgres",
            publisher="ours",
        ),
        Server(
            "channels",
            "Channels, Redis pub/sub",
            "benchmarks.apps.channels_redis.asgi:application",
            ("channels", "channels_redis", "wsproto", "django", *UVICORN),
            CHANNELS,
            workers=2,
            websocket=True,
            store="redis-server",
            publisher="channels",
        ),
        Server(
            "channels-sync",
            "Channels, async_to_sync",
            needs=("channels", "channels_redis", "django"),
            env=CHANNELS,
            store="redis-server",
            publisher="channels-sync",
        ),
        # These publish, and serve nothing.
        *[
            Server(
                f"{store}-{way}",
                f"ds_broadcaster, {title}, {AT_ONCE[way]}",
                needs=("ds_broadcaster", "django", module),
                env=env,
                store=program_name,
                publisher=f"ours-{way}",
            )
            for store, title, module, env, program_name, ways in (
                ("redis", "Redis", "redis", REDIS, "redis-server", ("threads", "coroutines", "coroutine")),
                ("postgres", "PostgreSQL", "psycopg", POSTGRES, "postgres", ("threads",)),
            )
            for way in ways
        ],
        Server(
            "redis-py", "redis-py's PUBLISH", needs=("redis",), env=REDIS, store="redis-server", publisher="redis-py"
        ),
    ]
}


class Running:
    """A server process, from `with` to the end of the block, and what it has used so far."""

    def __init__(self, server: Server, env: Mapping[str, str] | None = None) -> None:
        """Remember what to start, with what else in its environment; nothing runs yet."""
        self.server = server
        self.port = free_port()
        self._env = environment(server, env)
        self._folder = tempfile.TemporaryDirectory()
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the server

    def __enter__(self) -> Running:
        """Start the server and wait until it answers on its port."""
        command = self.server.command(self.port, Path(self._folder.name))
        self.process = subprocess.Popen(pinned(command, cores()[0]), env=self._env, stdout=self._log, stderr=self._log)
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
        """Return the CPU time, user and system, that all processes of the server have used."""
        return cpu_of(self.process.pid)

    def rss_kb(self) -> int:
        """Return the resident memory in KB (VmRSS)."""
        return self._status("VmRSS:")

    def streams(self) -> list[int]:
        """Return how many connections each worker holds."""
        counts = [_connections(pid, local=self.port) for pid in family(self.process.pid)]
        return [count for count in counts if count]

    def connections_to(self, port: int) -> int:
        """Return how many connections the server holds to another program's port."""
        return sum(_connections(pid, remote=port) for pid in family(self.process.pid))

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
        end_family(self.process)
        self._log.close()
        self._folder.cleanup()


def _connections(pid: int, *, local: int | None = None, remote: int | None = None) -> int:
    """Return how many connections a process holds whose own port, or whose peer's, is this one."""
    ours = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        ports = [int(address.rpartition(":")[2], 16) for address in fields[1:3]]
        if fields[3] == ESTABLISHED and (ports[0] == local or ports[1] == remote):
            ours.add(f"socket:[{fields[9]}]")
    return sum(str(link.readlink()) in ours for link in Path(f"/proc/{pid}/fd").iterdir())


def environment(server: Server, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for the processes of a server."""
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, **server.env, **(env or {})}
