"""The workloads of one process. Each measurement has a fresh one; rounds.py says how they are repeated."""

from __future__ import annotations

import time
from statistics import quantiles
from threading import Thread, Timer
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.request import urlopen

from .cluster import CLUSTER
from .gzipped import gzip
from .load import Load, warm_up
from .machine import CannotMeasure
from .opening import connect, databases, reconnect
from .publisher import publisher_of
from .record import Row
from .rounds import Size, in_turn
from .servers import Running, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PEERS = ("handoff", "uvloop", "plain", "eventstream", "starlette", "nchan")
JOINING = 1000


def idle(size: Size) -> list[list[Row]]:
    """Measure what a stream costs that nothing is sent to.

    `kb`: VmRSS with the streams less VmRSS before, a stream; some streams were opened and closed before, so
    that imports do not count. `threads`: operating system threads of the process. `open_us`: CPU to open one.
    """
    plan = [(1000, PEERS), (10_000, ("handoff", "uvloop", "starlette", "nchan"))]
    return in_turn(size, _idle, [(key, streams) for streams, keys in plan for key in keys])


def _idle(server: Server, streams: int) -> Row:
    with Running(server) as running, publisher_of(running) as publisher:
        warm_up(running, publisher)
        rss, cpu = running.rss_kb(), running.cpu_seconds()
        with Load(running, streams, timeout=120):
            running.settle()
            open_us = (running.cpu_seconds() - cpu) / streams * 1e6
            time.sleep(2)  # Threads that answered the requests end a moment after the last.
            return {
                "kb": (running.rss_kb() - rss) / streams,
                "threads": running.threads(),
                "open_us": open_us,
            }


def paced(size: Size) -> list[list[Row]]:
    """Measure a steady broadcast: 20 events a second for 5 s to 1000 streams, and 5 a second beside it.

    `us`: CPU of the server from the trigger to the last delivery, a delivery. `p50_ms`, `p99_ms`: from the
    moment an event is made to the moment the client has read it. `delivered`: the share of the events that
    arrived at all. At 20 a second a slow server is saturated: it then writes several events at once, and its
    `us` falls. At 5 a second every delivery is a write of its own.
    """
    fast = [(key, 1000, 100, 20.0) for key in (*PEERS, "writeloop")]
    slow = [(key, 1000, 25, 5.0) for key in (*PEERS, "writeloop") if key != "plain"]
    return in_turn(size, _broadcast, [*fast, *slow])


def burst(size: Size) -> list[list[Row]]:
    """Measure a burst: 100 events back to back to 1000 streams.

    `per_s`: deliveries a second, from the trigger to the last one.
    """
    return in_turn(size, _broadcast, [(key, 1000, 100, 0.0) for key in (*PEERS, "writeloop")])


def growth(size: Size) -> list[list[Row]]:
    """Measure whether a delivery (`us`) costs the same at 100, 1000 and 10,000 streams.

    The rate falls as the streams grow, so that all three are 20,000 deliveries a second: none saturates the
    server, which would then join events, and none lets it sleep so long that it is waking up what is measured.
    django-eventstream has a thread for each stream, and is not asked to hold 10,000.
    """
    steps = [(100, 800, 200.0), (1000, 80, 20.0), (10_000, 8, 2.0)]
    cases = [(key, *step) for step in steps for key in ("handoff", "eventstream", "starlette", "nchan", "writeloop")]
    return in_turn(size, _broadcast, [case for case in cases if case[:2] != ("eventstream", 10_000)])


def channels(size: Size) -> list[list[Row]]:
    """Measure 1000 streams spread over 1 to 1000 channels: 2000 deliveries a second, an event to one channel each.

    `us`: CPU a delivery. With 1000 channels each delivery has an event of its own, which is published, too.
    """
    steps = [(1000, 8 * count, 2.0 * count, {"channels": count}) for count in (1, 10, 100, 1000)]
    keys = ("handoff", "eventstream", "starlette", "nchan")
    return in_turn(size, _broadcast, [(key, *step) for step in steps for key in keys])


def sizes(size: Size) -> list[list[Row]]:
    """Measure events of 0.2 to 64 KB: 5 a second to 1000 streams.

    `us`: CPU a delivery, most of which is the kernel's for the large ones.
    """
    steps = [(1000, 20, 5.0, {"bytes": count}) for count in (200, 4000, 64_000)]
    keys = ("handoff", "eventstream", "starlette", "nchan", "writeloop")
    return in_turn(size, _broadcast, [(key, *step) for step in steps for key in keys])


def _broadcast(
    server: Server, streams: int, events: int, rate: float, also: Mapping[str, int] = MappingProxyType({})
) -> Row:
    what = {"events": events, "rate": rate, "size": also.get("bytes", 200), "channels": also.get("channels", 0)}
    with Running(server) as running, publisher_of(running) as publisher:
        warm_up(running, publisher)
        with Load(running, streams, **what, timeout=120, publisher=publisher) as load:
            running.settle()
            seen = load.measure()
        if not seen["events"]:
            raise CannotMeasure(f"{server.title}: no event arrived.\n{running.log()}")
    return {
        "rate": rate,
        **also,
        "us": seen["cpu"] / seen["events"] * 1e6,
        "per_s": seen["events"] / seen["seconds"],
        "p50_ms": seen["p50_ms"],
        "p99_ms": seen["p99_ms"],
        "delivered": seen["events"] / seen["expected"],
    }


