"""A scaling report's pictures: a panel for each sweep, and windows over streams."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks import goals
from benchmarks.scaling.figures import exponent_name, fitted, streaming, swept
from benchmarks.scaling.fit import with_exponent
from edge_cnnlstm.report.drawing import BLUE, MUTED, STYLE, VERMILION, png

COLOURS = {"fp32": BLUE, "int8": VERMILION}
MARKERS = {"fp32": "o", "int8": "s"}
DASHED: Any = (0, (5, 3))
DOTTED: Any = (0, (1, 2))
COLUMNS = 3
DPI = 110
STEPS = ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))
"""Digits of a logarithmic axis's ticks, from many to few."""
MOST_TICKS = 6
MARGIN = 1.25
APART = 1.6
"""Least ratio of two numbers beside each other under a logarithmic axis."""

Case = dict[str, Any]


def growth(report: dict[str, Any]) -> bytes:
    """Draw the times of every sweep over what it varies, the fits, and how they would grow with the MACs."""
    sweeps = report["sweeps"]
    columns = min(COLUMNS, len(sweeps))
    rows = math.ceil(len(sweeps) / columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2 * max(2, columns), 4.0 * rows + 0.5), layout="constrained")
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for panel, sweep in zip(panels, sweeps, strict=False):
            _panel(panel, sweep, report)
        for panel in panels[len(sweeps) :]:
            panel.set_axis_off()
        handles = panels[0].get_legend_handles_labels()[0]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
        return png(figure, dpi=DPI)


def windows(report: dict[str, Any]) -> bytes:
    """Draw how many times a stream's step a window takes, over the frames in it."""
    sweep = next(each for each in report["sweeps"] if each["mode"] == "window")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.0, 5.2), layout="constrained")
        axes = figure.add_subplot()
        points = sweep["points"]
        heights = [float(point) for point in points]
        axes.plot(points, points, color=MUTED, lw=1.4, ls=DASHED, label="as many as the window has frames")
        for precision in COLOURS:
            cases = swept(sweep, precision)
            stream = streaming(sweep, precision)
            if cases and stream is not None:
                found = [goals.ratio("", case["samples_ns"], stream["samples_ns"]) for case in cases]
                spread = [(each.low or each.value, each.high or each.value) for each in found]
                heights += [value for pair in spread for value in pair]
                _marks(axes, [case["point"] for case in cases], [each.value for each in found], spread, precision)
        again = swept(sweep, "fp32")
        kept = [case["macs_features_kept"] * case["point"] / case["macs"] for case in again]
        axes.plot(
            [case["point"] for case in again],
            kept,
            color=MUTED,
            lw=1.4,
            ls=DOTTED,
            label="features kept: MACs, not measured",
        )
        axes.set(xlabel=sweep["unit"], ylabel="window ÷ streaming")
        _points_across(axes, points)
        _times_up(axes, heights)
        axes.legend(frameon=False, loc="upper left")
        return png(figure, dpi=DPI)


def _panel(axes: Axes, sweep: dict[str, Any], report: dict[str, Any]) -> None:
    figures = {row["name"]: row for row in report["ratios"]}
    heights, said = list[float](), list[str]()
    for precision, colour in COLOURS.items():
        cases = swept(sweep, precision)
        if not cases:
            continue
        p50s = [case["p50_us"] for case in cases]
        spread = [case["p50_interval_us"] or (case["p50_us"],) * 2 for case in cases]
        _marks(axes, [case["point"] for case in cases], p50s, spread, precision)
        grown = fitted(sweep, precision)
        x, y = [case["point"] for case in grown], [case["p50_us"] for case in grown]
        by_macs = [y[0] * case["macs"] / grown[0]["macs"] for case in grown]
        axes.plot(x, by_macs, color=MUTED, lw=1.2, ls=DASHED, label="as MACs grow" if precision == "fp32" else None)
        figure = figures.get(exponent_name(sweep, precision))
        if figure is not None:
            curve = with_exponent(x, y, figure["value"], offset=sweep["offset"])
            along = np.geomspace(x[0], x[-1], 100)
            axes.plot(along, curve.at(along), color=colour, lw=2, label=f"{precision}, fit")
            said.append(f"{precision} {figure['value']:.2f}")
        heights += [value for pair in spread for value in pair]
    if said:
        said.append(f"MACs {sweep['growth']['fp32']['by_macs']:.2f}")
        axes.set_title(f"exponents: {', '.join(said)}", fontsize="small", color=MUTED)
    axes.set(xlabel=sweep["unit"], ylabel="p50, µs")
    if sweep["points"][0]:
        _points_across(axes, sweep["points"])
    _times_up(axes, heights)


def _marks(
    axes: Axes, x: Sequence[float], y: Sequence[float], spread: Sequence[Sequence[float]], precision: str
) -> None:
    below, above = zip(
        *((value - low, high - value) for value, (low, high) in zip(y, spread, strict=True)), strict=True
    )
    axes.errorbar(
        x, y, yerr=(below, above), fmt=MARKERS[precision], color=COLOURS[precision], ms=6, capsize=3, label=precision
    )


def _points_across(axes: Axes, points: Sequence[int]) -> None:
    """Make the horizontal axis logarithmic and mark as many of the points as have room for their numbers."""
    marked = list(points[:1])
    for point in points[1:]:
        if point >= APART * marked[-1]:
            marked.append(point)
    axes.set(xscale="log", xlim=(points[0] / MARGIN, points[-1] * MARGIN))
    _ticks(axes.xaxis, marked)


def _times_up(axes: Axes, values: Sequence[float]) -> None:
    """Make the vertical axis logarithmic around some values, with a handful of round ticks however short it is."""
    low, high = min(values) / MARGIN, max(values) * MARGIN
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [
        [digit * 10.0**decade for decade in decades for digit in digits if low <= digit * 10.0**decade <= high]
        for digits in STEPS
    ]
    axes.set(yscale="log", ylim=(low, high))
    _ticks(axes.yaxis, next((few for few in ticks if len(few) <= MOST_TICKS), ticks[-1]))


def _ticks(axis: Axis, at: Sequence[float]) -> None:
    axis.set_major_locator(FixedLocator(at))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
