"""The streaming report's pictures: how old frames were when they were decided on, and when that was."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from textwrap import wrap
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from edge_cnnlstm.report.ages import Histogram, frames_below, round_step
from edge_cnnlstm.report.drawing import BLUE, INK, MUTED, PURPLE, SERIES, SKY, STYLE, VERMILION, png, shortened

BARS = 72
FEW = 1000
"""Of fewer frames each is drawn whole, though its bucket reaches into the next bar."""
TAIL = 8
"""A largest value beyond so many medians asks for a logarithmic axis, and so does a highest bar of so many frames."""
ROOM = 0.56
"""Share of a histogram's height that its bars fill; labels are above."""
LABEL_ROW = 0.1
WIDTH, LEFT, RIGHT, BELOW = 12.0, 1.45, 2.15, 0.75
"""Of a picture, in inches; to the right of its panels are legends and the labels of the last marks."""
FIRST_GAP, TITLE_LINE, TITLE_LETTERS = 0.5, 0.4, 92
DASHED: Any = (0, (5, 3))
MOST_SERIES = 6
QUANTITIES = {"temperatures_c": ("°C", 1.0), "clocks_mhz": ("MHz", 1.0), "power_mw": ("W", 1e-3)}
"""What is drawn of telemetry: its unit, and what its values are multiplied by for that."""

Account = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One panel of a picture: its height and the gap above it in inches, and what draws it.

    `under` names its horizontal axis; "" leaves that to the next row, which has the same.
    """

    height: float
    gap: float
    draw: Callable[[Axes], None]
    under: str = ""


def ages_picture(account: Account) -> bytes:
    """Draw the ages alone."""
    return _picture(_ages(account))


def timeline_picture(account: Account) -> bytes:
    """Draw the time line alone."""
    return _picture(_timeline(account))


def whole_picture(account: Account) -> bytes:
    """Draw both in one, under a title."""
    return _picture([*_ages(account), *_timeline(account)], _title(account))


def gaps_matter(account: Account) -> bool:
    """Whether frames without an answer make a difference to the ages."""
    return bool(account["response_histogram_ns"] != account["age_histogram_ns"])


def _picture(rows: Sequence[Row], title: Sequence[str] = ()) -> bytes:
    rows = [replace(rows[0], gap=FIRST_GAP), *rows[1:]]
    high = TITLE_LINE * len(title) + sum(row.height + row.gap for row in rows) + BELOW
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, high))
        for number, line in enumerate(title):
            colour = VERMILION if number < len(title) - 1 else INK
            y = 1 - TITLE_LINE * (number + 0.7) / high
            figure.text(0.012, y, line, weight="bold", fontsize="large", color=colour, va="center")
        top = high - TITLE_LINE * len(title)
        for row in rows:
            top -= row.gap + row.height
            across = (LEFT / WIDTH, top / high, (WIDTH - LEFT - RIGHT) / WIDTH, row.height / high)
            axes = figure.add_axes(across)
            row.draw(axes)
            axes.set_xlabel(row.under)
            axes.tick_params(labelbottom=bool(row.under))
        return png(figure, dpi=120)


def _title(account: Account) -> list[str]:
    title = f"{shortened(account['bundle'], 40)}: {account['frames_in']} frames in = {account['predicted']} predicted"
    invalid = [] if account["valid"] else wrap(f"INVALID: {'; '.join(account['invalid_because'])}", TITLE_LETTERS)
    return [*invalid, f"{title} + {account['dropped']} dropped"]


def _ages(account: Account) -> list[Row]:
    """Return the answered frames and, where they differ, every frame below them, on the same axis."""
    found = [("answered frames", account["age_histogram_ns"], account["latency_ms"]["age"])]
    if gaps_matter(account):
        found.append(("every frame, dropped ones too", account["response_histogram_ns"], account["response_ms"]))
    if not account["age_histogram_ns"]:
        return [Row(1.2, 0.5, _say_nothing)]
    edges, stretched = _edges(account)

    def draw(axes: Axes, name: str, histogram: Histogram, summary: Mapping[str, float]) -> None:
        _draw_histogram(axes, histogram, edges, stretched=stretched)
        count = sum(frames for _, frames in histogram)
        axes.set_title(f"{name}: {count:,}", loc="left", fontsize="medium", weight="bold")
        _draw_marks(axes, summary, account["deadline_ms"])

    return [
        Row(2.3, 0.5, partial(draw, name=name, histogram=histogram, summary=summary), last * "age at decision, ms")
        for number, (name, histogram, summary) in enumerate(found, 1)
        for last in [number == len(found)]
    ]


def _edges(account: Account) -> tuple[NDArray[np.float64], bool]:
    """Return the bars' edges in ms, and whether they are evenly spaced by ratio because the tail is long."""
    uppers = [upper / 1e6 for upper, _ in (*account["age_histogram_ns"], *account["response_histogram_ns"])]
    most = max(*uppers, account["deadline_ms"] or 0)
    if most > TAIL * account["latency_ms"]["age"]["p50"]:
        return np.geomspace(0.95 * min(uppers), 1.02 * most, BARS + 1), True
    width = round_step(1.02 * most / BARS)
    return np.arange(math.ceil(1.02 * most / width) + 1) * width, False


