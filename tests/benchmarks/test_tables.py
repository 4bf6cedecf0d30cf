"""Holds that a document's tables are what was measured, and nothing else of it changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tables
from benchmarks.processes import ROOT


def row(name: str, value: float, goal: float | None = None, met: bool | None = None) -> dict[str, Any]:
    return {"name": name, "value": value, "low": None, "high": None, "goal": goal, "at_most": False, "met": met}


@pytest.mark.parametrize("name", tables.DOCUMENTS)
def test_the_committed_tables_are_what_was_measured(name: str) -> None:
    text = (ROOT / name).read_text()

    assert tables.filled(text) == text, "python -m benchmarks tables"


def test_a_table_is_filled_from_the_results_that_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    small = [
        row("ours p99 ÷ p50, over (a (b)), 1 thread", 2.5, 2, met=True),
        row("plain", 1),
        row("g: step / compute floor", 3, 4, met=False),
        row("paced ÷ closed loop, p50", 9),
    ]
    for name, ratios in (
        ("small", small),
        ("base", [row("ours p99 ÷ p50, over (c), 1 thread", 1.5, 2, met=False), row("unsung", 1, 2, met=False)]),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps({"bundle": {"name": name}, "ratios": ratios}))

    text = tables.filled("before\n<!-- table: headline small.json base.json -->\nold\n<!-- end -->\nafter\n")

    assert text == (
        "before\n<!-- table: headline small.json base.json -->\n"
        "| figure | small | base | goal |\n|---|---|---|---|\n"
        "| ours p99 ÷ p50, over, 1 thread | 2.50 met | 1.50 **missed** | ≥ 2 |\n"
        "| step / compute floor | 3.00 **missed** | – | ≥ 4 |\n"
        "<!-- end -->\nafter\n"
    )
    one = tables.filled("<!-- table: figures small.json -->\n<!-- end -->")
    assert "| plain | 1.00 | – |  |" in one
    assert "| g: step / compute floor | 3.00 | ≥ 4 | **missed** |" in one
    assert tables.filled(one) == one
