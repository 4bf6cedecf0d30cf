"""Measure checkpoints on clips that they never learnt from."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.markup import escape
from rich.table import Table

from edge_cnnlstm.cli.console import console, output, unusable_path, write_json
from edge_cnnlstm.cli.drops import drops_table, parsed_loads
from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.report.scores import condition_name, conditions, main_scores, rows
from edge_cnnlstm.training.late_frames import EMPTY_AFTER, LONG_RUN

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge_cnnlstm.training.data.clip import ClipSet, Split
    from edge_cnnlstm.training.drops import UnderLoad
    from edge_cnnlstm.training.evaluate import Evaluation

MADE_WITH = ("edge-cnnlstm", "torch", "torchmetrics", "numpy", "opencv-python-headless", "scikit-learn")
FILE, DROPS_FILE = "evaluation.json", "drops.png"


def evaluate(
    checkpoints: Annotated[list[Path], typer.Argument(help="One or more checkpoints, side by side.")],
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    clips: Annotated[int | None, typer.Option(min=1, help="Only the first clips of the split.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="data.KEY=VALUE", help="Change what the clips are made of.")
    ] = None,
    drop: Annotated[
        str | None,
        typer.Option(
            metavar="PERCENT,…", help="Also score as if there were no time for so many frames: 0,10,20,30,50."
        ),
    ] = None,
    empty_after: Annotated[
        int, typer.Option(min=1, help="With --drop: the missed frames that empty a memory which is not told of them.")
    ] = EMPTY_AFTER,
    destination: Annotated[Path | None, typer.Option("-o", "--output", help="Also write everything as JSON.")] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also write evaluation.html and evaluation.json there.")
    ] = None,
) -> None:
    """Measure checkpoints: every score, for each condition of the clips too, and the clips that go worst."""
    loads = [] if drop is None else parsed_loads(drop)
    if report is not None:
        _prepare(report)
    found: dict[str, Measured] = {}
    for name, checkpoint in zip(_names(checkpoints), checkpoints, strict=True):
        console.print(f"Evaluating [bold]{escape(name)}[/] on the {escape(split)} split")
        found[name] = _measure(checkpoint, split, clips, tuple(overrides or ()), loads, empty_after)
    document: dict[str, Any] = {
        "split": split,
        "written": _now(),
        "networks": {name: measured.evaluation.document() for name, measured in found.items()},
    }
    output.print(scores_table(document["networks"]))
    if loads:
        document["drops"] = {
            "empty_after": empty_after,
            "long_run": LONG_RUN,
            "networks": {name: [row.document() for row in measured.under_load] for name, measured in found.items()},
        }
        for name, under_load in document["drops"]["networks"].items():
            output.print(drops_table(name, under_load, main_scores(document["networks"])))
    if destination is None and report is None:
        return
    document["made_with"] = _origin({name: measured.made for name, measured in found.items()})
    if destination is not None:
        write_json(destination, document)
    if report is not None:
        _write_report(report, document, {name: measured.frames for name, measured in found.items()})


def scores_table(networks: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the scores of evaluations, as `Evaluation.document` gives them, as one table."""
    several = len(networks) > 1
    columns = ["head", "score", *(["network"] if several else []), "all"]
    table = Table(*columns, *(escape(condition_name(name)) for name in conditions(networks)))
    found = rows(networks)
    for row, before, after in zip(found, [None, *found], [*found[1:], None], strict=False):
        head = row.head if before is None or before.head != row.head else ""
        score = row.score if before is None or head or before.score != row.score else ""
        network = [escape(row.network)] if several else []
        table.add_row(head, escape(score), *network, *row.values, end_section=after is None or after.head != row.head)
    return table


class Measured(NamedTuple):
    """What was found of a checkpoint, what it was made with, and the frames that its film names."""

    evaluation: Evaluation
    under_load: list[UnderLoad]
    made: dict[str, Any]
    frames: dict[str, NDArray[np.uint8]]


