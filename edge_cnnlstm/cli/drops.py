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


def drops_table(networks: Mapping[str, Sequence[Mapping[str, Any]]], main: Sequence[str]) -> Table:
    """Return the rows of `training.drops`, by network, as one table, with these scores in it."""
    several = len(networks) > 1
    columns = [
        *(["network"] if several else []),
        "policy",
        "memory",
        "load",
        "not taken",
        *map(escape, map(titled, main)),
    ]
    table = Table(*columns, "age", "oldest", "settled age")
    found = [(name, row) for name, rows in networks.items() for row in rows]
    for (name, row), after in zip(found, [*found[1:], None], strict=True):
        group = (name, row["policy"], row["memory"])
        table.add_row(
            *([escape(name)] if several else []),
            row["policy"],
            row["memory"],
            f"{100 * row['load']:.4g}%",
            f"{row['not_taken']:.1%}",
            *(shown(base, row["scores"].get(base)) for base in main),
            f"{row['age']:.1f}",
            f"{row['oldest']}",
            f"{row['settled_age']:.1f}",
            end_section=after is None or group != (after[0], after[1]["policy"], after[1]["memory"]),
        )
    return table
