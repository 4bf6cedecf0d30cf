"""Train and evaluate."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from edge_cnnlstm.cli.console import console, output, write_json


def train(
    destination: Annotated[Path, typer.Option("-o", "--output", help="Folder for the checkpoint.")],
    preset: Annotated[str, typer.Option(help="Size of the network: nano.")] = "nano",
    layers: Annotated[
        int | None, typer.Option(help="LSTM layers instead of the preset's; 0 is the same CNN without memory.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, clips and their order.")] = 0,
    batches: Annotated[
        int | None, typer.Option(min=10, help="Train on this many batches instead of the full curriculum.")
    ] = None,
) -> None:
    """Train a network on occluded moving digits: which digit is it, where is it, is it in sight?

    Writes weights.safetensors, config.json and training.json.
    """
    from edge_cnnlstm.training.checkpoint import save_checkpoint
    from edge_cnnlstm.training.config import preset_config
    from edge_cnnlstm.training.data.occluded_digits import HEADS
    from edge_cnnlstm.training.fit import FitConfig, fit, shortened

    started = time.time()
    config = preset_config(preset, HEADS, layers=layers)
    how = FitConfig(seed=seed) if batches is None else shortened(FitConfig(seed=seed), batches)
    memory = f"{config.layers} LSTM layer{'s' if config.layers != 1 else ''} of {config.hidden}"
    destination.mkdir(parents=True, exist_ok=True)  # now, not after minutes of training
    console.print(f"Training [bold]{preset}[/] with {memory if config.layers else 'no memory'}")
    model = fit(config, how)
    save_checkpoint(model, destination)
    report = {"started": started, "seconds": time.time() - started, "preset": preset, "fit": asdict(how)}
    write_json(destination / "training.json", report)
    console.print(f"Saved [bold]{destination}[/] after {report['seconds']:.0f} s")


def evaluate(
    checkpoints: Annotated[list[Path], typer.Argument(help="One or more checkpoints, compared on the same clips.")],
    clips: Annotated[int, typer.Option(min=1, help="How many test clips of 16 frames.")] = 400,
    destination: Annotated[Path | None, typer.Option("-o", "--output", help="Also write the scores as JSON.")] = None,
) -> None:
    """Measure checkpoints on digits that training never saw: in sight, behind the occluder, and where they are."""
    from edge_cnnlstm.training.checkpoint import load_checkpoint
    from edge_cnnlstm.training.evaluate import ACROSS, evaluation_clips, score, torch_answer

    scores: dict[str, Any] = {}
    for checkpoint in checkpoints:
        model = load_checkpoint(checkpoint)
        scores[checkpoint.name] = asdict(score(torch_answer(model), evaluation_clips(model, clips)))
    output.print(scores_table(scores))
    if destination is not None:
        write_json(destination, {"across": list(ACROSS), "scores": scores})


def scores_table(scores: dict[str, Any]) -> Table:
    """Return the scores of several networks as a table."""
    table = Table("network", "in sight", "hidden", "centre error in sight", "hidden", "IoU")
    for name, row in scores.items():
        table.add_row(
            name,
            f"{row['visible']:.1%}",
            f"{row['hidden']:.1%}",
            f"{row['centre_error_px_visible']:.2f} px",
            f"{row['centre_error_px_hidden']:.2f} px",
            f"{row['iou']:.2f}",
        )
    return table
