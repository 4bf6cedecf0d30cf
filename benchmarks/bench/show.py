"""The short set's figures as one table."""

from __future__ import annotations

from typing import Any

from benchmarks.show import Section, figures_table


def section(report: dict[str, Any]) -> Section:
    """Return what the short set adds up to: every figure with a goal, and what is over its budget."""
    held = {"ratios": [row for row in report["ratios"] if row["goal"] is not None]}
    met = sum(bool(row["met"]) for row in held["ratios"])
    notes = [f"{met} of {len(held['ratios'])} goals are met."]
    notes += [f"OVER BUDGET: {words}" for words in report["over_budget"]] or ["Every figure is within its budget."]
    return Section(
        "The short set", [figures_table(held, "Figures with a goal")], notes=notes, missing=report["missing"]
    )
