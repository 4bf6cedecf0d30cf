"""Agreement with FP32 as a table."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from benchmarks.show import Picture, Section, figures_table

NOTES = (
    "One stream without a reset; each graph carries a memory of its own.",
    "The last 150 frames are the first 150 again: drift at the end and around frame 100 is over the same pictures.",
    "Ranges are those of tenths of the stream, and for drift of all windows of 100 frames.",
)


def section(report: dict[str, Any]) -> Section:
    """Return what the suite shows of its report."""
    tables = [figures_table(report, "Against FP32", decimals=4, columns=("value", "range"))]
    return Section("Agreement with FP32", tables, pictures(report), NOTES, report["skipped"])


def pictures(report: dict[str, Any]) -> list[Picture]:
    """Return drift against frames; nothing for a network without memory, or where matplotlib is missing."""
    if not report["size"] or find_spec("matplotlib") is None:
        return []
    from benchmarks.agreement.plot import drift

    return [Picture("Drift", drift(report), "How far each graph's memory is from FP32's, frame by frame.")]
