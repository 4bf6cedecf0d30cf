"""Results as tables and pictures, made from a report alone: once for a terminal, and once for a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import rich.table
from rich.markup import escape

from edge_cnnlstm.cli import console

INTERVALS = (
    "Each ratio is taken within a round; the value is the median round's, the interval has 95 % confidence (six rounds "
    "or more)."
)


VALUES = ("median round", "95 % interval")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text: the first column is read, the others are compared, and stand to the right."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG, and what there is to see in it."""

    title: str
    png: bytes
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """What a suite shows: its tables in order of importance, its pictures, and what to know when reading them.

    `missing` says what could not be measured, and why.
    """

    title: str
    tables: Sequence[Table]
    pictures: Sequence[Picture] = ()
    notes: Sequence[str] = ()
    missing: Mapping[str, str] = field(default_factory=dict)


def figures_table(
    report: dict[str, Any], title: str = "Figures", decimals: int = 2, columns: tuple[str, str] = VALUES
) -> Table:
    """Return a report's `ratios` as a table: value, interval, samples, goal, and whether it is met.

    `columns` name the value and its interval, where a suite's are something else.
    """
    rows = [
        (
            row["name"],
            f"{row['value']:,.{decimals}f}",
            "" if row["low"] is None else f"{row['low']:,.{decimals}f}–{row['high']:,.{decimals}f}",
            f"{row['samples']:,}",
            goal_words(row),
        )
        for row in report["ratios"]
    ]
    caption = INTERVALS if columns == VALUES else ""
    return Table(title, ("figure", *columns, "samples", "goal"), rows, caption)


def goal_words(row: dict[str, Any]) -> str:
    """Say which goal a figure has, and whether it is met; nothing for a figure without one."""
    if row["goal"] is None:
        return ""
    return f"{'≤' if row['at_most'] else '≥'} {row['goal']:g} {'met' if row['met'] else 'missed'}"


def conditions(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what a report says of the machine it was measured on, as pairs of a word and its meaning."""
    host, bundle = report["machine"], report["bundle"]
    where = (
        f"{host['cpu'] or host['architecture']}, {host['cores']} cores, {host['memory_bytes'] / 2**30:.1f} GiB, "
        f"int8 by {host['int8_dot'] or 'no instruction of its own'}, governor {host['governor'] or 'unknown'}, "
        f"load {host['load_before']} before and {host['load_after']} after"
    )
    valid = {True: "nothing throttled", None: "this machine does not say whether it throttles"}
    said = [] if bundle is None else [("bundle", f"{bundle['name']}, sha256 {bundle['sha256'][:12]}")]
    return [
        *said,
        ("machine", where),
        ("versions", ", ".join(f"{name} {version}" for name, version in report["versions"].items())),
        ("telemetry", valid.get(report["valid"]) or f"INVALID: {'; '.join(report['reasons'])}"),
        ("measured", f"{report['started']}, {report['seconds']:,} s in all"),
    ]


def print_section(section: Section, report: dict[str, Any]) -> None:
    """Print a section and its conditions; the last line is the command that repeats it."""
    for name, why in section.missing.items():
        console.console.print(f"[yellow]missing[/] {escape(name)}: {escape(why)}", highlight=False, soft_wrap=True)
    for table in section.tables:
        console.output.print(_for_terminal(table), highlight=False)
    for note in section.notes:
        console.output.print(f"- {escape(note)}", highlight=False)
    for word, meaning in conditions(report):
        console.output.print(f"{word:<10}{escape(meaning)}", highlight=False)
    console.output.print(report["command"], highlight=False, markup=False, soft_wrap=True)


def _for_terminal(table: Table) -> rich.table.Table:
    first, *others = table.columns
    shown = rich.table.Table(first, title=table.title, caption=table.caption or None, caption_justify="left")
    for column in others:
        shown.add_column(column, justify="right")
    for row in table.rows:
        shown.add_row(*(_coloured(cell) for cell in row))
    return shown


def _coloured(cell: str) -> str:
    text = escape(cell)
    for word, colour in ((" met", "green"), (" missed", "red")):
        if text.endswith(word):
            return f"{text.removesuffix(word)} [{colour}]{word.strip()}[/]"
    return text
