"""How a workload is measured: each on a fresh process, its servers in turn, and again where others disturbed it.

Where a figure is taken in several rounds, the servers take turns within each round and the median is kept, so
that a machine that grows slower on the way does so for all of them.
"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from .machine import CannotMeasure, Others, Spare, raise_file_limit, wait_for_calm
from .servers import SERVERS, Server

if TYPE_CHECKING:
    from collections.abc import Callable

Row = dict[str, Any]
# On a machine that others use: the cores they may take before a measurement is repeated, how often it is made at
# most, and the seconds to wait for them before each.
CALM = 0.15
TRIES = 3
PATIENCE = 20.0
spare = Spare(300.0)  # seconds that waiting and repeating may add to a whole run


@dataclass(frozen=True)
class Size:
    """How long to measure: `make bench` takes the whole, --short a first impression."""

    short: bool
    only: frozenset[str] = frozenset()

    @property
    def rounds(self) -> int:
        """Return how often the median's figures are taken."""
        return 1 if self.short else 3

    def servers(self, *keys: str) -> list[Server]:
        """Return those of the servers that are installed and asked for."""
        wanted = [SERVERS[key] for key in keys if not self.only or key in self.only]
        return [server for server in wanted if not server.missing()]


def in_turn(
    size: Size, measure: Callable[..., Row], keys: tuple[str, ...], steps: list[tuple[int, int, float]]
) -> list[Row]:
    """Return the medians of what `measure` finds at each step (streams, events, rate), the servers taking turns."""
    taken: dict[tuple[str, int, float], list[Row]] = {}
    for _ in range(size.rounds):
        for streams, events, rate in steps:
            for server in size.servers(*keys):
                rows = attempt(measure, server, streams, events, rate)
                taken.setdefault((server.key, streams, rate), []).extend(rows)
    return [_median(rows) for rows in taken.values() if rows]


def attempt(measure: Callable[..., Row], server: Server, streams: int, *rest: object) -> list[Row]:
    """Return the row of one measurement, or none if it failed, with the reason on stderr.

    `others` is the cores that other programs used meanwhile. Where that was too much, it is measured again, as
    long as there is time to spare, and the calmest row counts.
    """
    print(f"  {server.title}, {streams} streams", file=sys.stderr, flush=True)
    rows: list[Row] = []
    try:
        raise_file_limit(streams)
        while not rows or (len(rows) < TRIES and rows[-1]["others"] > CALM and spare.left() > 0):
            with spare:
                wait_for_calm(min(PATIENCE, spare.left()))
            others = Others()
            with spare if rows else contextlib.nullcontext():
                row = measure(server, streams, *rest)
            rows.append({"server": server.key, "streams": streams, **row, "others": others.cores()})
    except CannotMeasure as error:
        print(f"    failed: {error}", file=sys.stderr, flush=True)
    return sorted(rows, key=lambda row: float(row["others"]))[:1]


def _median(rows: list[Row]) -> Row:
    return {
        key: median(row[key] for row in rows) if isinstance(rows[0][key], float) else rows[0][key] for key in rows[0]
    }
