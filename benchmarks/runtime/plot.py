"""The runtime's pictures: answers around a stall, and memory over a soak."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.runtime.recovery import POLICIES, RATE, STALL_S, STALLS
from edge_cnnlstm.report.drawing import BLUE, MUTED, SERIES, SHADE, STYLE, png

DPI = 150
BEFORE_MS, AFTER_MS = 25.0, 125.0


def recovery(rounds: dict[str, list[dict[str, Any]]]) -> bytes:
    """Draw each answer's age against the time since the stall ended: one panel for what stalled, a colour a policy."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 5.6), layout="constrained")
        panels = figure.subplots(len(STALLS), 1, sharex=True, sharey=True)
        for axes, stalls in zip(panels, STALLS, strict=True):
            axes.axvspan(-1000 * STALL_S, 0, color=SHADE, lw=0)
            axes.axhline(1000 / RATE, color=MUTED, lw=1.2, ls=(0, (4, 3)))
            for policy, (colour, style) in zip(POLICIES, SERIES, strict=False):
                for answered in rounds.get(f"recovery {stalls} {policy}", []):
                    since, ages = zip(*answered["answers"], strict=True)
                    axes.plot(since, ages, style[0], color=colour, ms=5, alpha=0.6, mew=0, label=policy)
            axes.set(yscale="log", xlim=(-BEFORE_MS, AFTER_MS), ylabel="age, ms")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.set_title(f"the {stalls} stalls", loc="left", fontsize="medium")
        known = dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))
        panels[0].legend(known.values(), known.keys(), frameon=False, loc="upper right")
        panels[-1].set_xlabel("ms since the stall ended")
        return png(figure, dpi=DPI)


def memory(soaked: dict[str, Any]) -> bytes:
    """Draw how far resident memory is from where it began, in kB."""
    seconds, held = soaked["resident"]["seconds"], soaked["resident"]["bytes"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 3.4), layout="constrained")
        axes = figure.add_subplot()
        axes.step(
            [at / 60 for at in seconds], [(each - held[0]) / 1e3 for each in held], where="post", color=BLUE, lw=2
        )
        axes.set(xlabel="minutes", ylabel="kB more than at first", xlim=(0, seconds[-1] / 60))
        return png(figure, dpi=DPI)