def _measure(
    checkpoint: Path, split: str, limit: int | None, overrides: tuple[str, ...], loads: list[float], empty_after: int
) -> Measured:
    from edge_cnnlstm.training.checkpoint import REPORT, load_checkpoint, load_json, load_recipe_of
    from edge_cnnlstm.training.data.corpora import open_corpus
    from edge_cnnlstm.training.drops import evaluate_drops
    from edge_cnnlstm.training.evaluate import evaluate as score
    from edge_cnnlstm.training.evaluate import torch_answer
    from edge_cnnlstm.training.recipe import dump_recipe

    for override in overrides:
        if not override.strip().startswith("data."):
            raise ConfigError(f"override {override!r}", expected="data.KEY=VALUE", fix="train again to change the rest")
    model = load_checkpoint(checkpoint)
    recipe = load_recipe_of(checkpoint, overrides)
    corpus = open_corpus(recipe.data, recipe.model, recipe.seed)
    items = corpus.splits[_split(split)]
    held_out = corpus.clips(items, training=False)
    found = score(torch_answer(model), held_out, model.config.heads, limit=limit, progress=True)
    under_load = (
        evaluate_drops(model, held_out, loads, empty_after=empty_after, limit=limit, progress=True) if loads else []
    )
    trained = load_json(checkpoint / REPORT) if (checkpoint / REPORT).is_file() else {}
    made = {
        "data_digest": corpus.digest(),
        "trained_on": trained.get("data_digest"),
        "trained_at": trained.get("commit"),
        "recipe": dump_recipe(recipe),
    }
    return Measured(found, under_load, made, _frames(found, held_out))


def _split(split: str) -> Split:
    from edge_cnnlstm.training.data.clip import SPLITS

    for known in SPLITS:
        if known == split:
            return known
    raise ConfigError(f"split {split!r}", expected=f"one of {', '.join(SPLITS)}", fix="choose one of these")


def _frames(found: Evaluation, clips: ClipSet) -> dict[str, NDArray[np.uint8]]:
    """Return the frames of the film: the same clips once more, because all of them would not fit into memory."""
    return {index: clips.clip(int(index)).frames[shown["frames"]] for index, shown in found.film.items()}


def _names(checkpoints: Sequence[Path]) -> list[str]:
    """Return the folders' names; the whole paths of folders whose names are the same."""
    names = [checkpoint.resolve().name for checkpoint in checkpoints]
    count = Counter(names)
    unique = [name if count[name] == 1 else str(path) for name, path in zip(names, checkpoints, strict=True)]
    if len(set(unique)) < len(unique):
        raise ConfigError("the same checkpoint twice", expected="different checkpoints", fix="name each one once")
    return unique


def _origin(made: dict[str, dict[str, Any]]) -> dict[str, Any]:
    from edge_cnnlstm.provenance import git_commit, machine, versions

    return {
        "networks": made,
        "commit": git_commit(Path(__file__).parent),
        "versions": versions(*MADE_WITH),
        "machine": machine(),
    }


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())


def _prepare(folder: Path) -> None:
    """Find out now, not after minutes of scoring, whether a report can be drawn and written."""
    from edge_cnnlstm.report.optional import drawing_libraries

    with drawing_libraries():
        from edge_cnnlstm.report import evaluation  # noqa: F401  # imported to see whether it can be
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unusable_path(error) from error


def _write_report(folder: Path, document: dict[str, Any], frames: dict[str, dict[str, NDArray[np.uint8]]]) -> None:
    from edge_cnnlstm.report.drops import under_load
    from edge_cnnlstm.report.evaluation import evaluation_page

    write_json(folder / FILE, document)
    page = folder / "evaluation.html"
    page.write_text(evaluation_page(document, frames), encoding="utf-8")
    written = [FILE]
    if "drops" in document:
        networks, main = document["drops"]["networks"], main_scores(document["networks"])
        (folder / DROPS_FILE).write_bytes(under_load(networks, main))
        written.append(DROPS_FILE)
    console.print(f"Wrote [bold]{escape(str(page))}[/] and {' and '.join(written)}")
