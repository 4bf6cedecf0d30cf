"""The runtime's figures as a table, with what a stall and a soak look like."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from benchmarks.show import Picture, Section, figures_table

NOTES = (
    "Every measurement has a process of its own, and they take turns.",
    "Cold starts are second starts: compiled, and in the page cache.",
    "The floor of a cold start is numpy and ONNX Runtime with the same graph, and nothing else.",
    "A slope's interval takes samples to stray independently; resident memory moves in steps, and is less certain.",
)


def section(report: dict[str, Any]) -> Section:
    """Return what the suite shows of its report."""
    notes = (f"Graph {report['graph']!r} in {report['backend']}.", *NOTES)
    return Section("The runtime", [figures_table(report)], pictures(report["rounds"]), notes)


def pictures(rounds: dict[str, list[dict[str, Any]]]) -> list[Picture]:
    """Return the pictures of what was measured; none where matplotlib is missing."""
    if find_spec("matplotlib") is None:
        return []
    from benchmarks.runtime.plot import memory, recovery

    found = []
    if any(name.startswith("recovery") for name in rounds):
        about = "The age of every answer, in all rounds; below the dashed line it is on time."
        found.append(Picture("A stall of half a second", recovery(rounds), about))
    if rounds.get("soak"):
        found.append(Picture("Memory in the soak", memory(rounds["soak"][0]), "Resident memory since it had settled."))
    return found
