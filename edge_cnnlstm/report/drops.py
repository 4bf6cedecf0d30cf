"""The picture of networks that get more frames than they can take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from edge_cnnlstm.report.drawing import MUTED, SERIES, STYLE, png, shortened
from edge_cnnlstm.report.scores import SHARES, titled

DPI = 160
DASHED = (0, (3, 2))

Networks = Mapping[str, Sequence[Mapping[str, Any]]]
"""By network, rows as `training.drops.UnderLoad` gives them."""


def under_load(networks: Networks, scores: Sequence[str]) -> bytes:
    """Draw each score, in a row of its own, over the load, with each policy in a column of its own."""
    policies = list(dict.fromkeys(row["policy"] for rows in networks.values() for row in rows))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.5 * len(policies) + 0.8, 2.9 * len(scores) + 1.2), layout="constrained")
        panels = figure.subplots(len(scores), len(policies), sharex=True, sharey="row", squeeze=False)
        for score, panel_row in zip(scores, panels, strict=True):
            for policy, axes in zip(policies, panel_row, strict=True):
                _curves(axes, networks, policy, score)
            panel_row[0].set_ylim(bottom=0)
            panel_row[0].set_ylabel(titled(score).replace(": ", "\n"))
        for policy, axes in zip(policies, panels[0], strict=True):
            axes.set_title(policy)
        panels[-1][len(policies) // 2].set_xlabel("frames that the network has no time for")
        figure.align_ylabels()
        columns = min(3, len(networks))
        figure.legend(handles=_legend(networks), loc="outside lower center", ncols=columns, frameon=False)
        return png(figure, dpi=DPI)


def _curves(axes: Axes, networks: Networks, policy: str, score: str) -> None:
    """Draw one score under one policy: a colour for each network, dashes for the second of its memories."""
    for rows, (colour, marker) in zip(networks.values(), _styles(networks), strict=True):
        memories = list(dict.fromkeys(row["memory"] for row in rows))
        for memory, style in zip(memories, ("-", DASHED), strict=False):
            found = [row for row in rows if (row["policy"], row["memory"]) == (policy, memory)]
            values = [row["scores"].get(score) for row in found]
            if any(value is not None for value in values):
                loads = [row["load"] for row in found]
                axes.plot(loads, values, marker, color=colour, ls=style, lw=2.2, ms=5, clip_on=False)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    if score.split(".")[1] in SHARES:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y", color=MUTED, alpha=0.2)


def _legend(networks: Networks) -> list[Line2D]:
    """Return a line for each network and memory, network by network."""
    return [
        Line2D([], [], color=colour, marker=marker, ls=style, lw=2.2, ms=5, label=_said(name, memory))
        for (name, rows), (colour, marker) in zip(networks.items(), _styles(networks), strict=True)
        for memory, style in zip(dict.fromkeys(row["memory"] for row in rows), ("-", DASHED), strict=False)
    ]


def _styles(networks: Networks) -> list[tuple[str, str]]:
    return [(colour, style[0]) for colour, style in (SERIES[number % len(SERIES)] for number in range(len(networks)))]


def _said(name: str, memory: str) -> str:
    return shortened(name, 24) if memory == "none" else f"{shortened(name, 24)}, {memory}"