def presence(size: Size) -> list[list[Row]]:
    """Measure 1000 users who join one channel with presence as fast as the server lets them in.

    `patches`: presence patches the busiest stream got. `listed`: how many users the last patch lists, at the
    stream that knows of the fewest. `us`: CPU a join. `open_us`: the same streams without presence.
    """
    return in_turn(size, _presence, [("handoff", JOINING), ("plain", JOINING)])


def _presence(server: Server, streams: int) -> Row:
    with Running(server) as running:
        warm_up(running)
        start = running.cpu_seconds()
        with Load(running, streams, path="/stream?user={n}"):
            running.settle()
            bare = running.cpu_seconds() - start
        running.settle()
        start = running.cpu_seconds()
        with Load(running, streams, path="/presence?user={n}", quiet=2, timeout=90) as load:
            seen = load.measure()
            cpu = running.cpu_seconds() - start
        return {
            "patches": seen["most"],
            "listed": seen["value"],
            "us": cpu / streams * 1e6,
            "open_us": bare / streams * 1e6,
        }


def slow(size: Size) -> list[list[Row]]:
    """Measure what 100 stalled readers among 1000 do to the rest, under 20 events/s of 4 KB for 10 s.

    `p50_ms`, `p99_ms`: the others' latency; with none stalled it is what to compare with. `first_kb`,
    `then_kb`: growth of VmRSS in the first half, when buffers fill, and in the second, when nothing may grow
    any more.
    """
    seconds = 5 if size.short else 10
    cases = [("handoff", 0), ("handoff", 100), ("plain", 0), ("plain", 100)]
    cases += [(key, 100) for key in ("eventstream", "starlette", "nchan")]
    return in_turn(size, _slow, [(key, 1000, stalled, seconds) for key, stalled in cases])


def _slow(server: Server, streams: int, stalled: int, seconds: int) -> Row:
    with Running(server) as running, publisher_of(running) as publisher:
        warm_up(running, publisher)
        # No event makes another superfluous: a reader that lags would be spared it.
        what = {"events": 20 * seconds, "rate": 20, "size": 4096, "make": "distinct"}
        with Load(running, streams, stalled=stalled, **what, timeout=seconds + 60, publisher=publisher) as load:
            running.settle()
            memory = [running.rss_kb()]
            middle = Timer(seconds / 2, lambda: memory.append(running.rss_kb()))
            middle.start()
            try:
                seen = load.measure()
            finally:
                middle.cancel()
            memory.append(running.rss_kb())
        return {
            "stalled": stalled,
            "us": seen["cpu"] / seen["events"] * 1e6,
            "p50_ms": seen["p50_ms"],
            "p99_ms": seen["p99_ms"],
            "delivered": seen["events"] / seen["expected"],
            "first_kb": memory[1] - memory[0],
            "then_kb": memory[-1] - memory[1],
        }


def refresh(size: Size) -> list[list[Row]]:
    """Measure a refresh of 1000 streams that each have a render of their own, and of 1000 in two audiences.

    `all_s`: seconds until all have it. `renders`: how often the server rendered. `us`: CPU a stream. `p95_ms`: the
    time of a page of the site that is requested every 20 ms beside it; `quiet_ms`: the same without a refresh.
    """
    cases = [("handoff", "own", 1000), ("handoff", "shared", 2), ("plain", "shared", 2)]
    return in_turn(size, _refresh, [(key, 1000, path, audiences) for key, path, audiences in cases])


def _refresh(server: Server, streams: int, path: str, audiences: int) -> Row:
    with Running(server) as running:
        warm_up(running)
        with Load(running, streams, path=f"/{path}?user={{n}}", events=1, trigger="/refresh", timeout=120) as load:
            running.settle()
            pages = _Pages(f"http://127.0.0.1:{running.port}/page")
            with pages:
                time.sleep(3)
            quiet = pages.p95_ms()
            before = int(urlopen(f"http://127.0.0.1:{running.port}/renders").read())
            with pages:
                seen = load.measure()
            made = int(urlopen(f"http://127.0.0.1:{running.port}/renders").read()) - before
        return {
            "audiences": audiences,
            "renders": made,
            "all_s": float(seen["seconds"]),
            "us": seen["cpu"] / streams * 1e6,
            "quiet_ms": quiet,
            "p95_ms": pages.p95_ms(),
            "delivered": seen["events"] / seen["expected"],
        }


class _Pages:
    """Requests a page every 20 ms, for the length of a `with` block."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        self._is_over = False
        self._seconds: list[float] = []
        self._thread = Thread(target=self._run)
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._is_over = True
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over or not self._seconds:
            begin = time.perf_counter()
            urlopen(self._url).read()
            self._seconds.append(time.perf_counter() - begin)
            time.sleep(0.02)

    def p95_ms(self) -> float:
        if len(self._seconds) < 2:
            return self._seconds[0] * 1e3
        return quantiles(self._seconds, n=20)[-1] * 1e3


WORKLOADS: dict[str, Callable[[Size], list[list[Row]]]] = {
    "idle": idle,
    "paced": paced,
    "burst": burst,
    "growth": growth,
    "channels": channels,
    "sizes": sizes,
    "gzip": gzip,
    "connect": connect,
    "reconnect": reconnect,
    "databases": databases,
    "presence": presence,
    "slow": slow,
    "refresh": refresh,
    **CLUSTER,
}
# What a name on the command line may stand for.
GROUPS = {"cluster": tuple(CLUSTER)}
