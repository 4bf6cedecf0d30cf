"""What `evaluate --drop` asks and prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.report.scores import shown, titled


def parsed_loads(text: str) -> list[float]:
    """Return the shares, 0..1 and ascending, that a list of percentages such as "0,10,20" names.

    Raises ConfigError for what is no number from 0 to below 100.
    """
    loads = set()
    for part in text.split(","):
        try:
            percent = float(part)
        except ValueError:
            percent = -1.0
        if not 0 <= percent < 100:
            raise ConfigError(
                f"--drop {text!r}: {part.strip()!r} is no share of frames",
                expected="percentages from 0 to below 100, with commas between them",
                fix="--drop 0,10,20,30,50",
            )
        loads.add(percent / 100)
    return sorted(loads)


def drops_table(name: str, rows: Sequence[Mapping[str, Any]], main: Sequence[str]) -> Table:
    """Return what `training.drops` found of one network as a table, with these scores in it."""
    table = Table(title=f"{escape(name)} under load")
    for column in ("policy", "memory", "load"):
        table.add_column(column, no_wrap=True)
    for column in (*map(titled, main), "age", "oldest", "settled"):
        table.add_column(escape(column))
    for row, after in zip(rows, [*rows[1:], None], strict=True):
        table.add_row(
            row["policy"],
            row["memory"],
            f"{100 * row['load']:.4g}%",
            *(shown(base, row["scores"].get(base)) for base in main),
            f"{row['age']:.1f}",
            f"{row['oldest']}",
            f"{row['settled_age']:.1f}",
            end_section=after is None or (row["policy"], row["memory"]) != (after["policy"], after["memory"]),
        )
    return table
