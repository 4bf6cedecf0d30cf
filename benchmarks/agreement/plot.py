"""Drift against frames, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.agreement import course
from benchmarks.agreement.course import Course
from edge_cnnlstm.errors import ConfigError

COLOURS = ("#c0392b", "#2471a3", "#1e8449", "#b7950b")


def draw(courses: Mapping[str, Course], reference: str, path: Path) -> None:
    """Draw each graph's drift into a picture file, a panel for each state.

    The dotted line is how far two moments of the reference are apart that have half a stream between them: memories
    with nothing in common any more would lie there. The grey line is the reference's own size. Raises ConfigError when
    the file cannot be written, and for a network without memory.
    """
    base = courses[reference]
    if not base.states:
        raise ConfigError(
            "a network without memory", expected="a memory whose drift can be drawn", fix="leave --picture out"
        )
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    far, sizes = course.unrelated(base), course.sizes(base)
    figure, panels = plt.subplots(1, len(base.states), figsize=(5.2 * len(base.states), 4.4), squeeze=False)
    for panel, state in zip(panels[0], base.states, strict=True):
        for index, (name, found) in enumerate((n, c) for n, c in courses.items() if n != reference):
            drift, colour = course.drifts(found, base)[state], COLOURS[index % len(COLOURS)]
            panel.plot(*zip(*course.curve(drift), strict=True), color=colour, label=name)
        panel.plot(*zip(*course.curve(sizes[state]), strict=True), color="#aaaaaa", label="size of FP32's own")
        panel.axhline(far[state], color="black", linewidth=1, linestyle=":", label="two unrelated moments of FP32")
        panel.set(xscale="log", yscale="log", title=f"memory {state}", xlabel="frame")
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("mean |difference from FP32|")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="lower center", ncols=4, frameon=False)
    figure.tight_layout(rect=(0, 0.11, 1, 1))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130)
    except (OSError, ValueError) as error:  # ValueError: a suffix that names no picture format
        raise ConfigError(
            f"cannot write {path}: {error}", expected="a writable path ending in .png", fix="choose another path"
        ) from error
    finally:
        plt.close(figure)
