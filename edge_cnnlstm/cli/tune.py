"""Choose settings by searching, and judge a recipe by cross-validation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from edge_cnnlstm.cli.console import console, output, unusable_path
from edge_cnnlstm.cli.train import Overrides
from edge_cnnlstm.errors import ConfigError

if TYPE_CHECKING:
    from edge_cnnlstm.training.cross_validate import CrossValidation, FoldScores
    from edge_cnnlstm.training.tune import Search, Tried

SHOWN = 5
"""Rows of the table of the best trials."""

Recipe = Annotated[str, typer.Argument(metavar="RECIPE", help="A TOML file, or the name of a recipe that ships.")]


def tune(
    recipe: Recipe,
    folder: Annotated[Path, typer.Option("-o", "--output", help="Folder for the study and its results.")],
    overrides: Overrides = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Finished trials to reach, in all.")] = None,
    storage: Annotated[
        str | None,
        typer.Option(help="Study shared by several workers: a database URL, or a journal file on a shared disk."),
    ] = None,
) -> None:
    """Search the recipe's table `tune.space` for the values that score best in validation.

    Ctrl-C stops; the same command goes on. With the same --storage, workers on any number of machines share the work.
    Writes best.toml, ready for `edge-cnnlstm train`, tuning.json, importance.png and history.png.
    """
    from edge_cnnlstm.report.tuning import Point, history_picture, importance_picture
    from edge_cnnlstm.training.recipe import load_recipe
    from edge_cnnlstm.training.tune import tune as search

    chosen = load_recipe(recipe, overrides or [])
    given = {name: value for name, value in {"trials": trials, "storage": storage}.items() if value is not None}
    chosen = chosen.model_copy(update={"tune": chosen.tune.model_copy(update=given)})
    _prepare(folder)
    with _progress() as bar:

        def watch(finished: int, going_on: str) -> None:
            task = bar.task_ids[0] if bar.task_ids else bar.add_task("", total=chosen.tune.trials)
            bar.update(task, completed=finished, description=going_on)

        try:
            found = search(chosen, folder, watch=watch)
        except KeyboardInterrupt:
            console.print("Stopped; the same command goes on.")
            raise
    found.save(folder)
    points = [Point(trial.score, trial.state == "complete") for trial in found.trials]
    (folder / "history.png").write_bytes(history_picture(points, found.metric, maximize=found.maximize))
    (folder / "importance.png").write_bytes(importance_picture(found.importances, found.metric))
    output.print(trials_table(found))
    console.print(
        f"Saved [bold]{folder}[/]; train it with `edge-cnnlstm train {folder / 'best.toml'}`", highlight=False
    )


def cross_validate(
    recipe: Recipe,
    folder: Annotated[Path, typer.Option("-o", "--output", help="Folder for every fold's network and scores.")],
    folds: Annotated[int, typer.Option(help="How many parts the data are split into, 2 or more.")] = 5,
    overrides: Overrides = None,
) -> None:
    """Train and score a recipe once per fold: mean and deviation of every score.

    The folds share out the training and validation items, with their part of each class and no group in two; the test
    items stay untouched for the final score. Ctrl-C stops; the same command goes on. Writes cross-validation.json and
    folds.png, and each fold's network.
    """
    from edge_cnnlstm.report.scores import SHARES
    from edge_cnnlstm.report.tuning import folds_picture
    from edge_cnnlstm.training.cross_validate import cross_validate as validate
    from edge_cnnlstm.training.recipe import load_recipe

    chosen = load_recipe(recipe, overrides or [])
    _prepare(folder)

    def tell(fold: FoldScores) -> None:
        sizes = f"trained on {fold.train_items} items, scored on {fold.held_out_items}"
        console.print(f"Fold {fold.fold} of {folds}: {sizes}", highlight=False)

    found = validate(chosen, folds, folder, on_fold=tell)
    found.save(folder)
    shares = [name for name in found.spread if name.split(".")[1] in SHARES | {"iou"} and name.count(".") == 1]
    dots = {name: [fold.scores[name] for fold in found.folds if name in fold.scores] for name in shares}
    if dots:
        (folder / "folds.png").write_bytes(folds_picture(dots))
    output.print(folds_table(found))
    console.print(f"Saved [bold]{folder}[/]", highlight=False)


def trials_table(found: Search) -> Table:
    """Return the best trials, the best first."""
    columns = [Column(key, overflow="fold") for key in ("trial", found.metric, *found.best.values)]
    table = Table(*columns, title=f"The best of {len(found.trials)} trials")
    complete = [trial for trial in found.trials if trial.state == "complete"]

    def order(trial: Tried) -> float:
        score = trial.score or 0.0
        return -score if found.maximize else score

    for trial in sorted(complete, key=order)[:SHOWN]:
        values = [_shown(trial.values[key]) for key in found.best.values]
        table.add_row(str(trial.number), _shown(trial.score), *values)
    pruned, failed = (sum(trial.state == state for trial in found.trials) for state in ("pruned", "failed"))
    table.caption = f"{len(complete)} trained to the end, {pruned} stopped early, {failed} failed"
    return table


def folds_table(found: CrossValidation) -> Table:
    """Return every fold's scores, and their mean and sample standard deviation."""
    from edge_cnnlstm.report.scores import score_name, shown

    columns = (f"fold {fold.fold}" for fold in found.folds)
    table = Table("score", *columns, "mean ± deviation", title=f"{len(found.folds)} folds")
    for name, spread in found.spread.items():
        if name.count(".") == 1:
            values = [shown(name, fold.scores.get(name)) for fold in found.folds]
            mean = f"{shown(name, spread.mean)} ± {shown(name, spread.deviation)}"
            table.add_row(f"{name.partition('.')[0]}: {score_name(name)}", *values, mean)
    return table


def _progress() -> Progress:
    return Progress(
        BarColumn(20),
        MofNCompleteColumn(),
        TextColumn("trials"),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
        console=console,
    )


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _prepare(folder: Path) -> None:
    """Make the folder now, not after hours; refuse to be one of several processes of a single training."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "a search or a cross-validation under torchrun",
            expected="one process: each training is a whole one",
            fix="start it without torchrun; searches that share a --storage share the work",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unusable_path(error) from error
