"""The plots of the run with 100,000 streams; see hundred_thousand.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .drawing import Bar, Spread, bars, lines

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    from .record import Record, Row

WORKLOAD = "hundred-thousand"


def draw(record: Record, folder: Path) -> list[Path]:
    """Draw the plots of such a run, where the record holds one; return their files."""
    workload = record.content["workloads"].get(WORKLOAD)
    if workload is None:
        return []
    rows, curves = workload["rows"], workload["curves"]
    streams = f"{max(row['streams'] for row in rows):,} streams"
    plots = [folder / f"{WORKLOAD}-{name}.svg" for name in ("memory", "event", "kill")]
    memory = [bar for row in rows for bar in _bars(row)]
    bars(plots[0], f"Memory of a stream, of {streams} in six processes", "KB a stream", memory)
    lines(
        plots[1],
        f"One event on its way to {streams}",
        "seconds since the event",
        "clients that have it",
        {title: _points(held["an event"]) for title, held in curves.items()},
        log=(False, False),
        marks=False,
    )
    lines(
        plots[2],
        "One of six processes is killed",
        "seconds since its death",
        "streams that are not open",
        {row["title"]: _points(_missing(row["streams"], curves[row["title"]]["open"])) for row in rows},
        log=(False, False),
        marks=False,
    )
    return plots


def _bars(row: Row) -> list[Bar]:
    figures = row["figures"]
    return [
        Bar(f"{row['title']}: the process", Spread.of(figures["kb"]), is_ours=True),
        Bar("the kernel, both ends", Spread.of(figures["kernel_kb"])),
    ]


def _missing(streams: int, is_open: Sequence[Sequence[Any]]) -> list[tuple[float, int]]:
    return [(at, streams - count) for at, count in is_open]


def _points(curve: Sequence[Sequence[Any]]) -> list[tuple[float, Spread]]:
    return [(at, Spread(count, count, count)) for at, count in curve]
