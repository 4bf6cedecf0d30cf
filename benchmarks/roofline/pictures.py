"""The roofline and the floors, drawn from a report."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from edge_cnnlstm.report.drawing import BLUE, INK, MUTED, SERIES, SHADE, STYLE, VERMILION, png

DPI = 120
NAMED = 3
"""Layers that are named in the roofline: those that lose most against their floor."""
SHORTEST_US = 2.0
"""Kernels below it are left out of the roofline: the profilers' clocks tick in microseconds."""
Report = dict[str, Any]


class Mark(NamedTuple):
    """A layer: multiply-accumulates for each byte, GMAC/s, and microseconds beyond its floor."""

    name: str
    intensity: float
    speed: float
    lost: float


def roofline(report: Report) -> bytes:
    """Draw each layer's speed over its intensity, under the roofs of this machine; both axes are logarithmic."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 6.4), layout="constrained")
        axes = figure.add_subplot()
        axes.set(xscale="log", yscale="log", xlabel="multiply-accumulates for each byte", ylabel="GMAC/s")
        for number, ((colour, style), case) in enumerate(zip(SERIES, report["cases"], strict=False)):
            marks = _marks(report, case)
            across, up = [mark.intensity for mark in marks], [mark.speed for mark in marks]
            axes.plot(across, up, style[0], color=colour, markersize=7, alpha=0.8, label=case["name"])
            for mark in sorted(marks, key=lambda each: -each.lost)[: 0 if number else NAMED]:
                named = axes.annotate(mark.name, (mark.intensity, mark.speed), (9, 0), textcoords="offset points")
                named.set(va="center", fontsize="small", path_effects=[withStroke(linewidth=3, foreground="white")])
        _roofs(axes, report["peaks"], _graph(report, report["cases"][0])["working_set_bytes"])
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
        axes.grid(visible=True, color=SHADE, lw=0.6)
        axes.set_axisbelow(True)
        axes.legend(frameon=False, loc="lower right", fontsize="small")
        return png(figure, dpi=DPI)


def _marks(report: Report, case: Report) -> list[Mark]:
    graph = _graph(report, case)
    took = case["layers_us"]
    return [
        Mark(
            layer["name"],
            layer["needed_macs"] / (layer["weight_bytes"] + layer["activation_bytes"]),
            layer["needed_macs"] / took[layer["name"]] / 1e3,
            took[layer["name"]] - layer["floor_us"],
        )
        for layer in graph["layers"]
        if took[layer["name"]] >= SHORTEST_US
    ]


def _graph(report: Report, case: Report) -> Report:
    return next(graph for graph in report["graphs"] if graph["name"] == case["graph"])


def _roofs(axes: Axes, peaks: Report, working_set: float) -> None:
    rates = sorted((rate / 1e9, name) for name, rate in peaks["macs_per_second"].items())
    highest = rates[-1][0]
    low, high = min(axes.get_xlim()[0], 0.05), max(axes.get_xlim()[1], 500)
    axes.set_xlim(low, high)
    axes.set_ylim(min(axes.get_ylim()[0], low * peaks["read"][-1][1] / 1e9), 3 * highest)
    for place, most in (("first cache", 0), ("working set", working_set), ("memory", math.inf)):
        rate = next((rate for size, rate in reversed(peaks["read"]) if size <= most), peaks["read"][0][1]) / 1e9
        reach = np.array([low, highest / rate, high])
        axes.plot(reach, np.minimum(reach * rate, highest), color=MUTED, lw=1.2, zorder=0)
        start = 1.2 * low
        along = axes.text(start, 1.1 * start * rate, f"{place}, {rate:,.0f} GB/s", color=MUTED, fontsize="small")
        along.set(rotation=math.degrees(math.atan(rate)), rotation_mode="anchor", transform_rotates_text=True)
    for number, (rate, name) in enumerate(rates):
        axes.axhline(rate, color=INK, lw=1.2, ls="-" if number else "--", zorder=0)
        at, side = (high, "right") if number else (math.sqrt(low * high), "center")
        label = axes.annotate(f"{name}, {rate:.0f} GMAC/s", (at, rate), (0, 4), textcoords="offset points")
        label.set(ha=side, fontsize="small")


def floors(report: Report, most: int) -> bytes:
    """Draw floor and taken of the layers that take most, for the first case."""
    case = report["cases"][0]
    graph = _graph(report, case)
    took = case["layers_us"]
    longest = sorted((layer["name"] for layer in graph["layers"]), key=lambda name: -took[name])[:most]
    rows = [layer for layer in graph["layers"] if layer["name"] in longest]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 1.4 + 0.32 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        places = np.arange(len(rows))
        axes.barh(places, [took[row["name"]] for row in rows], 0.7, color=BLUE, label="taken")
        axes.barh(places, [row["floor_us"] for row in rows], 0.35, color=VERMILION, label="floor")
        for place, row in zip(places, rows, strict=True):
            times = took[row["name"]] / row["floor_us"]
            axes.annotate(
                f"{times:.1f}×",
                (took[row["name"]], place),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize="small",
            )
        axes.set_yticks(places, [row["name"] for row in rows], fontsize="small")
        axes.margins(y=0.02)
        axes.invert_yaxis()
        axes.set(xlabel="µs")
        axes.legend(frameon=False, loc="lower right")
        return png(figure, dpi=DPI)
