"""A bar that moves between turns only: a refreshing thread would take time from the cores that are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edge_cnnlstm.cli import console

Advance = Callable[[str], None]


@contextmanager
def bar(doing: str) -> Iterator[Callable[[int], Advance]]:
    """Show a bar while something is measured; yields what is told the number of turns.

    That returns what is called after each turn, with its name. Without a terminal nothing is shown.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = console.console.is_terminal
    with Progress(*columns, console=console.console, auto_refresh=False, transient=True, disable=not shown) as progress:

        def started(turns: int) -> Advance:
            task = progress.add_task(doing, total=turns)
            progress.refresh()
            return lambda name: progress.update(task, advance=1, description=f"{doing}: {name}", refresh=True)

        yield started
