"""Every case's time as a multiple of ours: a panel for each loop, a row for each case."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.goals import Figure, Rounds, ratio
from benchmarks.peers.figures import counted
from benchmarks.peers.ours import OURS
from benchmarks.peers.reading import Case, groups, own, timed
from edge_cnnlstm.report.drawing import BLUE, INK, MUTED, SHADE, STYLE, VERMILION, png, shortened

DPI = 120
WIDE = 200
"""An axis that spans more than this has room for powers of ten alone."""
ROW, FRAME = 0.36, 1.3
"""Inches that one row takes, and a panel around its rows."""
NAME = 40
"""Letters of a name; a longer one loses its middle."""


def beside_ours(report: dict[str, Any]) -> bytes:
    """Draw the panels side by side: back to back with each number of threads, then 30 Hz."""
    panels = [(f"back to back, {counted(threads)}", cases) for threads, cases in groups(report)]
    panels += [("one frame every 33 ms", report["paced"])] if report["paced"] else []
    rows = max(len(cases) for _, cases in panels)
    with mpl.rc_context(STYLE):
        drawing = Drawing(figsize=(6.4 * len(panels), FRAME + ROW * rows), layout="constrained")
        for axes, (title, cases) in zip(drawing.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _panel(axes, title, cases)
        return png(drawing, dpi=DPI)


def _panel(axes: Axes, title: str, cases: list[Case]) -> None:
    ours = own(cases)
    found = [(case, _multiple(timed(case), ours)) for case in cases if case is not ours]
    found.sort(key=lambda pair: -pair[1].value)
    axes.axvline(1, color=VERMILION, lw=1.6)
    for row, (case, figure) in enumerate(found):
        colour = BLUE if case["about"]["family"] and case["accuracy"]["equal"] else MUTED
        axes.axhline(row, color=SHADE, lw=0.8, zorder=0)
        _dot(axes, row, figure, colour, filled=True)
        if case.get("bare_ns"):
            _dot(axes, row, _multiple(case["whole_ns"], ours), colour, filled=False)
    names = [shortened(case["about"]["name"], NAME) + ("" if case["accuracy"]["equal"] else " †") for case, _ in found]
    axes.set_yticks(range(len(names)), names, fontsize="small")
    axes.set(xscale="log", title=title, xlabel=f"time ÷ {OURS}")
    axes.title.set(fontsize="medium", color=INK)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < WIDE * low else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _multiple(rounds: Rounds, ours: Case) -> Figure:
    return ratio("", rounds, timed(ours))


def _dot(axes: Axes, row: int, figure: Figure, colour: str, *, filled: bool) -> None:
    if figure.low is not None and figure.high is not None:
        axes.plot([figure.low, figure.high], [row, row], color=colour, lw=2.4, alpha=0.5, solid_capstyle="butt")
    axes.plot(figure.value, row, "o", color=colour, ms=7, mfc=colour if filled else "white", mew=1.4)
