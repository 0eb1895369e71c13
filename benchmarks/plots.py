"""The plots of a run: python -m benchmarks plots FILE [FOLDER]."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from . import curves
from .drawing import Bar, Spread, bars, lines
from .record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .record import Row

OURS = ("handoff", "uvloop", "plain", "redis", "postgres")


def main(words: Sequence[str]) -> int:
    """Draw what the file has figures for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks plots", description=__doc__)
    parser.add_argument("file", type=Path, help="the figures of a run")
    parser.add_argument("folder", type=Path, nargs="?", help="where the plots go (beside the file)")
    options = parser.parse_args(words)
    record, folder = Record.read(options.file), options.folder or options.file.parent
    for path in draw(record, folder):
        print(path)
    return 0


def draw(record: Record, folder: Path) -> list[Path]:
    """Draw the plots of the workloads that a record holds; return their files."""
    drawn = []
    for name, (workload, plot) in PLOTS.items():
        if rows := record.content["workloads"].get(workload, {"rows": []})["rows"]:
            path = folder / f"{name}.svg"
            plot(path, rows)
            drawn.append(path)
    return drawn + curves.draw(record, folder)


def _idle(path: Path, rows: list[Row]) -> None:
    most = max(row["streams"] for row in rows)
    most_of = {row["server"]: row for row in sorted(rows, key=lambda row: int(row["streams"]))}
    content = [
        _bar(row, "kb", "" if row["streams"] == most else f" (at {row['streams']:,})") for row in most_of.values()
    ]
    bars(path, f"Memory of an idle stream, at {most:,} streams", "KB a stream", _sorted(content))


def _paced(path: Path, rows: list[Row]) -> None:
    content = [_bar(row, "us", _dropped(row)) for row in rows if row["rate"] == 20]
    bars(path, "A broadcast 20 times a second to 1000 streams", "µs of CPU a delivery", _sorted(content))


def _burst(path: Path, rows: list[Row]) -> None:
    content = [_bar(row, "per_s", _dropped(row)) for row in rows]
    title = "100 events back to back to 1000 streams"
    bars(path, title, "deliveries a second (logarithmic)", _sorted(content)[::-1], log=True)


def _growth(path: Path, rows: list[Row]) -> None:
    lines(path, "CPU a delivery as streams grow", "streams", "µs of CPU a delivery", _lines(rows, "streams", "us"))


def _channels(path: Path, rows: list[Row]) -> None:
    title = "1000 streams spread over channels, an event to one of them"
    lines(path, title, "channels", "µs of CPU a delivery", _lines(rows, "channels", "us"), log=(True, True))


def _sizes(path: Path, rows: list[Row]) -> None:
    lines(path, "CPU a delivery as events grow", "bytes an event", "µs of CPU a delivery", _lines(rows, "bytes", "us"))


def _connect(path: Path, rows: list[Row]) -> None:
    content = [_bar(row, "open_us", f", {row['view']} view" * bool(row["view"])) for row in rows]
    bars(path, "Opening a stream, with its connection and its request", "µs of CPU a stream", _sorted(content))


def _reconnect(path: Path, rows: list[Row]) -> None:
    content = [_bar(row, "cpu_s", _dropped(row)) for row in rows]
    bars(path, "1000 clients return at once, 50 events to each", "seconds of CPU in all", _sorted(content))


def _throughput(path: Path, rows: list[Row]) -> None:
    content = [
        _bar(row, "us", f", {row['rate']:.0f} a second" if row["rate"] else ", back to back")
        for row in sorted(rows, key=lambda row: float(row["rate"] or 1e9))
    ]
    title = "A broadcast over Redis to 1000 clients of two processes"
    bars(path, title, "µs of the processes' CPU a delivery (logarithmic)", content, log=True)


def _bar(row: Row, figure: str, after: str = "") -> Bar:
    return Bar(row["title"] + after, Spread.of(row["figures"][figure]), row["server"] in OURS)


def _dropped(row: Row) -> str:
    delivered = float(row["figures"]["delivered"]["min"])
    return "" if delivered > 0.999 else f" (delivers {delivered:.0%})" if delivered else " (replays none)"


def _sorted(content: list[Bar]) -> list[Bar]:
    return sorted(content, key=lambda bar: bar.spread.middle)


def _lines(rows: list[Row], across: str, figure: str) -> dict[str, list[tuple[float, Spread]]]:
    found: dict[str, list[tuple[float, Spread]]] = {}
    for row in sorted(rows, key=lambda row: float(row[across])):
        found.setdefault(row["title"], []).append((row[across], Spread.of(row["figures"][figure])))
    return found


# The file of each plot, the workload that it shows, and what draws it.
PLOTS: dict[str, tuple[str, Callable[[Path, list[Row]], None]]] = {
    "idle": ("idle", _idle),
    "paced": ("paced", _paced),
    "burst": ("burst", _burst),
    "growth": ("growth", _growth),
    "channels": ("channels", _channels),
    "sizes": ("sizes", _sizes),
    "connect": ("connect", _connect),
    "reconnect": ("reconnect", _reconnect),
    "processes": ("throughput", _throughput),
}
