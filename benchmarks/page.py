"""Put the figures and plots of a run on their page: python -m benchmarks.page [FILE].

What stands on cookbook/benchmarks.md between a mark and `<!-- end -->` is written from a file of figures:

    <!-- machine -->
    <!-- plot: NAME WORDS -->              one of plots.py's or curves.py's, with words for those who cannot see it
    <!-- table: WORKLOAD FIGURE ... -->    the rows of a workload, with these figures
    <!-- targets -->

The file is kept beside the plots, in cookbook/benchmarks/run.json. Without FILE, it is that of `make bench` and
`make bench-100k`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .drawing import number
from .machine import HERE, RUN
from .plots import draw
from .record import PARAMETERS, Record
from .report import HEADINGS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .record import Row

COOKBOOK = HERE.parent / "cookbook"
PAGE = COOKBOOK / "benchmarks.md"
MARK = re.compile(
    r"(?P<mark><!-- (?P<kind>machine|plot|table|targets)(?:: (?P<words>[^>]*?))? -->\n).*?(?=<!-- end -->)", re.DOTALL
)
NOT_MEASURED = "Not measured in this run.\n"


def main(words: Sequence[str]) -> int:
    """Write the page, the plots and the file of the figures."""
    source = Path(words[0]) if words else RUN
    if not source.exists():
        raise SystemExit(f"There are no figures in {source}: run make bench first, or name a file of them.")
    record = Record(COOKBOOK / "benchmarks" / "run.json", Record.read(source).content)
    record.path.parent.mkdir(exist_ok=True)
    record.write()
    draw(record, record.path.parent)
    PAGE.write_text(filled(PAGE.read_text(), record))
    print(f"{PAGE.name} shows the figures of {source.name}.")
    return 0


def filled(page: str, record: Record) -> str:
    """Return the text of a page with what its marks ask for."""

    def block(found: re.Match[str]) -> str:
        words = (found["words"] or "").split()
        return found["mark"] + BLOCKS[found["kind"]](record, *words)

    return MARK.sub(block, page)


def machine(record: Record) -> str:
    """Return what the run was made on, in a sentence or two."""
    content = record.content
    if "machine" not in content:
        return NOT_MEASURED
    held = content["machine"]
    commits = sorted({workload["commit"] for workload in content["workloads"].values()})
    software = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    return (
        f"{held['cores']} cores of {held['cpu']}, {held['memory_gb']} GB, Linux {held['kernel']}, "
        f"Python {held['python']}, {software}. Commit {', '.join(commits)}.\n"
        "[All figures](benchmarks/run.json), with every repeat.\n"
    )


def plot(record: Record, name: str, *words: str) -> str:
    """Return the picture of a plot."""
    path = record.path.parent / f"{name}.svg"
    return f"![{' '.join(words)}](benchmarks/{path.name})\n" if path.exists() else NOT_MEASURED


def table(record: Record, workload: str, *figures: str) -> str:
    """Return the rows of a workload, with the parameters in which they differ."""
    rows = record.content["workloads"].get(workload, {"rows": []})["rows"]
    if not rows:
        return NOT_MEASURED
    varied = [name for name in PARAMETERS[2:] if len({str(row.get(name)) for row in rows}) > 1]
    heads = ["", *(HEADINGS[name] for name in (*varied, *figures))]
    lines = [
        [row["title"], *(_parameter(name, row.get(name)) for name in varied), *(_figure(row, name) for name in figures)]
        for row in rows
    ]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (heads, ["---"] * len(heads), *lines))


def targets(record: Record) -> str:
    """Return the targets, with what was measured."""
    words = {True: "met", False: "**missed**", None: "not measured"}
    lines = [
        f"| {held['promise']} | {held['measured']} | {words[held['kept']]} |\n" for held in record.content["targets"]
    ]
    return "".join(["| target | measured | |\n| --- | --- | --- |\n", *lines]) if lines else NOT_MEASURED


def _parameter(name: str, value: Any) -> str:
    if name == "rate":
        return number(value) if value else "back to back"
    return str(value or "") if isinstance(value, str) or value is None else f"{value:,}"


def _figure(row: Row, name: str) -> str:
    figure = row["figures"].get(name)
    if figure is None:
        return ""
    write = "{:.0%}".format if name in ("delivered", "least") else number
    low, middle, high = (write(figure[which]) for which in ("min", "median", "max"))
    return middle if low == high else f"{middle} ({low} to {high})"


BLOCKS: dict[str, Any] = {"machine": machine, "plot": plot, "table": table, "targets": targets}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
