"""Tables in the documents, made from committed results: `python -m benchmarks tables` writes them anew.

A table stands between two comments, of which the first says what it is made of:

    <!-- table: headline benchmarks/results/a.json benchmarks/results/b.json -->
    <!-- end -->
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.processes import ROOT
from benchmarks.show import goal_words

DOCUMENTS = ("README.md", "benchmarks/README.md")
BLOCK = re.compile(r"(<!-- table: (\w+) ([^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)
Report = dict[str, Any]


def tables() -> None:
    """Write the tables of the README and of benchmarks/README.md anew, from the results that each names."""
    for name in DOCUMENTS:
        document = ROOT / name
        document.write_text(filled(document.read_text()))


def filled(text: str) -> str:
    """Return a document with each of its tables made anew; raises OSError for a result that is not there."""

    def table(found: re.Match[str]) -> str:
        reports = [json.loads((ROOT / path).read_text()) for path in found[3].split()]
        return found[1] + "\n".join(KINDS[found[2]](reports)) + "\n" + found[4]

    return BLOCK.sub(table, text)


def figures(reports: Sequence[Report]) -> list[str]:
    """Return every figure of one or more reports, with its interval and goal, a row each."""
    rows = ["| figure | median round (95 % interval) | goal | |", "|---|---|---|---|"]
    for row in (row for report in reports for row in report["ratios"]):
        goal, _, verdict = goal_words(row).rpartition(" ")
        rows.append(f"| {row['name']} | {_value(row)} | {goal or '–'} | {_said(verdict)} |")
    return rows


def headline(reports: Sequence[Report]) -> list[str]:
    """Return the figures that have a goal, a column for each report's bundle."""
    names = dict.fromkeys(
        _kind(row["name"]) for report in reports for row in report["ratios"] if row["goal"] is not None
    )
    bundles = [report["bundle"]["name"] for report in reports]
    rows = [f"| figure | {' | '.join(bundles)} | goal |", f"|---|{'---|' * len(bundles)}---|"]
    for name in names:
        found = [[row for row in report["ratios"] if _kind(row["name"]) == name] for report in reports]
        goal = goal_words(next(rows[0] for rows in found if rows)).rpartition(" ")[0]
        cells = " | ".join(
            f"{_value(rows[0])} {_said(goal_words(rows[0]).rpartition(' ')[2])}" if rows else "–" for rows in found
        )
        rows.append(f"| {name} | {cells} | {goal} |")
    return rows


def _kind(name: str) -> str:
    """Return a figure's name without what it was measured with: that differs from bundle to bundle."""
    return re.sub(r" \(.*?\)", "", name)


def _value(row: dict[str, Any]) -> str:
    spread = "" if row["low"] is None else f" ({row['low']:.2f}–{row['high']:.2f})"
    return f"{row['value']:.2f}{spread}"


def _said(verdict: str) -> str:
    return "**missed**" if verdict == "missed" else verdict


KINDS: dict[str, Callable[[Sequence[Report]], list[str]]] = {"figures": figures, "headline": headline}
