"""What ds_broadcaster promises, as questions to the rows of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .record import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Results = dict[str, list[Row]]

# Ours on each event loop.
LOOPS = (("handoff", "asyncio"), ("uvloop", "uvloop"))


@dataclass(frozen=True)
class Verdict:
    """One promise, what was measured, and whether it was kept (None: it could not be measured)."""

    promise: str
    measured: str
    kept: bool | None


def verdicts(results: Results) -> list[Verdict]:
    """Return a verdict on each promise whose workload was run."""
    return [verdict for name, judge in JUDGES.items() if name in results for verdict in judge(results[name])]


def _find(rows: list[Row], server: str, **also: object) -> Row | None:
    wanted = {"server": server, **also}
    return next((row for row in rows if all(row[key] == value for key, value in wanted.items())), None)


def _most(promise: str, value: float | None, limit: float, unit: str = "") -> Verdict:
    if value is None:
        return Verdict(promise, "not measured", None)
    return Verdict(promise, f"{value:.3g}{unit}", value <= limit)


def _least(promise: str, value: float | None, limit: float, unit: str = "") -> Verdict:
    if value is None:
        return Verdict(promise, "not measured", None)
    return Verdict(promise, f"{value:.3g}{unit}", value >= limit)


def _ratio(rows: list[Row], figure: str, server: str, other: str) -> float | None:
    """Return ours by theirs; None where one is missing, or dropped events and so shared its cost among few."""
    mine, theirs = _find(rows, server), _find(rows, other)
    if mine is None or theirs is None or min(mine["delivered"], theirs["delivered"]) < 0.99:
        return None
    return float(mine[figure] / theirs[figure])


def _idle(rows: list[Row]) -> Iterator[Verdict]:
    for server, loop, limit in (("handoff", "asyncio", 4.5), ("uvloop", "uvloop", 3.0)):
        row = _find(rows, server, streams=10_000)
        promise = f"<= {limit} KB a stream at 10,000 idle streams, {loop}"
        yield _most(promise, row["kb"] if row else None, limit, " KB")
    for streams in (1000, 10_000):
        row = _find(rows, "handoff", streams=streams)
        yield _most(f"<= 8 threads at {streams:,} idle streams", row["threads"] if row else None, 8)


def _paced(rows: list[Row]) -> Iterator[Verdict]:
    at_20 = [row for row in rows if row["rate"] == 20]
    for other, name, limit in (
        ("nchan", "nchan's", 0.75),
        ("eventstream", "django-eventstream's", 1 / 3.5),
        ("writeloop", "the bare C loop's", 2.7),
    ):
        for server, loop in LOOPS:
            ratio = _ratio(at_20, "us", server, other)
            yield _most(f"CPU a delivery <= {limit:.3g} x {name}, {loop}", ratio, limit, " x")


def _burst(rows: list[Row]) -> Iterator[Verdict]:
    for other, name, least in (("nchan", "nchan's", 80), ("starlette", "sse-starlette's", 50)):
        for server, loop in LOOPS:
            ratio = _ratio(rows, "per_s", server, other)
            yield _least(f"deliveries a second in a burst >= {least} x {name}, {loop}", ratio, least, " x")


def _growth(rows: list[Row]) -> Iterator[Verdict]:
    costs = [row["us"] for row in rows if row["server"] == "handoff"]
    spread = max(costs) / min(costs) if len(costs) == 3 else None
    yield _most("CPU a delivery flat within 1.25 x from 100 to 10,000 streams", spread, 1.25, " x")


def _gzip(rows: list[Row]) -> Iterator[Verdict]:
    for size, name in ((200, "small patches"), (20_000, "renders of 20 KB")):
        bare, packed = (_find(rows, "handoff", bytes=size, encoding=encoding) for encoding in ("none", "gzip"))
        ratio = packed["us"] / bare["us"] if bare and packed else None
        yield _most(f"CPU a broadcast with gzip <= 1.1 x without, {name}", ratio, 1.1, " x")
        more = packed["kb"] - bare["kb"] if bare and packed else None
        yield _most(f"gzip adds no memory to a stream (within 0.5 KB), {name}", more, 0.5, " KB")
        if packed:
            yield _all_there(packed, f"gzip, {name}")
    ratio = bare["wire_bytes"] / packed["wire_bytes"] if bare and packed else None
    yield _least("gzip makes repeated renders of 20 KB small: >= 20 to 1", ratio, 20, " to 1")


def _connect(rows: list[Row]) -> Iterator[Verdict]:
    for view in ("sync", "async"):
        row = _find(rows, "handoff", view=view)
        added = row["added_us"] if row else None
        yield _most(f"a stream adds <= 100 us of CPU to a page that does nothing, {view} view", added, 100, " us")


def _reconnect(rows: list[Row]) -> Iterator[Verdict]:
    row = _find(rows, "handoff")
    yield _most("1000 clients return with 50 missed events each in <= 2.5 s of CPU", row and row["cpu_s"], 2.5, " s")
    if row:
        yield _all_there(row, "1000 clients that return")


def _databases(rows: list[Row]) -> Iterator[Verdict]:
    row = _find(rows, "handoff-database")
    yield _most("no database connection is held by 1000 streams", row and row["databases"], 0)


def _presence(rows: list[Row]) -> Iterator[Verdict]:
    for server in ("handoff", "plain"):
        row = _find(rows, server)
        yield _most(f"<= 40 presence patches a client ({server})", row["patches"] if row else None, 40)
        if row:
            promise = f"the last patch lists all {row['streams']} ({server})"
            yield Verdict(promise, f"{row['listed']}", row["listed"] == row["streams"])


def _slow(rows: list[Row]) -> Iterator[Verdict]:
    for server in ("handoff", "plain"):
        free, stalled = _find(rows, server, stalled=0), _find(rows, server, stalled=100)
        # Some milliseconds of slack: at this size two runs without any stalled reader differ by as much.
        limit = free["p99_ms"] * 1.5 + 5 if free else 0.0
        yield _most(
            f"others not delayed by stalled readers: p99 <= 1.5 x without + 5 ms = {limit:.1f} ms ({server})",
            stalled["p99_ms"] if free and stalled else None,
            limit,
            " ms",
        )
        yield _most(
            f"memory stops growing: <= 1024 KB in the second half ({server})",
            stalled["then_kb"] if stalled else None,
            1024,
            " KB",
        )
        if stalled:
            share = stalled["delivered"]
            yield Verdict(f"every other reader gets every event ({server})", f"{share:.2%}", share >= 1)


def _refresh(rows: list[Row]) -> Iterator[Verdict]:
    for row in rows:
        which = f"{row['streams']} streams of {row['audiences']} audiences, {row['server']}"
        yield _most(f"a render for each audience ({which})", row["renders"], row["audiences"])
        # Some milliseconds of slack: the refresh itself, and a page that comes while all streams are written to.
        limit = row["quiet_ms"] * 2 + 5
        yield _most(
            f"pages beside it: p95 <= 2 x without + 5 ms = {limit:.1f} ms ({which})", row["p95_ms"], limit, " ms"
        )
        yield Verdict(f"every stream has it ({which})", f"{row['delivered']:.2%}", row["delivered"] >= 1)


def _latency(rows: list[Row]) -> Iterator[Verdict]:
    for server, half, nearly_all in (("redis", 2, 10), ("postgres", 5, 20)):
        row = _find(rows, server)
        held = row is not None and row["per_s"] >= 0.98 * row["streams"] * row["rate"]
        for figure, limit in (("p50_ms", half), ("p99_ms", nearly_all)):
            promise = f"from process to process at 500 events/s: {figure[:3]} <= {limit} ms ({server})"
            yield _most(promise, row[figure] if row and held else None, limit, " ms")
        if row:
            yield _all_there(row, server)


def _throughput(rows: list[Row]) -> Iterator[Verdict]:
    for rate, name in ((4, "at 4 events/s"), (20, "at 20 events/s"), (0, "back to back")):
        ratio = _ratio([row for row in rows if row["rate"] == rate], "us", "channels", "redis")
        yield _least(f"deliveries for the same CPU >= 10 x Channels', {name}", ratio, 10, " x")
        if row := _find(rows, "redis", rate=rate):
            yield _all_there(row, name)


def _publishing(rows: list[Row]) -> Iterator[Verdict]:
    for core in dict.fromkeys(row["store_core"] for row in rows):
        yield from _publishing_on(f"the store's core {core}", [row for row in rows if row["store_core"] == core])


def _publishing_on(where: str, rows: list[Row]) -> Iterator[Verdict]:
    bare = _find(rows, "redis-py")
    for server, name, least in (
        ("redis", "one", 0.8),
        ("redis-threads", "50 threads", 1.3),
        ("redis-coroutines", "50 coroutines", 3),
    ):
        row = _find(rows, server)
        ratio = row["sends_s"] / bare["sends_s"] if row and bare else None
        promise = f"events a second over Redis >= {least} x redis-py's PUBLISH, {name} ({where})"
        yield _least(promise, ratio, least, " x")
    for server, name, count in (("postgres", "one", 2200), ("postgres-threads", "50 threads", 10_000)):
        if row := _find(rows, server):
            promise = f"events a second over PostgreSQL >= {count:,}, {name} ({where})"
            yield Verdict(promise, f"{row['sends_s']:,.0f}", row["sends_s"] >= count)
    one, group = _find(rows, "redis-coroutine"), _find(rows, "channels")
    ratio = one["sends_s"] / group["sends_s"] if one and group else None
    yield _least(f"events a second over Redis >= Channels' group_send(), one coroutine ({where})", ratio, 1, " x")


def _hundred_thousand(rows: list[Row]) -> Iterator[Verdict]:
    for row in rows:
        which = f"{row['streams']:,} streams, {row['title']}"
        measured = f"{row['lost']:,.0f} lost, {row['repeated']:,.0f} came twice"
        is_kept = not row["lost"] and not row["repeated"]
        yield Verdict(f"every client gets every event once, with a worker killed ({which})", measured, is_kept)
        yield _most(f"<= 6 KB a stream in the workers ({which})", max(row["kb"], row["after_kb"]), 6, " KB")


def _all_there(row: Row, name: str) -> Verdict:
    delivered, skips = row["delivered"], row["skips"]
    measured = f"{delivered:.2%}, {skips:.0f} out of order"
    return Verdict(f"every client gets every event once, in order ({name})", measured, delivered == 1 and not skips)


JUDGES: dict[str, Callable[[list[Row]], Iterator[Verdict]]] = {
    "idle": _idle,
    "paced": _paced,
    "burst": _burst,
    "growth": _growth,
    "gzip": _gzip,
    "connect": _connect,
    "reconnect": _reconnect,
    "databases": _databases,
    "presence": _presence,
    "slow": _slow,
    "refresh": _refresh,
    "latency": _latency,
    "throughput": _throughput,
    "publishing": _publishing,
    "hundred-thousand": _hundred_thousand,
}
