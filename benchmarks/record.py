"""The JSON of a run: what it was taken on, and the minimum, median and maximum of each figure's repeats.

    {
      "machine": {"cpu": ..., "cores": 2, "memory_gb": ..., "kernel": ..., "python": ...},
      "versions": {"django": "6.1.3", ...},
      "workloads": {
        "idle": {
          "about": one sentence,
          "commit": of the repository, with a "+" where files differed from it,
          "short": whether loads were cut short,
          "rows": [
            {
              "server": "handoff", "title": "ds_broadcaster, handoff", "streams": 1000,
              "figures": {"kb": {"min": 4.2, "median": 4.3, "max": 4.3, "values": [4.2, 4.3, 4.3]}, ...}
            }, ...
          ]
        }, ...
      },
      "targets": [{"promise": ..., "measured": ..., "kept": true}, ...]
    }

What identifies a row stands beside `figures`: see PARAMETERS. Nothing in it names the host or a path.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Any

from .machine import HERE, CannotMeasure, describe, versions

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from .targets import Verdict

Row = dict[str, Any]

# What a row is measured at; everything else in it is a figure.
PARAMETERS = (
    *("server", "title", "streams", "rate", "stalled", "audiences", "channels", "bytes", "view", "encoding"),
    "store_core",
)
# Where the worst of the repeats counts, and not their median: what must never happen must not happen once.
LEAST = ("delivered", "listed", "least")
MOST = ("skips", "patches", "renders", "others")


class Record:
    """The figures of a run, written to its file after each workload."""

    def __init__(self, path: Path, content: dict[str, Any] | None = None) -> None:
        """Begin an empty record, or go on with what one holds."""
        self.path = path
        self.content = content or {"workloads": {}, "targets": []}

    @classmethod
    def read(cls, path: Path) -> Record:
        """Return the record that a file holds; an empty one if there is no such file."""
        return cls(path, json.loads(path.read_text()) if path.exists() else None)

    def add(self, name: str, about: str, repeats: Iterable[list[Row]], *, short: bool = False) -> None:
        """Put the repeats of each row of a workload in place of what the record has of it, and write the file."""
        machine = describe()
        if self.content.setdefault("machine", machine) != machine:
            raise CannotMeasure(f"{self.path.name} was taken on another machine: write to a file of its own.")
        self.content["versions"] = versions()
        self.content["workloads"][name] = {
            "about": about,
            "commit": _commit(),
            "short": short,
            "rows": [merged(rows) for rows in repeats if rows],
        }
        self.write()

    def judge(self, verdicts: Iterable[Verdict]) -> None:
        """Put the verdicts on the targets in, and write the file."""
        self.content["targets"] = [asdict(verdict) for verdict in verdicts]
        self.write()

    def results(self) -> dict[str, list[Row]]:
        """Return the rows of each workload, each figure as one number."""
        return {name: [flat(row) for row in held["rows"]] for name, held in self.content["workloads"].items()}

    def write(self) -> None:
        """Write the file; an interrupted run keeps the former one."""
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.content, indent=1) + "\n")
        partial.replace(self.path)


def merged(rows: list[Row]) -> Row:
    """Return the repeats of one row as one, with the spread of each figure."""
    first = rows[0]
    figures = {}
    for name in first:
        values = [row[name] for row in rows]
        if name not in PARAMETERS and None not in values:
            figures[name] = {"min": min(values), "median": median(values), "max": max(values), "values": values}
    return {**{name: first[name] for name in PARAMETERS if name in first}, "figures": figures}


def flat(row: Row) -> Row:
    """Return a merged row with one number for each figure: the median, or the worst (see LEAST and MOST)."""
    which = {**dict.fromkeys(LEAST, "min"), **dict.fromkeys(MOST, "max")}
    figures = {name: figure[which.get(name, "median")] for name, figure in row["figures"].items()}
    return {**{name: value for name, value in row.items() if name != "figures"}, **figures}


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + "+" * bool(git("status", "--porcelain", "-uno"))
    except (OSError, subprocess.CalledProcessError):
        return ""
