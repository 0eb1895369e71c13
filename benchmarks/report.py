"""The figures as tables a person can read, with ratios."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .record import PARAMETERS, Row

if TYPE_CHECKING:
    from .targets import Verdict

HEADINGS = {
    "streams": "streams",
    "stalled": "stalled",
    "audiences": "audiences",
    "renders": "renders",
    "all_s": "s until all",
    "rate": "events/s",
    "channels": "channels",
    "bytes": "bytes",
    "encoding": "encoding",
    "view": "view",
    "store_core": "store's core",
    "kb": "KB/stream",
    "databases": "DB connections",
    "threads": "threads",
    "page_us": "us/page",
    "open_us": "us/open",
    "added_us": "us added",
    "wire_bytes": "wire bytes/delivery",
    "cpu_s": "CPU s",
    "us": "us/delivery",
    "send_us": "us/send",
    "store_us": "store us/send",
    "sends_s": "sends/s",
    "per_s": "deliveries/s",
    "quiet_ms": "quiet p95 ms",
    "p95_ms": "p95 ms",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "delivered": "delivered",
    "skips": "skips",
    "least": "least",
    "patches": "patches",
    "listed": "listed",
    "first_kb": "KB 1st half",
    "then_kb": "KB 2nd half",
    "all_kb": "KB/stream in all",
    "after_kb": "KB/stream after events",
    "kernel_kb": "kernel KB/stream",
    "opened_s": "s to open",
    "idle_cores": "idle cores",
    "last_ms": "ms until the last",
    "burst_per_s": "deliveries/s in a burst",
    "returned": "streams that returned",
    "back_s": "s until the last is back",
    "lost": "lost",
    "repeated": "came twice",
    "others": "others",
}
# The figure of each workload that is also shown as a multiple of ours.
COMPARED = {
    "idle": "kb",
    "paced": "us",
    "burst": "per_s",
    "growth": "us",
    "channels": "us",
    "sizes": "us",
    "gzip": "us",
    "connect": "open_us",
    "reconnect": "cpu_s",
    "databases": "databases",
    "presence": "us",
    "slow": "us",
    "refresh": "us",
    "latency": "p50_ms",
    "throughput": "us",
    "publishing": "send_us",
}
# Handoff mode, or Redis where there are several processes.
OURS = ("handoff", "redis", "handoff-database")


# What a row may have otherwise than ours, and is compared all the same.
FREE = ("view", "encoding")


def table(name: str, about: str, rows: list[Row]) -> str:
    """Return the rows of one workload as text; "x" is the multiple of ours with as many streams."""
    if not rows:
        return f"\n{name}: nothing could be measured"
    columns = [column for column in HEADINGS if any(column in row for row in rows)]
    lines = [["", *(_heading(name, column) for column in columns), "x"]]
    for row in rows:
        cells = [_cell(column, row.get(column)) for column in columns]
        lines.append([row["title"], *cells, _multiple(name, row, rows)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines]
    return "\n".join([f"\n{name}: {about}", *text])


def judged(verdicts: list[Verdict]) -> str:
    """Return the promises with what came of them."""
    words = {True: "ok", False: "MISSED", None: "?"}
    lines = [f"  {words[v.kept]:6}  {v.promise}: {v.measured}" for v in verdicts]
    return "\n".join(["\ntargets", *lines])


def _heading(name: str, column: str) -> str:
    return "us/join" if (name, column) == ("presence", "us") else HEADINGS[column]


def _multiple(name: str, row: Row, rows: list[Row]) -> str:
    ours = [
        other
        for other in rows
        if other["server"] in OURS
        and all(other.get(key) == row.get(key) for key in PARAMETERS if key not in ("server", "title", *FREE))
    ]
    figure = COMPARED[name]
    return f"{row[figure] / ours[0][figure]:.2f}" if ours and ours[0][figure] else "-"


def _cell(column: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if column == "rate":
        return f"{value:.0f}" if value else "burst"
    if column == "others":
        return f"{value:.2f}"
    if column in ("delivered", "least"):
        return f"{value:.1%}"
    return f"{value:,.1f}" if isinstance(value, float) and value < 1000 else f"{value:,.0f}"
