"""100,000 streams on one machine: python -m benchmarks.hundred_thousand [--streams N] [--loop NAME] [--channels N].

Six workers over Redis hold the streams: of 100 channels, then of one. Rounds of events go to all of them, one worker is
killed, and its clients return to the others.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO, TYPE_CHECKING, Any

from .herd import SPARE_FILES, Herd
from .machine import HERE, CannotMeasure, compile_tool, cpu_of, describe, end_family, free_port, raise_file_limit
from .report import judged, versions
from .servers import Server, environment
from .stores import store_of
from .targets import Verdict

if TYPE_CHECKING:
    from types import TracebackType

Figures = dict[str, Any]

STREAMS = 100_000
WORKERS = 6
CLIENTS = 6
# Event loops, with numbers of channels.
PARTS = (("asyncio", 100), ("asyncio", 1), ("uvloop", 100))
# A process may have 20,000 files here. The limit of connections of a worker, of its share of the streams: five hold
# 97.5 % of all. And the files it has beside its streams: requests, Redis, its own.
ROOM = 1.17
FILES_BESIDE = 450
# An event's HTML, and the events of a phase, each with its number.
EVENT_BYTES = 200
ROUNDS = 10
BURST = 10
# Seconds without an event, which heartbeats fill; between two rounds; and from the death of a worker to its
# replacement, as a supervisor starts it.
IDLE = 15.0
PAUSE = 2.0
RESTART = 3.0
# The worker is killed this long after a round began: on the way to its clients.
KILL_AT = 0.1
# Rounds from the kill on, at least.
ROUNDS_AFTER_KILL = 8
START_SECONDS = 60.0
# KB of memory that a stream may take, with both ends of its connection, for the check before.
MEMORY = 30
# KB that a stream may take in its worker.
MEMORY_TARGET = 6.0

SERVER = Server(
    "hundred-thousand",
    "ds_broadcaster, Redis, six workers",
    env={"DJANGO_SETTINGS_MODULE": "benchmarks.apps.hundred_thousand.settings"},
    needs=("ds_broadcaster", "django", "redis", "uvicorn", "httptools", "uvloop"),
    store="redis-server",
)


@dataclass(frozen=True)
class Plan:
    """One part of the run: on which event loop, on how many channels, and how many streams."""

    loop: str
    channels: int
    streams: int

    @property
    def room(self) -> int:
        """The connections that a worker takes."""
        return math.ceil(self.streams / WORKERS * ROOM)

    def name(self, channel: int | str) -> str:
        """Return the name of a channel, none of which two parts share."""
        return f"{self.loop}-{self.channels}-{channel}"


class Worker:
    """A uvicorn on a port of its own."""

    def __init__(self, plan: Plan, env: dict[str, str], log: IO[bytes]) -> None:
        """Start nothing yet."""
        self.port = free_port()
        self._env = environment(SERVER, env)
        self._log = log
        app = "benchmarks.apps.ours.handoff:application"
        options = ["--loop", plan.loop, "--http", "httptools", "--no-access-log", "--log-level", "warning"]
        self._command = [sys.executable, "-m", "uvicorn", app, "--port", str(self.port), *options]
        if shutil.which("setpriv"):  # It must not outlive the run, however that ends.
            self._command = ["setpriv", "--pdeathsig", "KILL", *self._command]

    def start(self) -> None:
        """Start it; it does not answer at once."""
        self.process = subprocess.Popen(
            self._command, env=self._env, stdout=self._log, stderr=self._log, start_new_session=True
        )

    def kill(self) -> None:
        """Kill it, as the kernel does where memory ends."""
        end_family(self.process)


class Workers:
    """The workers, from `with` to the end of the block."""

    def __init__(self, plan: Plan, env: dict[str, str]) -> None:
        """Start nothing yet."""
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the workers
        env = {**env, "BENCH_MAX_CONNECTIONS": str(plan.room)}
        self.all = [Worker(plan, env, self._log) for _ in range(WORKERS)]

    def __enter__(self) -> Workers:
        """Start them."""
        try:
            for worker in self.all:
                worker.start()
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Kill them."""
        self._kill()

    @property
    def ports(self) -> list[int]:
        """Their ports."""
        return [worker.port for worker in self.all]

    def cpu_seconds(self) -> float:
        """Return the CPU time, user and system, that those have used that run now."""
        return sum(cpu_of(worker.process.pid) for worker in self.all)

    def memory_kb(self) -> Counter[str]:
        """Return the memory of all: `Pss`, with shared pages counted once, and `Rss`, in KB."""
        total: Counter[str] = Counter()
        for worker in self.all:
            rollup = Path(f"/proc/{worker.process.pid}/smaps_rollup").read_text()
            total.update(_kilobytes(rollup, "Pss", "Rss"))
        return total

    def log(self) -> str:
        """Return the end of what they have printed."""
        self._log.seek(0)
        return "\n".join(self._log.read().decode(errors="replace").splitlines()[-5:])

    def _kill(self) -> None:
        for worker in self.all:
            if hasattr(worker, "process"):
                worker.kill()
        self._log.close()


