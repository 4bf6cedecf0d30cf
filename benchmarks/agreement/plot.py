"""Drift against frames, as a picture."""

from __future__ import annotations

from io import BytesIO
from typing import Any

COLOURS = ("#c0392b", "#2471a3", "#1e8449", "#b7950b")


def drift(report: dict[str, Any]) -> bytes:
    """Return a PNG of each graph's drift, a panel for each state of the memory.

    The dotted line is how far two moments of the reference are apart that have half a stream between them: memories
    with nothing in common any more would lie there. The grey line is the reference's own size.
    """
    from matplotlib.figure import Figure

    states = list(report["size"])
    figure = Figure(figsize=(5.2 * len(states), 4.4))
    panels = figure.subplots(1, len(states), squeeze=False)[0]
    for panel, state in zip(panels, states, strict=True):
        for index, (name, drifts) in enumerate(report["drift"].items()):
            panel.plot(*zip(*drifts[state]["curve"], strict=True), color=COLOURS[index % len(COLOURS)], label=name)
        panel.plot(*zip(*report["size"][state], strict=True), color="#aaaaaa", label="size of FP32's own")
        far = report["unrelated"][state]
        panel.axhline(far, color="black", linewidth=1, linestyle=":", label="two unrelated moments of FP32")
        panel.set(xscale="log", yscale="log", title=f"memory {state}", xlabel="frame")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("mean |difference from FP32|")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="lower center", ncols=4, frameon=False)
    figure.tight_layout(rect=(0, 0.11, 1, 1))
    drawn = BytesIO()
    figure.savefig(drawn, dpi=130, format="png")
    return drawn.getvalue()
