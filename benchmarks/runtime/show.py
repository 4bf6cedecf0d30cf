"""The runtime's figures as a table."""

from __future__ import annotations

from typing import Any

from benchmarks.show import Section, figures_table

NOTES = (
    "Every measurement has a process of its own, and they take turns.",
    "Peers are run as their documentation shows: default settings, memory carried by hand, asleep between frames.",
)


def section(report: dict[str, Any]) -> Section:
    """Return what the suite shows of its report."""
    notes = (f"Graph {report['graph']!r} in {report['backend']}.", *NOTES)
    return Section("The runtime", [figures_table(report)], notes=notes)
