"""How a workload is measured: each on a fresh process, its servers in turn, and again where others disturbed it.

The servers take turns within each round, so that a machine that grows slower on the way does so for all of them.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from dataclasses import dataclass
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

from .machine import CannotMeasure, Others, Spare, raise_file_limit, wait_for_calm
from .record import Row
from .servers import SERVERS, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Case = tuple[Any, ...]
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
    rounds: int = 3  # how often each measurement is made

    def servers(self, *keys: str) -> list[Server]:
        """Return those of the servers that are installed and asked for."""
        wanted = [SERVERS[key] for key in keys if not self.only or key in self.only]
        return [server for server in wanted if not server.missing()]


def in_turn(size: Size, measure: Callable[..., Row], cases: Iterable[Case]) -> list[list[Row]]:
    """Return what `measure` finds for each case, in as many rounds as asked for.

    A case is the key of a server, a number of streams, and what else `measure` takes.
    """
    cases = [case for case in cases if size.servers(case[0])]
    taken: list[list[Row]] = [[] for _ in cases]
    for number in range(size.rounds):
        for (key, streams, *rest), rows in zip(cases, taken, strict=True):
            print(f"  {number + 1}/{size.rounds}", end="", file=sys.stderr)
            rows.extend(attempt(measure, SERVERS[key], streams, *rest))
    return [rows for rows in taken if rows]


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
            rows.append(
                {"server": server.key, "title": server.title, "streams": streams, **row, "others": others.cores()}
            )
    except (CannotMeasure, OSError, HTTPException, subprocess.SubprocessError) as error:
        print(f"    failed: {error}", file=sys.stderr, flush=True)
    return sorted(rows, key=lambda row: float(row["others"]))[:1]
