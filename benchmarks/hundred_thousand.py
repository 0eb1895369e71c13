"""100,000 streams on one machine: python -m benchmarks.hundred_thousand [--streams N] [--loop NAME] [--channels N].

Six workers over Redis hold the streams: of 100 channels, then of one. Rounds of events go to all of them, one worker is
killed, and its clients return to the others.
"""

from __future__ import annotations

import argparse
import itertools
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
from typing import IO, TYPE_CHECKING

from .herd import Herd
from .machine import BUILD, RUN, CannotMeasure, compile_tool, cpu_of, describe, end_family, free_port, raise_file_limit
from .record import Record
from .report import judged
from .servers import Server, environment
from .stores import store_of
from .targets import verdicts

if TYPE_CHECKING:
    from types import TracebackType

    from .record import Row

WORKLOAD = "hundred-thousand"
STREAMS = 100_000
WORKERS = 6
CLIENTS = 6
# Event loops, with numbers of channels.
PARTS = (("asyncio", 100), ("asyncio", 1), ("uvloop", 100))
# A process may have 20,000 files here. The limit of connections of a worker, of its share of the streams: five hold
# 97.5 % of all. And the files it has beside its streams, for requests, Redis and its own, of which raise_file_limit()
# adds 200.
ROOM = 1.17
FILES_BESIDE = 250
# An event's HTML, and the events of a phase, each with its number.
EVENT_BYTES = 200
ROUNDS = 10
BURST = 10
# Seconds without an event, which heartbeats fill; and between two rounds.
IDLE = 15.0
PAUSE = 1.0
# Seconds after which a worker is killed: its round is on the way to its clients. Seconds from its death to its
# replacement, as a supervisor starts it; and between two rounds meanwhile, of which there are so many at least.
KILL_AT = 0.1
RESTART = 3.0
PACE = 2.5
ROUNDS_AFTER_KILL = 6
# Seconds that anything may take on a busy machine, and how many streams it opens a second then.
WAIT = 120.0
OPENED = 300
# KB of memory that a stream may take, with both ends of its connection, for the check before.
MEMORY = 30

