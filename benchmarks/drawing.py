"""Two kinds of plots, as SVG that can be read on light and on dark pages: bars, and lines. Both have whiskers from the
least of the repeats to the greatest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Between the pages' white and their dark slate.
INK = "#7b8794"
OURS = "#009485"
OTHERS = "#8f9bab"
# Of lines, in this order.
COLORS = ("#009485", "#c2703d", "#7f7fc9", "#b0913a", "#8f9bab")
WIDTH = 7.2  # inches


@dataclass(frozen=True)
class Spread:
    """The repeats of one figure."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, figure: Mapping[str, Any]) -> Spread:
        """Return that of a figure of a record."""
        return cls(figure["min"], figure["median"], figure["max"])


@dataclass(frozen=True)
class Bar:
    """One bar: its label, and whether it is ours."""

    label: str
    spread: Spread
    is_ours: bool = False


def bars(path: Path, title: str, unit: str, content: Sequence[Bar], *, log: bool = False) -> None:
    """Write horizontal bars, from the top; `title` says what is seen, `unit` what the axis shows."""
    figure, axes = _figure(0.9 + 0.42 * len(content))
    middles = [bar.spread.middle for bar in content]
    whiskers = [
        [max(0.0, bar.spread.middle - bar.spread.low) for bar in content],
        [max(0.0, bar.spread.high - bar.spread.middle) for bar in content],
    ]
    colors = [OURS if bar.is_ours else OTHERS for bar in content]
    axes.barh(range(len(content)), middles, xerr=whiskers, color=colors, height=0.62, ecolor=INK, log=log)
    axes.set_yticks(range(len(content)), [bar.label for bar in content])
    axes.invert_yaxis()
    for at, bar in enumerate(content):
        axes.annotate(number(bar.spread.middle), (bar.spread.high, at), (5, 0), textcoords="offset points", va="center")
    axes.margins(x=0.14)
    if log:
        least = min(bar.spread.low for bar in content)
        axes.set_xlim(left=10 ** math.floor(math.log10(least) - 0.3))
        axes.xaxis.set_major_formatter(lambda value, _: number(value))
        axes.minorticks_off()
    axes.set_xlabel(unit)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    _write(figure, path, title)


def lines(
    path: Path,
    title: str,
    across: str,
    up: str,
    content: Mapping[str, Sequence[tuple[float, Spread]]],
    *,
    log: tuple[bool, bool] = (True, False),
    marks: bool = True,
) -> None:
    """Write a line for each label; `across` and `up` name the axes, `log` says which of the two are logarithmic."""
    from matplotlib.ticker import LogLocator

    figure, axes = _figure(3.6)
    for (label, points), color in zip(content.items(), COLORS, strict=False):
        places = [place for place, _ in points]
        middles = [spread.middle for _, spread in points]
        whiskers = [
            [max(0.0, spread.middle - spread.low) for _, spread in points],
            [max(0.0, spread.high - spread.middle) for _, spread in points],
        ]
        axes.errorbar(
            places,
            middles,
            whiskers if marks else None,
            color=color,
            marker="o" if marks else "",
            capsize=3,
            label=label,
        )
    axes.set_xscale("log" if log[0] else "linear")
    axes.set_yscale("log" if log[1] else "linear")
    if marks:
        places = sorted({place for points in content.values() for place, _ in points})
        axes.set_xticks(places, [number(place) for place in places])
        axes.minorticks_off()
    if log[1]:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: number(value))
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(axis="y")
    axes.legend(frameon=False, labelcolor=INK)
    _write(figure, path, title)


def number(value: float) -> str:
    """Return a number as people read it, with three digits at most that count."""
    if value >= 1e6:
        return f"{value / 1e6:.3g} million"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _figure(height: float) -> tuple[Figure, Axes]:
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    # Text stays text, in the reader's own font; the same figures give the same file.
    rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "ds_broadcaster", "font.family": "sans-serif"})
    rcParams.update({"font.size": 11, "font.sans-serif": ["DejaVu Sans"]})
    rcParams.update(dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK))
    rcParams.update({"axes.edgecolor": INK, "grid.color": INK, "grid.alpha": 0.25, "axes.axisbelow": True})
    figure = Figure((WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _write(figure: Figure, path: Path, title: str) -> None:
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
