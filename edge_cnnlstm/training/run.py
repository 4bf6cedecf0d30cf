"""A training in a folder of its own: begun, interrupted, resumed, and recorded with all that made it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from edge_cnnlstm import provenance
from edge_cnnlstm.errors import CheckpointError, ConfigError
from edge_cnnlstm.training.checkpoint import (
    REPORT,
    RESUME,
    WEIGHTS,
    load_json,
    load_recipe_of,
    save_checkpoint,
    save_json,
    save_recipe,
)
from edge_cnnlstm.training.data.clip import Corpus
from edge_cnnlstm.training.data.corpora import open_corpus
from edge_cnnlstm.training.data.files import FileCorpus
from edge_cnnlstm.training.fit import Fitted, fit
from edge_cnnlstm.training.loop.progress import forget_progress
from edge_cnnlstm.training.recipe import Recipe

MADE_WITH = ("edge-cnnlstm", "torch", "lightning", "torchmetrics", "numpy", "opencv-python-headless", "scikit-learn")


def train(recipe: Recipe, folder: Path, *, progress: bool = True) -> Fitted:
    """Train as a recipe says, into a new folder.

    Raises ConfigError when the folder already holds a training, and whatever `fit` raises.
    """
    for name in (WEIGHTS, RESUME):
        if (folder / name).exists():
            raise ConfigError(
                f"{folder} already holds a training ({name})",
                expected="a new folder",
                fix=f"choose another one, delete this one, or go on with `edge-cnnlstm train --resume {folder}`",
            )
    corpus = open_corpus(recipe.data, recipe.model, recipe.seed)
    if _first_process():
        save_recipe(recipe, folder)
        save_json({"started": time.time(), "seconds": 0.0, **_origin(corpus.digest())}, folder / REPORT)
    return _finish(recipe, corpus, folder, resume=False, progress=progress)


def resume(folder: Path, *, progress: bool = True) -> Fitted:
    """Go on with an interrupted training; the weights come out as if it had never been interrupted.

    Raises CheckpointError when there is nothing to resume, or when recipe or data are not those it began with.
    """
    recipe = load_recipe_of(folder)
    if not (folder / RESUME).is_file():
        complete = is_complete(folder)
        raise CheckpointError(
            f"{folder} holds a complete training" if complete else f"no training to resume in {folder}",
            expected=f"a folder with {RESUME}",
            fix="train again in another folder",
        )
    corpus = open_corpus(recipe.data, recipe.model, recipe.seed)
    return _finish(recipe, corpus, folder, resume=True, progress=progress)


def is_complete(folder: Path) -> bool:
    """Whether a training in this folder was finished."""
    return (folder / REPORT).is_file() and "scores" in load_json(folder / REPORT)


def _finish(recipe: Recipe, corpus: Corpus, folder: Path, *, resume: bool, progress: bool) -> Fitted:
    began = time.time()
    try:
        fitted = fit(recipe, corpus=corpus, folder=folder, resume=resume, progress=progress)
    finally:
        if _first_process():
            report = load_json(folder / REPORT)
            save_json({**report, "seconds": report["seconds"] + time.time() - began}, folder / REPORT)
    if _first_process():
        save_checkpoint(fitted.model, folder)
        course: dict[str, Any] = {
            "scores": fitted.scores,
            "kept_epoch": fitted.kept_epoch,
            "compute_share": fitted.compute_share,
            "history": list(fitted.history),
        }
        if isinstance(corpus, FileCorpus):
            course["skipped"] = corpus.skipped
        save_json({**load_json(folder / REPORT), **course}, folder / REPORT)
        forget_progress(folder)
    return fitted


def _origin(digest: str) -> dict[str, Any]:
    return {
        "data_digest": digest,
        "commit": provenance.git_commit(Path(__file__).parent),
        "versions": provenance.versions(*MADE_WITH),
        "machine": provenance.machine(),
    }


def _first_process() -> bool:
    """Whether this is the one process, or the first of those that torchrun started: only it writes."""
    return os.environ.get("RANK", "0") == "0"
