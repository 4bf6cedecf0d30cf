"""The export report's pictures: the precision plan, errors along a rollout, sensitivity; PNG bytes out.

How a number is said is here too, because pictures and page must say it alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from edge_cnnlstm.report.drawing import BLUE, GREEN, INK, MUTED, SHADE, STYLE, VERMILION, beside, png, shortened
from edge_cnnlstm.report.scores import NOTHING, condition_name, score_name

DPI = 160
WIDE = 10.4
"""Inches across the whole page."""
ROW, GROUP, LOSSES, LATENCIES = 0.34, 0.62, (2.75, 3.6), (6.9, 3.4)
"""Inches of the plan: height of a row, of a group's heading; left edge and width of both columns of bars."""
PALE, STRIPES = "#9aa5b1", "/////"
BEYOND = 4
"""Losses of more budgets than this are cut off, or the others could not be told apart."""
LAYER_ROW, LAYER_COLUMNS = 0.225, ((44, "right"), (52, "left"), (264, "right"), (272, "left"))
"""Sensitivity: a row's height in inches; where the columns beside the bars begin or end, in typographic points."""
SIGNALS: dict[str, tuple[str, Any]] = {"outputs": (BLUE, "-"), "h": (VERMILION, (0, (5, 2))), "c": (GREEN, (0, (2, 1)))}
"""Colour and dashes of each curve along a rollout."""
STRETCHES = 40
"""Curves of many more points are drawn as the medians of so many stretches."""
DECADES, RARE = 8, 1
"""Errors smaller than the largest by more decades are drawn on the lower edge, and the smallest percent of all."""

Candidates = Sequence[Mapping[str, Any]]
Curve = Mapping[str, Sequence[float | None]]
"""Steps, and relative errors at these: of the outputs, and of h and c where there is a memory."""


def points(share: float | None) -> str:
    """Return a difference between scores in points, hundredths of the score."""
    if share is None or not math.isfinite(share):
        return NOTHING
    return f"{100 * share:.2f}".replace("-0.00", "0.00").replace("-", "−")


def duration(microseconds: float | None) -> str:
    """Return a time with three significant digits."""
    if microseconds is None or not math.isfinite(microseconds):
        return NOTHING
    unit, scale = ("s", 1e-6) if microseconds >= 999_500 else ("ms", 1e-3) if microseconds >= 999.5 else ("µs", 1)
    return f"{significant(microseconds * scale)} {unit}"


def significant(value: float, digits: int = 3) -> str:
    """Return a number with so many significant digits, such as 4.10, 2,300 or 1.25×10⁻⁶."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    power = int(exponent)
    if -4 <= power < 6:
        return f"{float(mantissa + 'e' + exponent):,.{max(0, digits - 1 - power)}f}".replace("-", "−")
    return f"{mantissa}×{power_of_ten(power)}".replace("-", "−")


def power_of_ten(exponent: int) -> str:
    """Return 10 to an exponent, such as 10⁻³: a label may hold a dollar sign, so matplotlib's own form is not read."""
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def score_label(score: str) -> str:
    """Return what people call a score with its head, such as "digit: accuracy, hidden"."""
    head, _, rest = score.partition(".")
    if not rest:
        return score
    metric, *condition = rest.split(".", 1)
    return f"{head}: " + ", ".join([score_name(f"{head}.{metric}"), *map(condition_name, condition)])


