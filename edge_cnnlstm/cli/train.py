"""Train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_cnnlstm.cli.console import console, output
from edge_cnnlstm.errors import ConfigError

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe: --set model.layers=2"),
]


def train(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="A TOML file, or a recipe that ships: see `recipes`.")
    ] = None,
    folder: Annotated[Path | None, typer.Option("-o", "--output", help="New folder for the checkpoint.")] = None,
    overrides: Overrides = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Go on with the interrupted training in this folder.")
    ] = None,
) -> None:
    """Train a network as a recipe says: network, data, how to fit.

    Writes the weights, the network's configuration, the whole recipe and the course of the training. Ctrl-C stops
    after the batch at hand; --resume goes on to the weights that an uninterrupted training would have reached.
    """
    from edge_cnnlstm.training import run
    from edge_cnnlstm.training.metrics.quality import quality
    from edge_cnnlstm.training.recipe import load_recipe

    if resume is not None:
        if recipe is not None or folder is not None or overrides:
            raise ConfigError(
                "--resume with a recipe, an output or settings",
                expected="--resume FOLDER alone: a training goes on as it began",
                fix="leave the others out, or begin a new training",
            )
        console.print(f"Going on with [bold]{resume}[/]")
        fitted, folder = run.resume(resume), resume
    else:
        if recipe is None or folder is None:
            raise ConfigError(
                "no recipe" if recipe is None else "no output folder",
                expected="edge-cnnlstm train RECIPE --output FOLDER",
                fix="edge-cnnlstm train occluded-digits --output runs/mine",
            )
        chosen = load_recipe(recipe, overrides or [])
        memory = f"{chosen.model.layers} × LSTM {chosen.model.hidden}" if chosen.model.layers else "no memory"
        console.print(f"Training [bold]{chosen.model.preset}[/] with {memory} on {chosen.data.kind}")
        fitted = run.train(chosen, folder)
    summary = {"loss": fitted.scores["loss"], **quality(fitted.scores, fitted.model.config.heads)}
    scores = ", ".join(f"{name} {value:.4g}" for name, value in summary.items())
    console.print(f"Saved [bold]{folder}[/], epoch {fitted.kept_epoch}; validation {scores}", highlight=False)


def recipes(
    name: Annotated[str | None, typer.Argument(metavar="[RECIPE]", help="Show this one, complete, as TOML.")] = None,
) -> None:
    """List the recipes that ship with the package, or show one to begin from: recipes gestures > mine.toml."""
    from edge_cnnlstm.training.recipe import dump_recipe, load_recipe, shipped_recipes

    if name is not None:
        output.out(dump_recipe(load_recipe(name)), end="", highlight=False)
        return
    for shipped in shipped_recipes():
        recipe = load_recipe(shipped)
        output.print(
            f"[bold]{shipped}[/]  {recipe.model.preset} on {recipe.data.kind}, {recipe.fit.epochs} epochs",
            highlight=False,
        )
