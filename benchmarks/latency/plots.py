"""The latency page's pictures: the tail in nines, where a frame's time goes, and whether it drifts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.latency.cases import LOOPS
from benchmarks.latency.document import Loop, Measured
from edge_cnnlstm.report.drawing import (
    BLUE,
    GREEN,
    MUTED,
    ORANGE,
    PURPLE,
    SHADE,
    SKY,
    STYLE,
    VERMILION,
    png,
    shortened,
)

WIDTH, DPI = 10.0, 120
COLUMNS, MOST_PANELS = 3, 6
LINES: dict[str, tuple[str, Any]] = {
    "closed": (BLUE, "-"),
    "window": (PURPLE, (0, (1, 1))),
    "open": (GREEN, (0, (5, 1.5))),
    "untuned": (VERMILION, (0, (5, 1.5, 1, 1.5))),
}
NINES = {1: "0", 2: "50", 10: "90", 100: "99", 1_000: "99.9", 10_000: "99.99"}
"""Where percentiles stand: at one in how many samples above them."""
SAMPLES_A_NINE = 20.1
"""A percentile that one in x samples exceeds needs so many times x: 2,010 for p99."""
PARTS = {"wait": MUTED, "fit": PURPLE, "upload": SKY, "infer": BLUE, "download": ORANGE, "decode": GREEN}
"""Stages in the order of time, which add up to a frame's age, and their colours."""
BINS = 40
"""A round's samples are drawn as so many medians, and so many maxima."""


def tails(cases: Sequence[Measured]) -> bytes:
    """Draw each loop's response by percentile, a panel a case; faint where the samples are too few to depend on."""
    shown = cases[:MOST_PANELS]
    columns = min(COLUMNS if len(shown) > 4 else 2, len(shown))
    rows = math.ceil(len(shown) / columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.9 + 3.3 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, case in zip(panels.flat, shown, strict=False):
            for name, loop in case.loops.items():
                _draw_tail(axes, name, loop)
            axes.set_title(shortened(case.name, 108 // columns), loc="left", fontsize="small", weight="bold")
            _nines(axes)
        for axes in panels.flat[len(shown) :]:
            axes.set_visible(False)
        for axes in panels[:, 0]:
            axes.set_ylabel("ms")
        for axes in panels.flat[max(0, len(shown) - columns) : len(shown)]:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("percentile")
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=4, frameon=False)
        return png(figure, dpi=DPI)


def stages(cases: Sequence[Measured]) -> bytes:
    """Draw what each stage takes of a frame's age, on average, a bar for each loop of each case."""
    bars = [(case, name, loop) for case in cases for name, loop in case.loops.items() if loop.stages]
    used = [
        part for part in PARTS if any(part in loop.stages and loop.stages[part].mean_us >= 1 for _, _, loop in bars)
    ]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.4 + 0.42 * len(bars)), layout="constrained")
        axes = figure.add_subplot()
        for row, (_, _, loop) in enumerate(bars):
            parts, left = _parts(loop), 0.0
            for part in used:
                axes.barh(row, parts[part], left=left, color=PARTS[part], height=0.72, edgecolor="white", lw=0.6)
                left += parts[part]
            axes.annotate(f"{left:.2f}", (left, row), (5, 0), textcoords="offset points", va="center", fontsize="small")
        names = [f"{shortened(case.name, 34)}  ·  {LOOPS[name]}" for case, name, _ in bars]
        axes.set_yticks(range(len(bars)), names, fontsize="small")
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.08)
        axes.set_xlabel("mean ms from when a frame was due")
        patches = [axes.barh(0, 0, color=PARTS[part], label=part) for part in used]
        figure.legend(handles=patches, loc="outside upper left", ncols=len(used), frameon=False)
        return png(figure, dpi=DPI)


def drift(case: Measured) -> bytes:
    """Draw one case's samples over all rounds, a panel a loop: medians as a line, maxima as dots."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.5 + 1.7 * len(case.loops)), layout="constrained")
        panels = figure.subplots(len(case.loops), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (name, loop) in zip(panels, case.loops.items(), strict=True):
            _draw_rounds(axes, name, loop)
            axes.set_title(LOOPS[name], loc="left", fontsize="medium", weight="bold")
            axes.set_ylabel("ms")
        panels[-1].set_xlabel("round")
        panels[-1].set_xticks(
            np.arange(len(next(iter(case.loops.values())).samples_ns)) + 0.5,
            [str(number + 1) for number in range(len(next(iter(case.loops.values())).samples_ns))],
        )
        return png(figure, dpi=DPI)


def _draw_tail(axes: Axes, name: str, loop: Loop) -> None:
    colour, style = LINES[name]
    samples = np.sort(np.array(loop.samples, float)) / 1e6
    count = len(samples)
    rarity = count / (count - np.arange(count) - 0.5)
    trusted = int(np.searchsorted(rarity, count / SAMPLES_A_NINE, "right"))
    axes.plot(rarity[:trusted], samples[:trusted], color=colour, ls=style, lw=2.2, label=LOOPS[name])
    axes.plot(rarity[max(0, trusted - 1) :], samples[max(0, trusted - 1) :], color=colour, ls=style, lw=1, alpha=0.45)


def _nines(axes: Axes) -> None:
    axes.set(xscale="log", yscale="log")
    axes.set_xlim(1, max(axes.get_xlim()[1], 1_000))
    axes.set_xticks([place for place in NINES if place <= axes.get_xlim()[1]])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: NINES.get(round(place), "")))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))
    axes.yaxis.set_minor_formatter(FuncFormatter(_few))
    axes.grid(color=SHADE, lw=0.8)


def _draw_rounds(axes: Axes, name: str, loop: Loop) -> None:
    colour, _ = LINES[name]
    for number, turn in enumerate(loop.samples_ns):
        bins = [part for part in np.array_split(np.array(turn, float) / 1e6, BINS) if part.size]
        places = number + (np.arange(len(bins)) + 0.5) / len(bins)
        axes.plot(places, [part.max() for part in bins], ".", color=MUTED, ms=3.5, alpha=0.7, mew=0)
        axes.plot(places, [np.median(part) for part in bins], color=colour, lw=1.8)
        if number:
            axes.axvline(number, color=SHADE, lw=0.8, zorder=0)
    axes.set_yscale("log")
    axes.set_xlim(0, len(loop.samples_ns))
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))
    axes.yaxis.set_minor_formatter(FuncFormatter(_few))
    axes.tick_params(axis="x", length=0)


def _parts(loop: Loop) -> dict[str, float]:
    """Return each stage's mean in ms; on a GPU the copies are taken out of the host's `infer`, which has them in it."""
    parts = {part: loop.stages[part].mean_us / 1e3 if part in loop.stages else 0.0 for part in PARTS}
    parts["infer"] -= parts["upload"] + parts["download"]
    return parts


def _plain(value: float, _: object) -> str:
    return f"{value:g}"


def _few(value: float, _: object) -> str:
    """Label 2 and 5 between powers of ten."""
    first = round(value / 10 ** math.floor(math.log10(value) + 1e-9), 6)
    return f"{value:g}" if first in (2, 5) else ""
