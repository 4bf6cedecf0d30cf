"""Holds what is over budget, and that noise is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.budgets import Budget, budget_for, overruns
from edge_cnnlstm.errors import ConfigError


def row(name: str, value: float, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"name": name, "value": value, "low": low, "high": high}


def test_a_budget_adds_up_from_any_to_this_device_and_this_bundle(tmp_path: Path) -> None:
    file = tmp_path / "budgets.toml"
    file.write_text(
        '[any.any]\n"a *" = { at_most = 1 }\n"b *" = { at_most = 1 }\n'
        '[any.small]\n"b *" = { at_most = 2 }\n'
        '[board.any]\n"c" = { at_least = 3 }\n'
        '[board.small]\n"c" = { at_least = 4 }\n'
        '[board.base]\n"d" = { at_least = 5 }\n'
    )

    assert budget_for("board", "small", file) == {
        "a *": {"at_most": 1},
        "b *": {"at_most": 2},
        "c": {"at_least": 4},
    }
    assert budget_for("other", "base", file) == {"a *": {"at_most": 1}, "b *": {"at_most": 1}}


def test_only_an_interval_that_lies_beyond_its_limit_as_a_whole_is_over() -> None:
    budget: Budget = {"ours ÷ *": {"at_most": 1.1}, "window ÷ *": {"at_least": 13}}

    found = overruns(
        [
            row("ours ÷ a", 1.2, 1.0, 1.4),
            row("ours ÷ b", 1.2, 1.15, 1.4),
            row("ours ÷ c", 1.2),
            row("window ÷ d", 12, 11, 14),
            row("window ÷ e", 12, 11, 12.5),
            row("unbudgeted", 99),
        ],
        budget,
    )

    assert [overrun.words for overrun in found] == [
        "ours ÷ b is 1.2, allowed at most 1.1",
        "ours ÷ c is 1.2, allowed at most 1.1",
        "window ÷ e is 12, allowed at least 13",
    ]


@pytest.mark.parametrize(
    "text", ["a = 1", "[a.b]\nc = { most = 1 }", "[a.b]\nc = {}", '[a.b]\nc = { at_most = "1" }', "["]
)
def test_a_file_that_is_no_budget_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "budgets.toml"
    file.write_text(text)

    with pytest.raises(ConfigError, match=r"budgets\.toml"):
        budget_for("a", "b", file)


def test_our_own_budgets_can_be_read() -> None:
    assert budget_for("any", "any")
