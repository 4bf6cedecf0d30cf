"""`python -m benchmarks latency BUNDLE`, and others: numbers that one printed command reproduces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.agreement.command import agreement
from benchmarks.bench.command import bench
from benchmarks.device.command import device
from benchmarks.engines.command import engines
from benchmarks.latency.command import latency
from benchmarks.loadgen.command import loadgen
from benchmarks.memory.command import memory
from benchmarks.peers.command import peers
from benchmarks.record import read, write_page
from benchmarks.roofline.command import roofline
from benchmarks.runtime.command import runtime
from benchmarks.scaling.command import scaling
from benchmarks.tables import tables
from benchmarks.training import training
from edge_cnnlstm.cli import console

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def benchmarks() -> None:
    """Measure: every sample kept, machine and versions beside the numbers."""


app.command()(bench)
app.command()(latency)
app.command()(agreement)
app.command()(device)
app.command()(engines)
app.command()(loadgen)
app.command()(memory)
app.command()(peers)
app.command()(roofline)
app.command()(runtime)
app.command()(scaling)
app.command()(training)
app.command()(tables)


@app.command()
def page(
    results: Annotated[list[Path], typer.Argument(metavar="RESULT...", help="What suites wrote with -o.")],
    destination: Annotated[Path, typer.Option("-o", "--output", help="The page: one HTML file.")],
) -> None:
    """Draw results again, as a page."""
    reports = [read(path) for path in results]
    inner = [found for report in reports for found in report.get("suites", {"": report}).values()]
    write_page(destination, ", ".join(path.stem for path in results), inner)


if __name__ == "__main__":
    console.run(app)