def kernel_kb() -> Counter[str]:
    """Return the memory that the kernel uses for all processes, in KB.

    `Slab` holds sockets, their files and what waits to be written or read; `TCP` is the kernel's own count of the last.
    """
    found = _kilobytes(Path("/proc/meminfo").read_text(), "Slab", "SUnreclaim", "PageTables", "MemAvailable")
    sockets = Path("/proc/net/sockstat").read_text().split()
    found["TCP"] = int(sockets[sockets.index("mem") + 1]) * resource.getpagesize() // 1024
    return found


def _kilobytes(text: str, *names: str) -> Counter[str]:
    lines = (line.split() for line in text.splitlines())
    return Counter({words[0][:-1]: int(words[1]) for words in lines if words[0][:-1] in names})


class Part:
    """One part of the run, and what it found."""

    def __init__(self, plan: Plan, publish: Callable[[str, str], object], env: dict[str, str]) -> None:
        """Prepare it. `publish` sends an event, `env` leads the workers to Redis."""
        self.plan = plan
        self._publish = publish
        self._env = env
        self._number = 0  # of the next event
        self._name = f"{plan.loop}, {plan.channels} {'channel' if plan.channels == 1 else 'channels'}"

    def run(self) -> Figures:
        """Run it; return its figures."""
        plan = self.plan
        with Workers(plan, self._env) as workers:
            try:
                return self._run(workers)
            except CannotMeasure as error:
                raise CannotMeasure(f"{self._name}: {error}\n{workers.log()}") from error

    def _run(self, workers: Workers) -> Figures:
        plan = self.plan
        self._warm_up(workers)
        before, kernel_before = workers.memory_kb(), kernel_kb()
        path = f"/stream?channel={plan.name('{c}')}"
        with Herd(workers.ports, path, plan.streams, channels=plan.channels, processes=CLIENTS) as herd:
            start, cpu = time.monotonic(), workers.cpu_seconds()
            herd.wait_open(60 + plan.streams / 400)
            seconds, cpu = time.monotonic() - start, workers.cpu_seconds() - cpu
            found: Figures = {
                "loop": plan.loop,
                "channels": plan.channels,
                "streams": plan.streams,
                "opened_s": seconds,
                "open_us": cpu / plan.streams * 1e6,
            }
            self._say(f"{plan.streams:,} streams in {seconds:.0f} s, {found['open_us']:.0f} us of CPU each")

            start, cpu = time.monotonic(), workers.cpu_seconds()
            time.sleep(IDLE)
            cpu = (workers.cpu_seconds() - cpu) / (time.monotonic() - start)
            found["idle_cores"] = cpu
            found["memory"] = self._memory(workers, before, kernel_before)
            self._say(
                "{user_kb:.1f} KB a stream in the workers (all of theirs: {all_kb:.1f}), {kernel_kb:.1f} in the kernel "
                "for both ends".format(**found["memory"])
            )

            found["rounds"] = self._rounds(herd, workers)
            found["burst"] = self._burst(herd, workers)
            found["memory_after"] = self._memory(workers, before, kernel_before)
            found["kill"] = self._kill(herd, workers)
            found["clients"] = {"cpu_s": sum(map(cpu_of, herd.pids)), "kb": sum(map(_resident_kb, herd.pids))}
        return found

    def _warm_up(self, workers: Workers) -> None:
        """Have imports and caches not charged to the streams that follow."""
        path = f"/stream?channel={self.plan.name('warm-up-{c}')}"
        with Herd(workers.ports, path, 50 * WORKERS, channels=1) as herd:
            herd.wait_open(START_SECONDS)
            for number in range(5):
                self._publish(self.plan.name("warm-up-0"), _event(number, time.time_ns()))
                herd.wait_round(number, 10)
        time.sleep(1)

    def _send(self, events: int = 1) -> int:
        """Send events to every channel, back to back, with one time for all; return the number of the last."""
        began = time.time_ns()
        for _ in range(events):
            for channel in range(self.plan.channels):
                self._publish(self.plan.name(channel), _event(self._number, began))
            self._number += 1
        return self._number - 1

    def _rounds(self, herd: Herd, workers: Workers) -> Figures:
        """Send an event to every stream, again and again, with a pause between."""
        took, cpus, curve = [], [], Counter[int]()
        for _ in range(ROUNDS):
            cpu = workers.cpu_seconds()
            times = herd.wait_round(self._send(), 60)
            cpus.append((workers.cpu_seconds() - cpu) / self.plan.streams * 1e6)
            took.append(max(times))
            curve = times if took[-1] == sorted(took)[len(took) // 2] else curve
            time.sleep(max(0.5, PAUSE - took[-1] / 1e3))
        found = {"last_ms": _spread(took), "us": _spread(cpus), "curve": _curve(curve)}
        self._say(f"an event has reached all after {median(took):.0f} ms, {median(cpus):.1f} us of CPU a delivery")
        return found

    def _burst(self, herd: Herd, workers: Workers) -> Figures:
        """Send events to every stream back to back."""
        cpu = workers.cpu_seconds()
        times = herd.wait_round(self._send(BURST), 120)
        cpu = workers.cpu_seconds() - cpu
        deliveries = self.plan.streams * BURST
        found = {"events": BURST, "last_ms": max(times), "us": cpu / deliveries * 1e6}
        found["per_s"] = deliveries / max(times) * 1e3
        self._say(f"{BURST} events at once have reached all after {max(times)} ms: {found['per_s']:,.0f} a second")
        return found

    def _kill(self, herd: Herd, workers: Workers) -> Figures:
        """Kill a worker while a round is on its way, go on, and count what each stream got in the end."""
        victim = workers.all[-1]
        first = self._send()
        time.sleep(KILL_AT)
        start = time.monotonic()
        victim.kill()
        back = {"open": 0.0, "others": 0.0}
        returned: list[tuple[float, int]] = []
        next_round, restart = start + PAUSE, start + RESTART
        sent = 1
        deadline = start + 60 + self.plan.streams / 400
        while not back["open"] or sent < ROUNDS_AFTER_KILL:
            now = time.monotonic()
            if now > deadline:
                raise CannotMeasure(f"The clients of the killed worker have not returned: {dict(herd.status())}")
            if now >= restart:
                victim.start()
                restart = math.inf
            if now >= next_round:
                self._send()
                sent += 1
                next_round += PAUSE
            status = herd.status()
            now = time.monotonic() - start
            returned.append((round(now, 2), status["open"]))
            if status["open"] == herd.streams and status["lost"] and not back["open"]:
                back["open"] = now
            time.sleep(0.05)
        last = self._number - 1
        herd.wait_round(last, 60)
        status = herd.status()
        arrived = [herd.round(number) for number in range(last + 1)]
        lost = sum(herd.streams - times.total() for times in arrived)
        found = {
            "rounds": sent,
            "streams": status["lost"],
            "back_s": back["open"],
            "returned": _thinned(returned),
            "refused": status["refused"],
            "broken_off": status["broken_off"],
            "unreachable": status["unreachable"],
            "late_ms": max(max(times) for times in arrived[first:]),
            "expected": herd.streams * (last + 1),
            "lost": lost,
            "repeated": status["repeated"],
        }
        self._say(
            "a worker killed: {streams:,} streams are back after {back_s:.1f} s; of {expected:,} deliveries {lost:,} "
            "are lost, {repeated:,} came twice".format(**found)
        )
        return found

    def _memory(self, workers: Workers, before: Counter[str], kernel_before: Counter[str]) -> Figures:
        streams = self.plan.streams
        now, kernel = workers.memory_kb(), kernel_kb()
        return {
            "user_kb": (now["Pss"] - before["Pss"]) / streams,
            "rss_kb": (now["Rss"] - before["Rss"]) / streams,
            "all_kb": now["Pss"] / streams,
            "kernel_kb": (kernel["Slab"] - kernel_before["Slab"]) / streams,
            "tcp_kb": (kernel["TCP"] - kernel_before["TCP"]) / streams,
        }

    def _say(self, what: str) -> None:
        print(f"  {self._name}: {what}", flush=True)


def _event(number: int, began: int) -> str:
    html = f'<p data-ts="{began}" data-n="{number}">'
    return html + "x" * (EVENT_BYTES - len(html) - 4) + "</p>"


def _resident_kb(pid: int) -> int:
    return _kilobytes(Path(f"/proc/{pid}/status").read_text(), "VmRSS")["VmRSS"]


def _spread(values: list[Any]) -> Figures:
    return {"min": min(values), "median": median(values), "max": max(values)}


def _curve(times: Counter[int]) -> list[tuple[int, int]]:
    """Return how many streams had the event after so many milliseconds, at the steps of a plot."""
    reached, curve = 0, []
    for ms, streams in sorted(times.items()):
        reached += streams
        curve.append((ms, reached))
    return _thinned(curve)


def _thinned(points: list[Any], most: int = 100) -> list[Any]:
    step = max(1, len(points) // most)
    return points[:-1][::step] + points[-1:]


def main() -> int:
    """Run all parts; 0 if every event has reached every client, and no stream took more memory than the target."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hundred_thousand", description=__doc__)
    parser.add_argument("--streams", type=int, default=STREAMS, help=f"how many ({STREAMS:,})")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), help="only the parts on this event loop")
    parser.add_argument("--channels", type=int, choices=(100, 1), help="only the parts on so many channels")
    parser.add_argument("--json", type=Path, default=HERE / "hundred_thousand.json", help="where the figures go")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    plans = [
        Plan(loop, channels, options.streams)
        for loop, channels in PARTS
        if options.loop in (None, loop) and options.channels in (None, channels)
    ]
    start = time.monotonic()
    try:
        prepare(options.streams)
        with store_of(SERVER) as store:
            publish = publisher(store.env)
            parts = [Part(plan, publish, store.env).run() for plan in plans]
    except CannotMeasure as error:
        print(f"cannot measure: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    judgement = verdicts(parts)
    print(judged(judgement))
    content = {
        "machine": describe(),
        "versions": versions(),
        "workers": WORKERS,
        "clients": CLIENTS,
        "seconds": time.monotonic() - start,
        "parts": parts,
        "targets": [vars(verdict) for verdict in judgement],
    }
    options.json.write_text(json.dumps(content, indent=1) + "\n")
    print(f"\nfigures in {options.json}, after {content['seconds']:.0f} s")
    return 0 if all(verdict.kept for verdict in judgement) else 1


def prepare(streams: int) -> None:
    """Raise the limit of files as far as is needed; raise CannotMeasure where the machine is too small."""
    if missing := SERVER.missing():
        raise CannotMeasure(f"not installed: {', '.join(missing)}")
    compile_tool("sseherd")
    wanted = max(Plan("", 1, streams).room + FILES_BESIDE, math.ceil(streams / CLIENTS) + SPARE_FILES)
    raise_file_limit(wanted)
    needed, free = streams * MEMORY // 1024 + 1024, kernel_kb()["MemAvailable"] // 1024
    if free < needed:
        raise CannotMeasure(f"{streams:,} streams need {needed:,} MB of memory, and {free:,} are free.")


def publisher(env: dict[str, str]) -> Callable[[str, str], object]:
    """Return a function that sends HTML to a channel from this process, which serves nothing."""
    os.environ.update(environment(SERVER, {**env, "BENCH_MAX_CONNECTIONS": "1"}))
    import django

    django.setup()
    from ds_broadcaster import broadcast

    return lambda channel, html: broadcast(channel, html, "#messages", "append")


def verdicts(parts: list[Figures]) -> list[Verdict]:
    """Judge the targets."""
    lost = [part["kill"]["lost"] for part in parts]
    repeated = [part["kill"]["repeated"] for part in parts]
    memory = [max(part[when]["user_kb"] for when in ("memory", "memory_after")) for part in parts]
    return [
        Verdict("every event reaches every client, a worker killed", f"{sum(lost):,} lost", not any(lost)),
        Verdict("and reaches it once", f"{sum(repeated):,} came twice", not any(repeated)),
        Verdict(
            f"user memory a stream <= {MEMORY_TARGET:.0f} KB",
            ", ".join(f"{each:.1f}" for each in memory),
            max(memory) <= MEMORY_TARGET,
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
