"""The account of a run as a person reads it on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from edge_cnnlstm.cli.console import console

COLUMNS = ("p50", "p90", "p99", "p99_9", "max")


def show(account: Mapping[str, Any]) -> None:
    """Print where time went, what became of every frame, and why the run is worth nothing if it is."""
    console.print(latency_table(account))
    for line in remarks(account):
        console.print(line, highlight=False, soft_wrap=True)


def latency_table(account: Mapping[str, Any]) -> Table:
    """Return the stages, their sum, and what every frame waited for a decision."""
    caption = f"graph {account['graph']} in {account['backend']}" if account["graph"] else account["backend"]
    title = "Where each frame's time went"
    table = Table("stage, ms", "p50", "p90", "p99", "p99.9", "max", title=title, caption=escape(caption))
    for stage, values in account["latency_ms"].items():
        name = "total (age at decision)" if stage == "age" else stage
        table.add_row(name, *_cells(values), end_section=stage in ("decode", "age"))
    table.add_row("every frame, dropped ones too", *_cells(account["response_ms"]))
    return table


def remarks(account: Mapping[str, Any]) -> Iterator[str]:
    """Yield what else there is to say, a line each, in rich's markup."""
    yield _accounting(account)
    if account["deadline_ms"] is not None:
        late, burst = account["deadline_misses"], account["longest_miss_burst"]
        yield f"{late} later than {account['deadline_ms']:.1f} ms" + (f", at most {burst} in a row" if late else "")
    if account["jitter_ms"]["p50"] is not None:
        yield f"jitter {_spread(account['jitter_ms'])}"
    if idle := account["first_after_idle_ms"]["count"]:
        yield f"age of the {idle} that came after a second of nothing: {_spread(account['first_after_idle_ms'])}"
    if account["resets"]:
        reasons = ", ".join(f"{escape(reason)} {count}" for reason, count in account["resets"].items())
        yield f"memory emptied: {reasons}"
    if account["clock_faults"]:
        yield f"[yellow]captured in the future, by another clock than this machine's: {account['clock_faults']}[/]"
    needed = account["samples"]["p99"]
    if account["predicted"] and not needed["reached"]:
        yield f"[yellow]a p99 to depend on takes {needed['needed']:,} answers, not {account['predicted']}[/]"
    if account["gpu"]:
        yield from _gpu(account["gpu"])
    for reason in account["passed_over"]:
        yield f"not taken: {escape(reason)}"
    if not account["valid"]:
        yield f"[bold red]INVALID[/]: {escape('; '.join(account['invalid_because']))}"


def _gpu(found: Mapping[str, Any]) -> Iterator[str]:
    how = "one launch a frame" if found["graphs"] else "enqueued frame by frame"
    yield f"on the GPU: {how}, {found['bytes_copied']:,} bytes copied a frame"
    for stage, values in (found["stages_ms"] or {}).items():
        yield f"  {stage} {_spread(values)}"


def _accounting(account: Mapping[str, Any]) -> str:
    line = f"{account['frames_in']} frames in = {account['predicted']} predicted + {account['dropped']} dropped"
    if account["refused"]:
        line += f", {account['refused']} of these refused"
    if account["lost"]:
        line += f"; {account['lost']} more were lost by the camera"
    return line


def _spread(values: Mapping[str, float]) -> str:
    return f"p50 {values['p50']:.3f}, p99 {values['p99']:.3f}, max {values['max']:.3f} ms"


def _cells(values: Mapping[str, float | None]) -> Iterator[str]:
    for column in COLUMNS:
        value = values[column]
        yield "–" if value is None else f"{value:.3f}"
