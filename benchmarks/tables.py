"""Tables in the documents, made from committed results: `python -m benchmarks tables` writes them anew.

A table stands between two comments, of which the first says what it is made of:

    <!-- table: headline benchmarks/results/a.json benchmarks/results/b.json -->
    <!-- end -->
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from benchmarks.processes import ROOT
from benchmarks.show import goal_words

DOCUMENTS = ("README.md", "benchmarks/README.md")
BLOCK = re.compile(r"(<!-- table: (\w+) ([^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)
HEADLINES = (
    "ours ÷ best peer's bare call, p50*",
    "ours p99 ÷ p50, *",
    "window of 16 ÷ ours, p50*",
    "ours paced ÷ best peer as commonly used, p50",
    "step / compute floor",
    "* VALID, 1 = yes",
    "top-1 agreement of *",
    "paced ÷ closed loop, p50",
    "torch ÷ ours, *",
)
"""The figures by which the README says how fast this is, by their names without what they were measured with."""
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
    """Return the headlines among the figures that have a goal, a column for each report's bundle."""
    held = [{_kind(row["name"]): row for row in report["ratios"] if row["goal"] is not None} for report in reports]
    names = dict.fromkeys(name for kinds in held for name in kinds if any(fnmatchcase(name, one) for one in HEADLINES))
    bundles = [report["bundle"]["name"] for report in reports]
    rows = [f"| figure | {' | '.join(bundles)} | goal |", f"|---|{'---|' * len(bundles)}---|"]
    for name in names:
        found = [kinds.get(name) for kinds in held]
        goal = goal_words(next(row for row in found if row)).rpartition(" ")[0]
        cells = [f"{_value(row)} {_said(goal_words(row).rpartition(' ')[2])}" if row else "–" for row in found]
        rows.append(f"| {name} | {' | '.join(cells)} | {goal} |")
    return rows


def _kind(name: str) -> str:
    """Return a figure's name without what it was measured with: that differs from bundle to bundle."""
    return re.sub(r"^[^:]*: (?=step / |top-1 )| \((?:[^()]|\([^()]*\))*\)", "", name)


def _value(row: dict[str, Any]) -> str:
    spread = "" if row["low"] is None else f" ({row['low']:.2f}–{row['high']:.2f})"
    return f"{row['value']:.2f}{spread}"


def _said(verdict: str) -> str:
    return "**missed**" if verdict == "missed" else verdict


KINDS: dict[str, Callable[[Sequence[Report]], list[str]]] = {"figures": figures, "headline": headline}
