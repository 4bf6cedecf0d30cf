"""The evaluation page's pictures: confusion, calibration, and curves of one network or of several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from edge_cnnlstm.report.drawing import BLUE, INK, MUTED, SERIES, SHADE, STYLE, beside, png, shortened

DPI = 160
WRITTEN = 16
"""A confusion matrix of at most this many labels has its counts in it."""
TICKS = 26
"""A larger one has at most this many of its labels beside it."""
MANY = 8
"""More markers than on a curve of so many points would hide it."""

Curves = Mapping[str, dict[str, Any]]
"""The same curve of one or more networks, by their names."""


def confusion(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> bytes:
    """Draw how often each true label, in rows, was answered with each label, in columns."""
    counts = np.array(matrix)
    count = len(labels)
    shares = counts / counts.sum(1, keepdims=True).clip(min=1)
    step = math.ceil(count / TICKS)
    with mpl.rc_context(STYLE):
        side = min(8.0, 4.6 + 0.2 * min(count, TICKS))
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.add_subplot()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        size = max(7.0, 13 - 0.25 * count)
        names = [shortened(label, 16) for label in labels[::step]]
        axes.set_xticks(range(0, count, step), names, fontsize=size, rotation=90 if max(map(len, names)) > 3 else 0)
        axes.set_yticks(range(0, count, step), names, fontsize=size)
        axes.set(xlabel="answered", ylabel="true")
        axes.tick_params(length=0)
        for edge in axes.spines.values():
            edge.set(visible=True, color=SHADE)
        if count <= WRITTEN:
            for row, column in np.argwhere(counts).tolist():
                colour = "white" if shares[row, column] > 0.5 else INK
                axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=size)
        return png(figure, dpi=DPI)


def reliability(bins: Sequence[Mapping[str, float]]) -> bytes:
    """Draw how often the answers of each confidence are right, and how many answers there are of it."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.8), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
        confidence = [row["confidence"] for row in bins]
        above.plot([0, 1], [0, 1], color=MUTED, lw=1.2, ls=(0, (4, 3)))
        above.annotate("dashed: perfectly calibrated", (0.99, 0.04), color=MUTED, fontsize="small", ha="right")
        above.plot(confidence, [row["accuracy"] for row in bins], "o-", color=BLUE, lw=2.4, ms=6, clip_on=False)
        above.set(xlim=(0, 1), ylim=(0, 1), ylabel="right")
        below.bar(confidence, [row["count"] for row in bins], width=0.045, color=BLUE)
        below.set(xlabel="probability of the answer", ylabel="answers")
        below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        for axis in (above.xaxis, above.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0))
        return png(figure, dpi=DPI)


def roc(curve: dict[str, Any]) -> bytes:
    """Draw the one-vs-rest curve of each label, and their mean."""
    with mpl.rc_context(STYLE):
        figure, axes = _axes()
        false = curve["false_positive_rate"]
        for values in curve["labels"].values():
            axes.plot(false, values, color=MUTED, lw=0.9, alpha=0.6)
        axes.plot(false, curve["mean"], color=BLUE, lw=2.6, label="mean over the labels")
        if curve["labels"]:
            axes.plot([], [], color=MUTED, lw=0.9, label="each label against the rest")
        axes.plot([0, 1], [0, 1], color=MUTED, lw=1.2, ls=(0, (4, 3)), label="guessing")
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="false positive rate", ylabel="true positive rate")
        axes.legend(frameon=False, fontsize="small", loc="lower right")
        _percent(axes, "xy")
        return png(figure, dpi=DPI)


def early(curves: Curves) -> bytes:
    """Draw accuracy against the fraction of the clip seen."""
    return _lines(curves, "fraction", "accuracy", "of the clip seen", "accuracy", percent="xy", xlim=(0, 1))


def success(curves: Curves) -> bytes:
    """Draw the share of frames whose boxes overlap more than a threshold."""
    return _lines(curves, "threshold", "share", "overlap (IoU) above", "of the frames", percent="y", xlim=(0, 1))