SERVER = Server(
    WORKLOAD,
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

    @property
    def title(self) -> str:
        """What the part is called in tables and plots."""
        return f"{self.loop}, {self.channels} {'channel' if self.channels == 1 else 'channels'}"

    def channel(self, name: int | str) -> str:
        """Return the name of a channel, none of which two parts share."""
        return f"{self.loop}-{self.channels}-{name}"

    def row(self, figures: Row) -> Row:
        """Return a row of the record with these figures."""
        what = {"server": self.loop, "title": self.title, "streams": self.streams, "channels": self.channels}
        return what | figures


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

    def log(self) -> str:
        """Return the end of what they have printed."""
        self._log.seek(0)
        return "\n".join(self._log.read().decode(errors="replace").splitlines()[-5:])

    def _kill(self) -> None:
        for worker in self.all:
            if hasattr(worker, "process"):
                worker.kill()
        self._log.close()


def memory_kb(workers: Workers) -> Counter[str]:
    """Return what the workers and the kernel use, in KB.

    `Pss` is the workers' memory with shared pages counted once, `Rss` with shared pages counted for each. `Slab` holds
    the kernel's sockets and files of all processes, and `TCP` what waits to be written or read.
    """
    found = _kilobytes("/proc/meminfo", "Slab")
    for worker in workers.all:
        found.update(_kilobytes(f"/proc/{worker.process.pid}/smaps_rollup", "Pss", "Rss"))
    sockets = Path("/proc/net/sockstat").read_text().split()
    found["TCP"] = int(sockets[sockets.index("mem") + 1]) * resource.getpagesize() // 1024
    return found


def _kilobytes(path: str, *names: str) -> Counter[str]:
    lines = (line.split() for line in Path(path).read_text().splitlines())
    return Counter({words[0][:-1]: int(words[1]) for words in lines if words[0][:-1] in names})


class Part:
    """One part of the run, and what it found.

    `row` holds its figures, `rounds` those of each round, and `curves` how many streams had an event after so many
    seconds, and how many were open so many seconds after the worker's death.
    """

    def __init__(self, plan: Plan, publish: Callable[[str, str], object], env: dict[str, str]) -> None:
        """Prepare it. `publish` sends an event, `env` leads the workers to Redis."""
        self.row: Row = {}
        self.rounds: list[Row] = []
        self.curves: dict[str, list[tuple[float, int]]] = {}
        self._plan = plan
        self._publish = publish
        self._env = env
        self._number = 0  # of the next event

    def run(self) -> Part:
        """Run it."""
        self._say("six workers start")
        with Workers(self._plan, self._env) as workers:
            try:
                self._warm_up(workers)
                self._run(workers)
            except CannotMeasure as error:
                raise CannotMeasure(f"{self._plan.title}: {error}\n{workers.log()}") from error
        return self

    def _run(self, workers: Workers) -> None:
        plan = self._plan
        before = memory_kb(workers)
        path = f"/stream?channel={plan.channel('{c}')}"
        self._say(f"{plan.streams:,} streams open")
        with Herd(workers.ports, path, plan.streams, channels=plan.channels, processes=CLIENTS) as herd:
            start, cpu = time.monotonic(), workers.cpu_seconds()
            herd.wait_open(60 + plan.streams / OPENED)
            seconds, cpu = time.monotonic() - start, workers.cpu_seconds() - cpu
            self._add({"opened_s": seconds, "open_us": cpu / plan.streams * 1e6})
            self._say("open after {opened_s:.0f} s, {open_us:.0f} us of CPU each")
            cpu = workers.cpu_seconds()
            time.sleep(IDLE)
            self._add({"idle_cores": (workers.cpu_seconds() - cpu) / IDLE, **self._memory(workers, before)})
            self._say("{kb:.1f} KB a stream in the workers, {kernel_kb:.1f} in the kernel for both ends")
            self._send_rounds(herd, workers)
            self._send_burst(herd, workers)
            self._add({"after_kb": self._memory(workers, before)["kb"]})
            self._kill_one(herd, workers)
            self._add({"client_s": sum(map(cpu_of, herd.pids))})

    def _warm_up(self, workers: Workers) -> None:
        """Have imports and caches not charged to the streams that follow."""
        path = f"/stream?channel={self._plan.channel('warm-up-{c}')}"
        with Herd(workers.ports, path, 50 * WORKERS, channels=1) as herd:
            herd.wait_open(WAIT)
            for number in range(5):
                self._publish(self._plan.channel("warm-up-0"), _event(number, time.time_ns()))
                herd.wait_round(number, 10)
        time.sleep(1)

    def _send(self, events: int = 1) -> int:
        """Send events to every channel, back to back, with one time for all; return the number of the last."""
        began = time.time_ns()
        for _ in range(events):
            for channel in range(self._plan.channels):
                self._publish(self._plan.channel(channel), _event(self._number, began))
            self._number += 1
        return self._number - 1

    def _send_rounds(self, herd: Herd, workers: Workers) -> None:
        """Send an event to every stream, again and again, with a pause between."""
        curves = []
        for _ in range(ROUNDS):
            cpu = workers.cpu_seconds()
            times = herd.wait_round(self._send(), WAIT)
            cpu = workers.cpu_seconds() - cpu
            self.rounds.append(self._plan.row({"last_ms": max(times), "us": cpu / self._plan.streams * 1e6}))
            curves.append(_curve(times))
            time.sleep(PAUSE)
        self.curves["an event"] = sorted(curves, key=lambda curve: curve[-1])[len(curves) // 2]
        last, us = (median(row[name] for row in self.rounds) for name in ("last_ms", "us"))
        self._say(f"an event has reached all after {last:.0f} ms, {us:.1f} us of CPU a delivery")

    def _send_burst(self, herd: Herd, workers: Workers) -> None:
        """Send events to every stream back to back."""
        cpu = workers.cpu_seconds()
        times = herd.wait_round(self._send(BURST), WAIT)
        cpu = workers.cpu_seconds() - cpu
        deliveries, last = self._plan.streams * BURST, max(times)
        self._add({"burst_ms": last, "burst_us": cpu / deliveries * 1e6, "burst_per_s": deliveries / last * 1e3})
        self._say(f"{BURST} events at once have reached all after {{burst_ms:,}} ms: {{burst_per_s:,.0f}} a second")

    def _kill_one(self, herd: Herd, workers: Workers) -> None:
        """Kill a worker while an event is on its way, go on, and count what each stream got in the end."""
        victim = workers.all[-1]
        first = self._send()
        time.sleep(KILL_AT)
        start = time.monotonic()
        victim.kill()
        next_round, restart, back_s = start + PACE, start + RESTART, 0.0
        is_open: list[tuple[float, int]] = []
        while not back_s or self._number - first < ROUNDS_AFTER_KILL:
            now = time.monotonic()
            if now >= restart:
                victim.start()
                restart = math.inf
            if now >= next_round:
                next_round = now + PACE
                self._send()
            status, seconds = herd.status(), time.monotonic() - start
            if int(seconds) // 10 > int(is_open[-1][0] if is_open else 0) // 10:
                self._say(f"a worker was killed: {status['open']:,} streams are open after {seconds:.0f} s")
            is_open.append((round(seconds, 2), status["open"]))
            if not back_s and status["lost"] and status["open"] == herd.streams:
                back_s = seconds
            if seconds > WAIT + herd.streams / OPENED:
                raise CannotMeasure(f"The clients of the killed worker have not returned: {dict(status)}")
            time.sleep(0.05)
        herd.wait_round(self._number - 1, WAIT)
        arrived = [herd.round(number) for number in range(self._number)]
        status = herd.status()
        self.curves["open"] = _thinned(is_open)
        self._add({name: status[name] for name in ("refused", "broken_off", "unreachable", "repeated")})
        self._add(
            {
                "returned": status["lost"],
                "back_s": back_s,
                "late_ms": max(max(times, default=0) for times in arrived[first:]),
                "expected": herd.streams * len(arrived),
                "lost": sum(herd.streams - times.total() for times in arrived),
            }
        )
        self._say("a worker was killed: the last of {returned:,} streams is back after {back_s:.1f} s")
        self._say("of {expected:,} deliveries {lost:,} are lost, and {repeated:,} came twice")

    def _memory(self, workers: Workers, before: Counter[str]) -> Row:
        now = memory_kb(workers)
        grown = {name: (now[name] - before[name]) / self._plan.streams for name in now}
        return {
            "kb": grown["Pss"],
            "rss_kb": grown["Rss"],
            "all_kb": now["Pss"] / self._plan.streams,
            "kernel_kb": grown["Slab"] + grown["TCP"],
        }

    def _add(self, figures: Row) -> None:
        self.row |= self._plan.row(figures)

    def _say(self, what: str) -> None:
        print(f"  {self._plan.title}: {what.format(**self.row)}", flush=True)


def _event(number: int, began: int) -> str:
    html = f'<p data-ts="{began}" data-n="{number}">'
    return html + "x" * (EVENT_BYTES - len(html) - 4) + "</p>"


def _curve(times: Counter[int]) -> list[tuple[float, int]]:
    """Return how many streams had the event after so many seconds."""
    counts = itertools.accumulate(streams for _, streams in sorted(times.items()))
    return _thinned([(ms / 1e3, count) for ms, count in zip(sorted(times), counts, strict=True)])


def _thinned(points: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """Return a hundred points at most, the last among them: enough for a plot."""
    return points[:: -max(1, math.ceil(len(points) / 100))][::-1]


def main() -> int:
    """Run all parts; 0 if the targets are met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hundred_thousand", description=__doc__)
    parser.add_argument("--streams", type=int, default=STREAMS, help=f"how many ({STREAMS:,})")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), help="only the parts on this event loop")
    parser.add_argument("--channels", type=int, choices=(100, 1), help="only the parts on so many channels")
    parser.add_argument("--into", type=Path, default=RUN, help="a file of figures to put these into")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    plans = [
        Plan(loop, channels, options.streams)
        for loop, channels in PARTS
        if options.loop in (None, loop) and options.channels in (None, channels)
    ]
    parts = []
    BUILD.mkdir(exist_ok=True)
    record = Record.read(options.into)
    start = time.monotonic()
    try:
        prepare(options.streams)
        if record.content.get("machine", describe()) != describe():
            raise CannotMeasure(f"{record.path} was taken on another machine: name another file with --into.")
        with store_of(SERVER) as store:
            publish = publisher(store.env)
            for plan in plans:
                parts.append(Part(plan, publish, store.env).run())
                keep(record, parts)
    except CannotMeasure as error:
        print(f"cannot measure: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    record.judge(verdicts(record.results()))
    judgement = verdicts({WORKLOAD: record.results()[WORKLOAD]})
    print(judged(judgement))
    print(f"\nfigures in {record.path}, after {time.monotonic() - start:.0f} s")
    return 0 if all(verdict.kept for verdict in judgement) else 1


def keep(record: Record, parts: list[Part]) -> None:
    """Write the figures of the parts so far."""
    about = f"Hold many streams in {WORKERS} workers over Redis, and kill one."
    record.add(WORKLOAD, about, [[part.row] for part in parts])
    record.add(f"{WORKLOAD}-rounds", "Send an event to all of them.", [part.rounds for part in parts])
    record.content["workloads"][WORKLOAD]["curves"] = {part.row["title"]: part.curves for part in parts}
    record.write()


def prepare(streams: int) -> None:
    """Raise the limit of files as far as is needed; raise CannotMeasure where the machine is too small."""
    if missing := SERVER.missing():
        raise CannotMeasure(f"not installed: {', '.join(missing)}")
    compile_tool("sseherd")
    raise_file_limit(Plan("", 1, streams).room + FILES_BESIDE)
    needed = streams * MEMORY // 1024 + 1024
    free = _kilobytes("/proc/meminfo", "MemAvailable")["MemAvailable"] // 1024
    if free < needed:
        raise CannotMeasure(f"{streams:,} streams need {needed:,} MB of memory, and {free:,} are free.")


def publisher(env: dict[str, str]) -> Callable[[str, str], object]:
    """Return a function that sends HTML to a channel from this process, which serves nothing."""
    os.environ.update(environment(SERVER, {**env, "BENCH_MAX_CONNECTIONS": "1"}))
    import django

    django.setup()
    from ds_broadcaster import broadcast

    return lambda channel, html: broadcast(channel, html, "#messages", "append")


if __name__ == "__main__":
    sys.exit(main())