def _draw_histogram(axes: Axes, histogram: Histogram, edges: NDArray[np.float64], *, stretched: bool) -> None:
    uppers, frames = np.array(histogram).T
    few = frames.sum() < FEW
    counts = np.histogram(uppers / 1e6, edges, weights=frames)[0] if few else np.diff(frames_below(histogram, edges))
    top = float(counts.max())
    axes.stairs(counts, edges, fill=True, color=BLUE, baseline=0)
    axes.spines["left"].set_bounds(0 if top <= TAIL else 0.5, top)
    if stretched:
        axes.set_xscale("log")
        _plain_log(axes.xaxis)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylabel("frames a bar" if stretched else f"frames per {edges[1]:g} ms", fontsize="small")
    if top > TAIL:
        # A single late frame must be seen beside thousands that were not.
        axes.set_yscale("log")
        axes.set_ylim(0.5, 0.5 * (2 * top) ** (1 / ROOM))
        _plain_log(axes.yaxis)
        ticks = [10.0**power for power in range(int(math.log10(top)) + 1)]
    else:
        axes.set_ylim(0, top / ROOM)
        ticks = [tick for tick in MaxNLocator(3, integer=True).tick_values(0, top) if tick <= top]
    axes.set_yticks(ticks)


def _draw_marks(axes: Axes, summary: Mapping[str, float], deadline: float | None) -> None:
    """Mark the percentiles and the deadline; each label has a row of its own, and the lines left of it end above."""
    named = {"p50": summary["p50"], "p99": summary["p99"], "p99.9": summary["p99_9"], "max": summary["max"]}
    marks: dict[str, tuple[float, list[str]]] = {}
    for name, value in named.items():
        marks.setdefault(f"{value:.2f}", (value, []))[1].append(name)
    lines: list[tuple[float, str, str, Any]] = []
    for said, (value, names) in marks.items():
        lines.append((value, f"{', '.join(names)}  {said} ms", INK, "-"))
    if deadline is not None:
        lines.append((deadline, f"deadline  {deadline:.2f} ms", VERMILION, DASHED))
    for row, (value, said, colour, style) in enumerate(sorted(lines, key=lambda line: line[0])):
        height = 1 - LABEL_ROW * row
        axes.axvline(value, ymax=height, color=colour, lw=1.6, ls=style)
        place = axes.annotate(
            said, (value, height), (6, 0), xycoords=("data", "axes fraction"), textcoords="offset points"
        )
        place.set(va="top", color=colour, fontsize="small", weight="bold")


def _timeline(account: Account) -> list[Row]:
    """Return ages over time, what went wrong under them, and under that what the machine said of itself."""
    if not account["predicted"]:
        return [Row(1.2, 1.0, _say_nothing)]
    timeline = account["timeline"]
    rows = [
        Row(2.4, 1.2, partial(_draw_course, account=account)),
        Row(0.9, 0.15, partial(_draw_events, account=account)),
    ]
    rows += [
        Row(1.3, 0.25, partial(_draw_series, quantity=quantity, curves=curves, times=_telemetry_times(account)))
        for quantity, curves in _telemetry(account).items()
    ]

    def draw(axes: Axes, row: Row) -> None:
        row.draw(axes)
        axes.set_xlim(0, timeline["start_s"][-1] + timeline["width_s"])

    under = [""] * (len(rows) - 1) + ["seconds since the first answer"]
    return [Row(row.height, row.gap, partial(draw, row=row), name) for row, name in zip(rows, under, strict=True)]