def latencies(candidate: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return every time of a candidate's step, each with where it was measured or what it was estimated for."""
    return [candidate["latency"], *candidate.get("other_latencies", [])]


def plan_picture(candidates: Candidates, budget: float) -> bytes:
    """Draw accuracy lost and latency of each candidate, side by side.

    Latencies have a scale for each place that they were measured on or estimated for.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for candidate in candidates:
        for latency in latencies(candidate):
            groups.setdefault((latency["kind"], latency["where"]), []).append({**candidate, "latency": latency})
    height = 0.8 + sum(GROUP + ROW * len(group) for group in groups.values())
    limits = _loss_limits(candidates, budget)
    with mpl.rc_context(STYLE | {"font.size": 10.5}):
        figure = Figure(figsize=(WIDE, height))

        def column(inches: tuple[float, float], low: float, tall: float) -> Axes:
            return figure.add_axes((inches[0] / WIDE, low / height, inches[1] / WIDE, tall / height))

        for (left, _), said in ((LOSSES, "accuracy lost, points"), (LATENCIES, "latency per step, p50 (line: to p99)")):
            figure.text(left / WIDE, 1 - 0.15 / height, said, weight="bold", va="center")
        low = height - 0.3
        for (kind, where), group in groups.items():
            heading = f"{kind}: {_plain(where, 100)}"
            figure.text(0.02 / WIDE, (low - 0.42) / height, heading, color=MUTED, va="center")
            low -= GROUP + ROW * len(group)
            losses = column(LOSSES, low, ROW * len(group))
            _draw_losses(losses, group, limits, budget)
            _draw_latencies(column(LATENCIES, low, ROW * len(group)), group)
        losses.annotate(f"budget {points(budget)}", (100 * budget, 0), (0, -6), xycoords=("data", "axes fraction"),
                        textcoords="offset points", color=MUTED, ha="center", va="top")  # fmt: skip
        return png(figure, dpi=DPI)


def curve_picture(curve: Curve, resets: Sequence[int], tolerance: float | None = None) -> bytes:
    """Draw errors along a rollout on a logarithmic scale, with its resets, and the tolerance where there is one.

    Long curves are drawn as medians of short stretches, with every point faintly behind them.
    """
    steps = np.array(curve["step"], float)
    errors = {name: np.array(curve[name], float) for name in SIGNALS if curve.get(name)}
    limits = _log_limits(errors.values(), tolerance)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.add_subplot()
        for name, values in errors.items():
            _draw_error(axes, name, steps, values.clip(min=limits[0]))
        for number, at in enumerate(resets):
            axes.axvline(at, color=MUTED, lw=1.1, ls=(0, (1, 2)), label="" if number else "reset")
        if tolerance:
            axes.axhline(tolerance, color=INK, lw=1.2, ls=(0, (6, 3)), label="tolerance")
        axes.set(yscale="log", ylim=limits, xlabel="step", ylabel="relative error")
        axes.set_xlim(0, steps[-1] + (steps[-1] - steps[-2]) if len(steps) > 1 else 1)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(LogLocator(numticks=10))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda error, _: power_of_ten(round(math.log10(error)))))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(axis="y", color=SHADE)
        if axes.get_legend_handles_labels()[0]:
            figure.legend(loc="outside upper left", ncols=5, frameon=False, fontsize="small", handlelength=1.7)
        return png(figure, dpi=DPI)


def sensitivity_picture(layers: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw what is lost when one layer alone is int8, in the order of the network; those kept from it are striped."""
    lost = np.nan_to_num([_hundredths(layer["lost"]) for layer in layers])
    low, high = min(0.0, lost.min()), max(0.0, lost.max())
    room = 0.03 * (high - low) or 0.01
    with mpl.rc_context(STYLE | {"font.size": 9.5}):
        figure = Figure(figsize=(WIDE, LAYER_ROW * len(layers) + 0.85), layout="constrained")
        axes = figure.add_subplot()
        axes.set(ylim=(len(layers) - 0.5, -0.5), xlim=(low - room * (low < 0), high + room))
        bars = axes.barh(range(len(layers)), lost, height=0.7, color=BLUE)
        _write_columns(axes, -1, ("points", "score that lost most", "weights"), color=MUTED)
        for row, (layer, bar) in enumerate(zip(layers, bars, strict=True)):
            said = [points(layer["lost"]), _plain(score_label(layer["score"]), 28), f"{layer['weights']:,}"]
            if layer["kept"]:
                bar.set(facecolor="white", edgecolor=VERMILION, hatch=STRIPES, lw=1)
                _write_columns(axes, row, (*said, "kept"), color=VERMILION, weight="bold")
            else:
                _write_columns(axes, row, said)
        axes.set_yticks(range(len(layers)), [_plain(layer["layer"], 42) for layer in layers])
        axes.set_xlabel("points lost when this layer alone is int8")
        axes.axvline(0, color=MUTED, lw=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.grid(axis="x", color=SHADE)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        return png(figure, dpi=DPI)


def _write_columns(axes: Axes, row: int, texts: Sequence[str], **style: Any) -> None:
    """Write texts to the right of a row of bars."""
    for (gap, side), text in zip(LAYER_COLUMNS, texts, strict=False):
        axes.annotate(text, (1, row), (gap, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
                      ha=side, va="center_baseline", annotation_clip=False, **style)  # fmt: skip


def _plain(name: str, length: int) -> str:
    """Return a name on one line, without what no font can be asked for."""
    return shortened(" ".join(name.encode(errors="replace").decode().split()), length)


def _hundredths(share: float | None) -> float:
    return math.nan if share is None else 100 * share


def _loss_limits(candidates: Candidates, budget: float) -> tuple[float, float]:
    """Return the ends of the scale of losses: the budget is in view, and zero."""
    losses = [lost for candidate in candidates if math.isfinite(lost := _hundredths(candidate["lost"]))]
    largest = max([0.0, *losses])
    high = max(min(largest, 100 * BEYOND * budget or largest), 130 * budget) or 1.0
    return max(1.1 * min([0.0, *losses]), -high), 1.25 * high


def _draw_losses(axes: Axes, group: Candidates, limits: tuple[float, float], budget: float) -> None:
    _frame(axes, len(group), limits)
    axes.axvline(100 * budget, color=MUTED, lw=1.2, ls=(0, (4, 3)), zorder=0.5)
    for row, candidate in enumerate(group):
        lost = _hundredths(candidate["lost"])
        end = min(max(lost, limits[0]), limits[1] / 1.25) if math.isfinite(lost) else 0.0
        axes.barh(row, end, height=0.62, color=_colour(candidate))
        said = points(candidate["lost"])
        _say(axes, (max(end, 0), row), f"{said} →" if lost > end else f"← {said}" if lost < end else said)
    marks = ["✓ " if candidate["chosen"] else "" for candidate in group]
    names = [mark + _plain(candidate["name"], 28) for mark, candidate in zip(marks, group, strict=True)]
    axes.set_yticks(range(len(group)), names)
    for label, mark in zip(axes.get_yticklabels(), marks, strict=True):
        label.set_fontweight("bold" if mark else "normal")


def _draw_latencies(axes: Axes, group: Candidates) -> None:
    times = [(candidate["latency"]["p50_us"], candidate["latency"]["p99_us"]) for candidate in group]
    _frame(axes, len(group), (0, 1.25 * max(max(p50, p99 or 0) for p50, p99 in times) or 1))
    axes.set_yticks([])
    for row, (candidate, (p50, p99)) in enumerate(zip(group, times, strict=True)):
        (bar,) = axes.barh(row, p50, height=0.62, color=_colour(candidate))
        if candidate["latency"]["kind"] == "estimated":
            bar.set(facecolor="white", edgecolor=_colour(candidate), hatch=STRIPES, lw=1)
        if p99 is not None:
            axes.plot([p50, p99], [row, row], color=INK, lw=1.2, marker="|", ms=7, markevery=[1])
        _say(axes, (max(p50, p99 or 0), row), duration(p50))


def _frame(axes: Axes, rows: int, limits: tuple[float, float]) -> None:
    axes.set(xlim=limits, ylim=(rows - 0.5, -0.5), xticks=[])
    axes.axvline(0, color=MUTED, lw=0.8)
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)


def _colour(candidate: Mapping[str, Any]) -> str:
    if not candidate["within_budget"]:
        return VERMILION
    return BLUE if candidate["chosen"] else PALE


def _say(axes: Axes, point: tuple[float, float], text: str) -> None:
    beside(axes, point, text, 5, va="center", bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6})


def _log_limits(errors: Iterable[NDArray[np.float64]], tolerance: float | None) -> tuple[float, float]:
    """Return whole powers of ten around the positive errors, but for the rarest small ones, and the tolerance."""
    values = np.concatenate([*errors, [tolerance or 0.0]])
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values):
        return 1e-8, 1.0
    high = math.floor(math.log10(values.max())) + 1
    low = math.floor(math.log10(np.percentile(values, RARE)))
    return 10.0 ** min(max(low, high - DECADES), high - 1), 10.0**high


def _draw_error(axes: Axes, name: str, steps: NDArray[np.float64], values: NDArray[np.float64]) -> None:
    colour, dashes = SIGNALS[name]
    known = np.isfinite(values)
    steps, values = steps[known], values[known]
    if len(values) > 3 * STRETCHES:
        axes.plot(steps, values, color=colour, lw=0.7, alpha=0.3)
        stretches = np.array_split(np.arange(len(values)), STRETCHES)
        steps = np.array([steps[stretch].mean() for stretch in stretches])
        values = np.array([np.median(values[stretch]) for stretch in stretches])
    axes.plot(steps, values, color=colour, ls=dashes, lw=2.2, label=name, clip_on=False)
