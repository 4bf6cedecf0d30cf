"""Pictures of a search for better settings, and of a cross-validation: PNG bytes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from edge_cnnlstm.report.drawing import BLUE, INK, MUTED, SHADE, STYLE, VERMILION, png, shortened

KEY_LENGTH = 34
"""Longer keys are cut, so that the bars keep their room."""
WIDE = 20
"""Scores of which the largest is so many times the smallest are drawn on a logarithmic scale."""


@dataclass(frozen=True, slots=True)
class Point:
    """One trial: its score, None where it has none, and whether it was trained to the end."""

    score: float | None
    complete: bool


def importance_picture(importances: Mapping[str, float], metric: str) -> bytes:
    """Draw how much each key mattered, shares that add up to 1, the largest on top; says so when nothing is known."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 1.6 + 0.5 * max(1, len(importances))), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(f"What {metric} depends on", loc="left", weight="bold", fontsize="medium", pad=10)
        if not importances:
            axes.set_axis_off()
            axes.text(0, 0.5, "too few different scores to tell", transform=axes.transAxes, color=MUTED)
            return png(figure, dpi=150)
        ordered = sorted(importances.items(), key=lambda item: item[1])
        bars = axes.barh(
            [shortened(key, KEY_LENGTH) for key, _ in ordered], [share for _, share in ordered], color=BLUE
        )
        axes.bar_label(bars, labels=[f"{share:.0%}" for _, share in ordered], padding=5, color=INK)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.tick_params(length=0)
        axes.set(xticks=[], xlim=(0, 1.12 * max(importances.values())))
        return png(figure, dpi=150)


def history_picture(points: Sequence[Point], metric: str, *, maximize: bool) -> bytes:
    """Draw each trial's score in the order of the trials, and the best so far.

    Filled circles were trained to the end, hollow ones stopped early; a cross on the axis has no score.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.0), layout="constrained")
        axes = figure.add_subplot()
        complete = [(n, p.score) for n, p in enumerate(points, 1) if p.score is not None and p.complete]
        stopped = [(n, p.score) for n, p in enumerate(points, 1) if p.score is not None and not p.complete]
        failed = [n for n, p in enumerate(points, 1) if p.score is None]
        if complete:
            numbers, scores = zip(*complete, strict=True)
            best = list(accumulate(scores, max if maximize else min))
            axes.step(
                [*numbers, len(points)], [*best, best[-1]], where="post", color=VERMILION, lw=2, label="best so far"
            )
            axes.plot(numbers, scores, "o", color=BLUE, ms=7, label="trained to the end")
        if stopped:
            axes.plot(*zip(*stopped, strict=True), "o", mfc="white", mec=BLUE, ms=7, label="stopped early")
        if failed:
            low = [0.0] * len(failed)
            axes.plot(
                failed, low, "x", color=INK, ms=8, transform=axes.get_xaxis_transform(), clip_on=False, label="failed"
            )
        known = [score for _, score in (*complete, *stopped)]
        if known and 0 < WIDE * min(known) < max(known):
            axes.set_yscale("log")
        axes.set(xlabel="trial", ylabel=metric, xlim=(0.4, max(2, len(points)) + 0.6))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", color=SHADE)
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper left", ncols=4, frameon=False, fontsize="small", handletextpad=0.4)
        return png(figure, dpi=150)


def folds_picture(scores: Mapping[str, Sequence[float]]) -> bytes:
    """Draw shares, 0..1, of every fold as dots, one row per score, with their mean as a line."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 1.2 + 0.5 * max(1, len(scores))), layout="constrained")
        axes = figure.add_subplot()
        for row, values in enumerate(scores.values()):
            axes.plot(values, [row] * len(values), "o", color=BLUE, ms=8, alpha=0.7, mew=0, clip_on=False)
            mean = sum(values) / len(values)
            axes.plot([mean, mean], [row - 0.32, row + 0.32], color=VERMILION, lw=2.4)
        axes.set_yticks(range(len(scores)), [shortened(name, KEY_LENGTH) for name in scores])
        axes.set(xlim=(0, 1), ylim=(len(scores) - 0.4, -0.6), xlabel="a dot per fold, their mean as a line")
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.grid(axis="x", color=SHADE)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        return png(figure, dpi=150)