def _draw_course(axes: Axes, account: Account) -> None:
    timeline, deadline = account["timeline"], account["deadline_ms"]
    width, start = timeline["width_s"], np.array(timeline["start_s"])
    oldest, mean = np.array(timeline["max_age_ms"]), np.array(timeline["mean_age_ms"])
    axes.bar(start, oldest, width, align="edge", color=SKY, label=f"oldest of each {width:g} s")
    axes.hlines(mean, start, start + width, color=BLUE, lw=2.4, label="mean")
    top = max(oldest.max(), deadline or 0)
    axes.set_ylabel("age, ms", fontsize="small")
    if top > TAIL * np.median(mean):
        axes.set_yscale("log")
        axes.set_ylim(0.7 * mean.min(), 1.6 * top)
        _plain_log(axes.yaxis)
    else:
        axes.set_ylim(0, 1.15 * top)
    handles, said = axes.get_legend_handles_labels()
    if deadline is not None:
        handles.append(axes.axhline(deadline, color=VERMILION, lw=1.6, ls=DASHED))
        said.append(f"deadline {deadline:.2f} ms")
    axes.legend(handles, said, frameon=False, fontsize="small", ncols=3, loc="lower right", bbox_to_anchor=(1, 0.99))
    axes.set_title("the whole run", loc="left", fontsize="medium", weight="bold")


def _draw_events(axes: Axes, account: Account) -> None:
    """Draw a row of signs for each kind of trouble: a sign of its own as well as a colour."""
    timeline = account["timeline"]
    middle = np.array(timeline["start_s"]) + timeline["width_s"] / 2
    rows = [("no answer", middle, np.array(timeline["lost"]), "x", INK)]
    if account["deadline_ms"] is not None:
        rows.append(("late", middle, np.array(timeline["late"]), "^", VERMILION))
    if throttle := (account["telemetry"] or {}).get("series", {}).get("throttle"):
        rises = np.sum([np.diff(np.nan_to_num(np.array(counts, float)), prepend=0) for counts in throttle.values()], 0)
        rises[0] = 0
        rows.append(("throttled", _telemetry_times(account), rises.clip(0), "v", PURPLE))
    for row, (_, times, counts, sign, colour) in enumerate(rows):
        axes.plot(times[counts > 0], np.full((counts > 0).sum(), row), sign, color=colour, ms=8, mew=2, clip_on=False)
    axes.set_yticks(range(len(rows)), [f"{name}: {counts.sum():,.0f}" for name, _, counts, *_ in rows])
    axes.tick_params(axis="y", length=0, labelsize="small")
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", color=MUTED, alpha=0.3, lw=0.8)


def _telemetry(account: Account) -> dict[str, dict[str, list[float | None]]]:
    """Return what telemetry is to be drawn, by quantity and name: of many curves, those that reach highest."""
    if account["telemetry"] is None or account["timeline"]["started_ns"] is None:
        return {}
    found = {}
    for quantity in QUANTITIES:
        curves = account["telemetry"]["series"].get(quantity, {})
        known = {
            name: max(value for value in values if value is not None) for name, values in curves.items() if any(values)
        }
        if known:
            highest = sorted(known, key=known.__getitem__, reverse=True)[:MOST_SERIES]
            found[quantity] = {name: curves[name] for name in highest}
    return found


def _telemetry_times(account: Account) -> NDArray[np.float64]:
    """Return the samples' times on the time line's axis, in seconds."""
    telemetry = account["telemetry"]
    offset = (telemetry["started_ns"] - account["timeline"]["started_ns"]) / 1e9
    return np.asarray(np.array(telemetry["times_s"]) + offset)


def _draw_series(
    axes: Axes, quantity: str, curves: Mapping[str, list[float | None]], times: NDArray[np.float64]
) -> None:
    unit, factor = QUANTITIES[quantity]
    for number, (name, values) in enumerate(curves.items()):
        colour, style = SERIES[number % len(SERIES)]
        every = max(1, len(times) // 12)
        said = shortened(name, 16)
        axes.plot(
            times, np.array(values, float) * factor, style, color=colour, lw=1.8, ms=5, markevery=every, label=said
        )
    axes.set_ylabel(unit, fontsize="small")
    axes.margins(y=0.2)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.legend(frameon=False, fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5), labelspacing=0.3)


def _plain_log(axis: Any) -> None:
    """Label a logarithmic axis with plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _say_nothing(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines["left"].set_visible(False)
    axes.text(0.5, 0.5, "no frame was predicted", transform=axes.transAxes, ha="center", color=MUTED)
