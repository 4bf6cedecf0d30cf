"""The roofline and the floors, drawn from a report."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edge_cnnlstm.report.drawing import BLUE, INK, MUTED, SERIES, SHADE, STYLE, VERMILION, png

DPI = 120
NAMED = 4
"""Layers that are named in the roofline: those that take most."""
SHORTEST_US = 2.0
"""Kernels below it are left out of the roofline: the profilers' clocks tick in microseconds."""
Report = dict[str, Any]


def roofline(report: Report) -> bytes:
    """Draw each layer's speed over its intensity, under the roofs of this machine; both axes are logarithmic."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 6), layout="constrained")
        axes = figure.add_subplot()
        for (colour, style), case in zip(SERIES, report["cases"], strict=False):
            layers = _marks(report, case)
            x, y = [each[1] for each in layers], [each[2] for each in layers]
            axes.plot(x, y, style[0], color=colour, markersize=7, alpha=0.8, label=case["name"])
            if case is report["cases"][0]:
                for name, across, up, _ in sorted(layers, key=lambda each: -each[3])[:NAMED]:
                    axes.annotate(
                        name, (across, up), (0, -14), textcoords="offset points", ha="center", fontsize="x-small"
                    )
        axes.set(xscale="log", yscale="log", xlabel="multiply-accumulates for each byte", ylabel="GMAC/s")
        _roofs(axes, report)
        axes.legend(frameon=False, loc="lower right", fontsize="small")
        return png(figure, dpi=DPI)


def _marks(report: Report, case: Report) -> list[tuple[str, float, float, float]]:
    """Return each layer's name, intensity, GMAC/s and microseconds."""
    graph = next(each for each in report["graphs"] if each["name"] == case["graph"])
    return [
        (
            layer["name"],
            layer["macs"] / (layer["weight_bytes"] + layer["activation_bytes"]),
            layer["macs"] / case["layers_us"][layer["name"]] / 1e3,
            case["layers_us"][layer["name"]],
        )
        for layer in graph["layers"]
        if case["layers_us"][layer["name"]] >= SHORTEST_US
    ]


def _roofs(axes: Axes, report: Report) -> None:
    peaks = report["peaks"]
    rates = {name: rate / 1e9 for name, rate in peaks["macs_per_second"].items()}
    low, high = axes.get_xlim()
    low, high = min(low, 0.3), max(high, 300)
    highest = max(rates.values())
    working = min(graph["working_set_bytes"] for graph in report["graphs"])
    read = peaks["read"]
    middle = next((each for each in reversed(read) if each[0] <= working), read[0])
    reach = np.geomspace(low, high, 200)
    for place, (_, rate) in (("first cache", read[0]), ("working set", middle), ("memory", read[-1])):
        roof = np.minimum(reach * rate / 1e9, highest)
        axes.plot(reach, roof, color=MUTED, lw=1.2, zorder=0)
        at = 1.15 * low
        axes.annotate(
            f"{place}, {rate / 1e9:.0f} GB/s",
            (at, at * rate / 1e9),
            (4, 6),
            textcoords="offset points",
            color=MUTED,
            fontsize="small",
        )
    for number, (name, rate) in enumerate(sorted(rates.items(), key=lambda each: each[1])):
        axes.axhline(rate, color=INK, lw=1.2, ls="--" if number == 0 else "-", zorder=0)
        axes.annotate(
            f"{name}, {rate:.0f} GMAC/s",
            (high, rate),
            (0, 4 if number else -14),
            textcoords="offset points",
            ha="right",
            fontsize="small",
        )
    axes.set_xlim(low, high)
    axes.set_ylim(top=3 * highest)
    axes.grid(visible=True, color=SHADE, lw=0.6)
    axes.set_axisbelow(True)


def floors(report: Report, most: int) -> bytes:
    """Draw floor and taken of the layers that take most, for the first case."""
    case = report["cases"][0]
    graph = next(each for each in report["graphs"] if each["name"] == case["graph"])
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
        axes.invert_yaxis()
        axes.set(xlabel="µs")
        axes.legend(frameon=False, loc="lower right")
        return png(figure, dpi=DPI)