def precision(curves: Curves, pixels: float | None) -> bytes:
    """Draw the share of frames whose centres are no further apart than a threshold, and mark that of the score."""
    with mpl.rc_context(STYLE):
        figure, axes = _axes()
        if pixels is not None:
            axes.axvline(pixels, color=MUTED, lw=1.2, ls=(0, (4, 3)))
            beside(axes, (pixels, 0.03), f"{pixels:.1f} px", 5, color=MUTED, fontsize="small")
        _plot(axes, curves, "threshold_px", "share")
        axes.set(xlabel="centre error within, px", ylabel="of the frames", ylim=(0, 1.02))
        axes.set_xlim(left=0)
        _percent(axes, "y")
        return png(figure, dpi=DPI)


def across(curves: Curves, metric: str) -> bytes:
    """Draw a metric from before to after the target is first hidden."""
    with mpl.rc_context(STYLE):
        figure, axes = _axes()
        frames = next(iter(curves.values()))["frames"]
        axes.axvspan(0, frames[-1], color=SHADE, lw=0)
        _plot(axes, curves, "frames", metric)
        accuracy = metric == "accuracy"
        axes.set(xlim=(frames[0], frames[-1]), xlabel="frames since the target was first hidden")
        axes.set(ylabel="accuracy per frame" if accuracy else "centre error, px")
        axes.set_ylim(0, 1.02 if accuracy else None)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if accuracy:
            _percent(axes, "y")
        return png(figure, dpi=DPI)


def since_hidden(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> bytes:
    """Draw the centre error by how many frames the target has been hidden for."""
    columns = {name: {key: [row[key] for row in rows] for key in rows[0]} for name, rows in curves.items() if rows}
    with mpl.rc_context(STYLE):
        figure, axes = _axes()
        _plot(axes, columns, "hidden_for", "centre_error_px")
        axes.set(xlabel="frames that the target has been hidden for", ylabel="centre error, px")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return png(figure, dpi=DPI)


def predicted(label: str, points: Sequence[Sequence[float]]) -> bytes:
    """Draw predicted against true values."""
    with mpl.rc_context(STYLE):
        figure, axes = _axes()
        true, found = np.array(points, float).T
        low, high = float(min(true.min(), found.min())), float(max(true.max(), found.max()))
        margin = 0.05 * (high - low) or 1.0
        ends = (low - margin, high + margin)
        axes.plot(ends, ends, color=MUTED, lw=1.2, ls=(0, (4, 3)))
        axes.plot(true, found, "o", color=BLUE, ms=5, alpha=0.5, mew=0)
        axes.set(xlim=ends, ylim=ends, xlabel=f"true {shortened(label, 30)}", ylabel="predicted")
        return png(figure, dpi=DPI)


def _lines(curves: Curves, x: str, y: str, xlabel: str, ylabel: str, *, percent: str, xlim: tuple[int, int]) -> bytes:
    with mpl.rc_context(STYLE):
        figure, axes = _axes()
        _plot(axes, curves, x, y)
        axes.set(xlim=xlim, ylim=(0, 1.02), xlabel=xlabel, ylabel=ylabel)
        _percent(axes, percent)
        return png(figure, dpi=DPI)


def _plot(axes: Axes, curves: Curves, x: str, y: str) -> None:
    for number, (name, curve) in enumerate(curves.items()):
        colour, style = SERIES[number % len(SERIES)]
        values = np.array(curve[y], float)
        every = max(1, len(values) // MANY) if len(values) > 3 * MANY else 1
        (line,) = axes.plot(curve[x], values, style, color=colour, lw=2.4, ms=5, label=shortened(name, 30))
        line.set(clip_on=False, markevery=every)
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize="small", loc="best")


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    return figure, figure.add_subplot()


def _percent(axes: Axes, which: str) -> None:
    for name in which:
        axis = axes.xaxis if name == "x" else axes.yaxis
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
