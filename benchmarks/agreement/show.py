"""Agreement with FP32 as a table."""

from __future__ import annotations

from typing import Any

from benchmarks.show import Section, figures_table, missing_table

NOTES = (
    "One stream without a reset; each graph carries a memory of its own.",
    "The last 150 frames are the first 150 again, so drift at the end is compared with drift around frame 100 over the "
    "same pictures.",
    "Ranges are those of tenths of the stream, and for drift of all windows of 100 frames.",
)


def section(report: dict[str, Any]) -> Section:
    """Return what the suite shows of its report."""
    tables = [figures_table(report, "Against FP32", decimals=4, columns=("value", "range"))]
    if report["skipped"]:
        tables.append(missing_table(report["skipped"]))
    return Section("Agreement with FP32", tables, notes=NOTES)
