"""What the harness asks of the machine: cores to pin to, open files, a compiler, free ports."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import resource
import shutil
import signal
import socket
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BUILD = HERE / "build"
# Where the figures go.
RUN = BUILD / "run.json"


class CannotMeasure(RuntimeError):
    """The machine or the environment does not allow a measurement; the message says what to change."""


def cores() -> tuple[int | None, int | None]:
    """Return the core for the server and the one for the client, or None twice where there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[1]) if len(allowed) > 1 else (None, None)


def pinned(command: list[str], core: int | None) -> list[str]:
    """Return the command, bound to one core where that is possible."""
    if core is None or shutil.which("taskset") is None:
        return command
    return ["taskset", "-c", str(core), *command]


def raise_file_limit(streams: int) -> None:
    """Allow the servers and clients started from now on a file for each stream, or say what is in the way."""
    wanted = streams + 200
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise CannotMeasure(
            f"{streams} streams need {wanted} open files, and the hard limit is {hard}: "
            f"raise it (ulimit -Hn {wanted} as root, or nofile in limits.conf)."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def compile_tool(name: str) -> Path:
    """Compile native/<name>.c, unless that is done already, and return the program."""
    source, program = HERE / "native" / f"{name}.c", BUILD / name
    if program.exists() and program.stat().st_mtime > source.stat().st_mtime:
        return program
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise CannotMeasure("The load client is written in C: install a C compiler (cc) first.")
    BUILD.mkdir(exist_ok=True)
    subprocess.run([compiler, "-O2", "-o", str(program), str(source)], check=True, timeout=60)
    return program


def free_port() -> int:
    """Return a TCP port on the loopback interface without a listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_calm(seconds: float, busy: float = 0.15) -> bool:
    """Wait until others leave the processors alone, at most this long; tell whether they do.

    A measurement beside something else that wants the same core shows queues and joined events, not costs.
    """
    deadline = time.monotonic() + seconds
    while True:
        idle, total = _processor_times()
        time.sleep(0.5)
        idle_now, total_now = _processor_times()
        if total_now == total or 1 - (idle_now - idle) / (total_now - total) <= busy:
            return True
        if time.monotonic() > deadline:
            return False


def family(pid: int) -> list[int]:
    """Return a process and all that it has started, and those have started in turn."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def cpu_of(pid: int) -> float:
    """Return the CPU time, user and system, that a process and its family have used."""
    return sum(map(_cpu_clock, family(pid)))


def ended_cpu_of(pid: int) -> float:
    """Return the CPU time of the children of a process that have ended, to a hundredth of a second.

    PostgreSQL has one for each connection.
    """
    _, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    user, system = map(int, rest.split()[13:15])  # cutime and cstime, see proc(5)
    return (user + system) / os.sysconf("SC_CLK_TCK")


def end_family(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that was started here, and its family."""
    global _orphans
    _, *descendants = family(process.pid)
    _orphans += sum(map(_cpu_clock, descendants))
    process.kill()
    process.wait()
    for pid in descendants:  # After their parent, which might replace them.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def end_client(process: subprocess.Popen[Any]) -> None:
    """Kill a process that was started here with pipes to it, and close them."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _cpu_clock(pid: int) -> float:
    # The process's CPU clock: the utime + stime of /proc/PID/stat, in nanoseconds.
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:  # It has ended.
        return 0.0


# CPU seconds of processes without a parent to wait for them: it was killed with them.
_orphans = 0.0


class Spare:
    """A budget of seconds, spent within `with` blocks."""

    def __init__(self, seconds: float) -> None:
        """Begin with this many seconds."""
        self._left = seconds
        self._since = 0.0

    def __enter__(self) -> None:
        """Begin to spend."""
        self._since = time.monotonic()

    def __exit__(self, *exception: object) -> None:
        """Stop spending."""
        self._left -= time.monotonic() - self._since

    def spend(self) -> None:
        """Leave nothing."""
        self._left = 0.0

    def left(self) -> float:
        """Return the seconds that are left, 0 when there are none."""
        return max(0.0, self._left)


class Others:
    """How many cores other programs used since this began (children still running count as others)."""

    def __init__(self) -> None:
        """Begin."""
        self._start, self._used, self._own = time.monotonic(), _busy_seconds(), _own_seconds()

    def cores(self) -> float:
        """Return the mean number of cores that others kept busy."""
        others = _busy_seconds() - self._used - (_own_seconds() - self._own)
        return max(0.0, others / (time.monotonic() - self._start))


def _busy_seconds() -> float:
    idle, total = _processor_times()
    return (total - idle) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages) + _orphans


def _processor_times() -> tuple[int, int]:
    """Return the ticks that all processors were idle, and all their ticks."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def describe() -> dict[str, object]:
    """Return what a reader of the figures must know about the machine."""
    server, client = cores()
    return {
        "cpu": _line("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(int(_line("/proc/meminfo", "MemTotal").split()[0]) / 1e6),
        "kernel": ".".join(re.findall(r"\d+", os.uname().release)[:2]),
        "python": platform.python_version(),
        "pinned": server is not None and client is not None,
    }


def _line(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return "0"


PACKAGES = (
    "ds-broadcaster",
    "django",
    "uvicorn",
    "httptools",
    "uvloop",
    "django-eventstream",
    "sse-starlette",
    "starlette",
    "channels",
    "channels-redis",
    "wsproto",
    "redis",
    "hiredis",
    "psycopg",
)


def versions() -> dict[str, str]:
    """Return the versions of what is measured."""
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
