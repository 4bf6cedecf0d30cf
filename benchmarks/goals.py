"""A figure, its range, and the goal that it is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured: `value` from so many `samples`, within a range of `low` to `high` where there is one.

    `goal` is the least that `value` should be, or the most with `at_most`; None for a figure that is only reported.
    """

    name: str
    value: float
    samples: int
    low: float | None = None
    high: float | None = None
    goal: float | None = None
    at_most: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without a goal."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.at_most else self.value >= self.goal

    def document(self) -> dict[str, Any]:
        """Return the figure as JSON data."""
        return asdict(self) | {"met": self.met}


def table(figures: Sequence[Figure], title: str, headings: tuple[str, str, str], decimals: int = 2) -> Table:
    """Return figures as a table for a terminal; `headings` name the first column, the value and its range."""
    name, *numbers = headings
    shown = Table(name, title=title, caption_justify="left")
    for heading in (*numbers, "samples", "goal"):
        shown.add_column(heading, justify="right")
    for figure in figures:
        spread = "" if figure.low is None else f"{figure.low:.{decimals}f}–{figure.high:.{decimals}f}"
        shown.add_row(figure.name, f"{figure.value:.{decimals}f}", spread, f"{figure.samples:,}", _goal(figure))
    return shown


def _goal(figure: Figure) -> str:
    if figure.goal is None:
        return ""
    colour, word = ("green", "met") if figure.met else ("red", "missed")
    return f"{'≤' if figure.at_most else '≥'} {figure.goal:g} [{colour}]{word}[/]"
