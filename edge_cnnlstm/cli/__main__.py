"""`edge-cnnlstm`: every command in one place."""

from __future__ import annotations

import typer

from edge_cnnlstm.cli import console
from edge_cnnlstm.cli.build import build
from edge_cnnlstm.cli.bundle import inspect, verify
from edge_cnnlstm.cli.evaluate import evaluate
from edge_cnnlstm.cli.predict import predict
from edge_cnnlstm.cli.report import report
from edge_cnnlstm.cli.run import run
from edge_cnnlstm.cli.sample_video import sample_video
from edge_cnnlstm.cli.train import recipes, train
from edge_cnnlstm.cli.tune import cross_validate, tune

app = typer.Typer(
    name="edge-cnnlstm",
    help="Train a CNN-LSTM on video and stream camera frames through it, one at a time, on time.\n\n"
    "The road: [bold]train[/] → [bold]evaluate[/] → [bold]python -m export[/] → [bold]verify[/] → [bold]run[/].",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for command in (
    train,
    recipes,
    tune,
    cross_validate,
    evaluate,
    predict,
    inspect,
    verify,
    build,
    run,
    sample_video,
    report,
):
    app.command()(command)


def main() -> None:
    """Entry point of `edge-cnnlstm`."""
    console.run(app)


if __name__ == "__main__":
    main()
