"""`python -m benchmarks latency BUNDLE`, and others: numbers that one printed command reproduces."""

from __future__ import annotations

import typer

from benchmarks.agreement.command import agreement
from benchmarks.device.command import device
from benchmarks.engines.command import engines
from benchmarks.latency.command import latency
from benchmarks.memory.command import memory
from benchmarks.runtime.command import runtime
from benchmarks.training import training
from edge_cnnlstm.cli import console

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def benchmarks() -> None:
    """Measure: every sample kept, machine and versions beside the numbers."""


app.command()(latency)
app.command()(agreement)
app.command()(device)
app.command()(engines)
app.command()(memory)
app.command()(runtime)
app.command()(training)


if __name__ == "__main__":
    console.run(app)
