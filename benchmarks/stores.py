"""What carries between the processes of a cluster: a Redis and a PostgreSQL of the benchmarks' own.

Each listens on a free port of the loopback interface, with the defaults of its package but for where it keeps its
files, and is gone at the end of its `with` block.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .machine import CannotMeasure, cores, cpu_of, ended_cpu_of, free_port, pinned
from .servers import environment, program

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .servers import Server

START_SECONDS = 20.0


class Store:
    """A running store: its port, what its users have in their environment, and the CPU it has used."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, env: dict[str, str]) -> None:
        """Remember the process, and what leads to it."""
        self.port, self.env = port, env
        self._process = process

    def cpu_seconds(self) -> float:
        """Return the CPU time, user and system, that all processes of the store have used."""
        return cpu_of(self._process.pid) + ended_cpu_of(self._process.pid)


def store_of(server: Server, core: int | None = None) -> contextlib.AbstractContextManager[Store]:
    """Return the store that a server needs, as a context manager; it runs on this core, or beside the clients."""
    core = cores()[1] if core is None else core
    return {"redis-server": redis_server, "postgres": postgres}[server.store](server, core)


@contextlib.contextmanager
def redis_server(server: Server, core: int | None) -> Iterator[Store]:
    """Run a Redis that writes nothing to the disk."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder]
        process = _start("redis-server", options, core)
        try:
            _wait_for(port, process)
            yield Store(process, port, {"BENCH_REDIS": f"redis://127.0.0.1:{port}/0"})
        finally:
            process.kill()
            process.wait()


@contextlib.contextmanager
def postgres(server: Server, core: int | None) -> Iterator[Store]:
    """Run a PostgreSQL in a new folder, with the tables of the server's project, and room for 1200 connections."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        initdb = [str(program("initdb")), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8"]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd=folder, timeout=120, **_unprivileged())
        options = ["-D", str(data), "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-k", folder]
        options += ["-c", "max_connections=1200"]
        process = _start("postgres", options, core, cwd=folder, **_unprivileged())
        try:
            _wait_for(port, process)
            store = Store(process, port, {"BENCH_POSTGRES": str(port)})
            _migrate(server, store)
            yield store
        finally:
            process.send_signal(signal.SIGINT)  # It ends its connections and its own processes, and then itself.
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def log_in(server: Server, store: Store) -> str:
    """Return the key of a session in which a user is logged in at the project of a server."""
    command = [sys.executable, "-m", "benchmarks.apps.login"]
    env = environment(server, store.env)
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def _start(name: str, options: list[str], core: int | None, **named: Any) -> subprocess.Popen[bytes]:
    command = pinned([str(program(name)), *options], core)
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **named)


def _unprivileged() -> dict[str, Any]:
    """PostgreSQL refuses to run as root; its package brings a user of that name."""
    return {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise CannotMeasure(f"{process.args!r} does not start.")


def _migrate(server: Server, store: Store) -> None:
    command = [sys.executable, "-m", "django", "migrate", "--verbosity", "0"]
    deadline = time.monotonic() + START_SECONDS
    while True:  # PostgreSQL listens before it accepts clients.
        done = subprocess.run(command, env=environment(server, store.env), capture_output=True, text=True, timeout=60)
        if done.returncode == 0:
            return
        if "starting up" not in done.stderr or time.monotonic() > deadline:
            raise CannotMeasure(f"{server.title} cannot migrate:\n{done.stderr[-2000:]}")
