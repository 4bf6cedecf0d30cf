"""Cross-validation: train on all folds but one, score on that one, and say how far the scores scatter.

The folds are made of the training and validation items of the standard split. Its test items stay out: recipes are
compared by their folds, and the chosen one's final score must come from items that took no part in the choice.
"""

from __future__ import annotations

import hashlib
import math
import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from edge_cnnlstm.errors import CheckpointError, ConfigError, InterruptedTraining
from edge_cnnlstm.training.checkpoint import RESUME, load_json, save_checkpoint, save_json, save_recipe
from edge_cnnlstm.training.data.clip import Corpus
from edge_cnnlstm.training.data.corpora import open_corpus
from edge_cnnlstm.training.evaluate import evaluate, torch_answer
from edge_cnnlstm.training.fit import fit
from edge_cnnlstm.training.identity import difference, identity
from edge_cnnlstm.training.loop.progress import forget_progress
from edge_cnnlstm.training.recipe import Recipe

IDENTITY, SCORES, RESULTS = "folds.json", "scores.json", "cross-validation.json"
VALIDATION_PARTS = 6
"""One in so many of a fold's remaining items is held back from training, to choose the best epoch by."""

Items = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Fold:
    """One share of the items, `held_out`, and how the others are used; no group is in two of the three."""

    train: Items
    validation: Items
    held_out: Items


@dataclass(frozen=True, slots=True)
class FoldScores:
    """How the network of one fold, counted from 1, scored on the clips of its held-out items."""

    fold: int
    train_items: int
    validation_items: int
    held_out_items: int
    kept_epoch: int
    seconds: float
    scores: dict[str, float]


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and sample standard deviation of a score over the folds in which it is defined."""

    mean: float
    deviation: float
    folds: int


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """The scores of every fold, and their spread."""

    folds: tuple[FoldScores, ...]
    spread: dict[str, Spread]

    def save(self, folder: Path) -> None:
        """Write cross-validation.json."""
        save_json(asdict(self), folder / RESULTS)


def cross_validate(
    recipe: Recipe,
    folds: int,
    folder: Path,
    *,
    progress: bool = True,
    on_fold: Callable[[FoldScores], None] | None = None,
) -> CrossValidation:
    """Train and score a network for each fold, in `folder/fold-1`, `fold-2`, …; folds that are done are read back.

    A fold that was interrupted goes on where it stopped. Raises ConfigError when there cannot be so many folds, naming
    the class that has too few groups, or when the folder holds another cross-validation, naming the first difference.
    """
    corpus = open_corpus(recipe.data, recipe.model, recipe.seed)
    parts = folds_of(corpus, folds, recipe.seed)
    _begin(recipe, corpus, parts, folder)
    done = []
    for number, part in enumerate(parts, 1):
        place = folder / f"fold-{number}"
        if not (place / SCORES).is_file():
            _train_fold(recipe, corpus, part, number, place, progress=progress)
        done.append(_read_scores(place / SCORES))
        if on_fold is not None:
            on_fold(done[-1])
    return CrossValidation(tuple(done), _spread([fold.scores for fold in done]))


def folds_of(corpus: Corpus, folds: int, seed: int) -> list[Fold]:
    """Split the training and validation items into folds, each with its share of every class and no group in two.

    Raises ConfigError for fewer than 2 folds, or for more than the rarest class has groups.
    """
    items = np.sort(np.concatenate([corpus.splits["train"], corpus.splits["validation"]]))
    _check(corpus, items, folds)
    return [
        Fold(*_train_and_validation(corpus, rest, seed, number), held_out)
        for number, (rest, held_out) in enumerate(_split(corpus, items, folds, seed), 1)
    ]


def _train_and_validation(corpus: Corpus, rest: Items, seed: int, number: int) -> tuple[Items, Items]:
    """Hold back a part of a fold's remaining items, such that each class is still there to be learnt."""
    parts = max(2, min(VALIDATION_PARTS, _rarest(corpus, rest)[1]))
    wanted = np.union1d(corpus.strata[corpus.splits["train"]], corpus.strata[corpus.splits["validation"]])
    missing = wanted
    with suppress(ValueError):  # raised by scikit-learn when there are fewer groups than parts
        for train, validation in _split(corpus, rest, parts, seed):
            missing = np.setdiff1d(wanted, corpus.strata[train])
            if not len(missing):
                return train, validation
    raise ConfigError(
        f"fold {number} leaves too little of {_class_name(corpus, missing[0])} to train on",
        expected="groups that can be shared out so that each class is in every training",
        fix="choose another number of folds or another seed, or gather more groups",
    )


def _check(corpus: Corpus, items: Items, folds: int) -> None:
    if folds < 2:
        raise ConfigError(f"--folds {folds}", expected="2 or more", fix="--folds 5")
    name, groups = _rarest(corpus, items)
    if groups < folds:
        raise ConfigError(
            f"{folds} folds, but {name} is in {groups} group{'' if groups == 1 else 's'} only",
            expected="as many groups of each class as folds, or more",
            fix=f"--folds {groups}" if groups > 1 else "gather more of it, or leave the class out",
        )


def _rarest(corpus: Corpus, items: Items) -> tuple[str, int]:
    """Return the class that is in the fewest groups, and in how many."""
    pairs = np.unique(np.stack([corpus.strata[items], corpus.groups[items]]), axis=1)
    strata, groups = np.unique(pairs[0], return_counts=True)
    return _class_name(corpus, strata[groups.argmin()]), int(groups.min())


def _class_name(corpus: Corpus, stratum: int) -> str:
    labels = next((head.labels for head in corpus.heads if head.task == "classify"), ())
    return f"class {labels[stratum]!r}" if 0 <= stratum < len(labels) else f"class {stratum}"


def _split(corpus: Corpus, items: Items, parts: int, seed: int) -> list[tuple[Items, Items]]:
    strata, groups = corpus.strata[items], corpus.groups[items]
    # Where every item is a group of its own, nothing need be kept together, and that is far faster.
    alone = len(np.unique(groups)) == len(groups)
    splitter = (StratifiedKFold if alone else StratifiedGroupKFold)(parts, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A class may have fewer items than there are parts of what remains; `_train_and_validation` sees to it.
        warnings.filterwarnings("ignore", message="The least populated class in y")
        found = list(splitter.split(items, strata, None if alone else groups))
    return [(items[rest], items[part]) for rest, part in found]


def _begin(recipe: Recipe, corpus: Corpus, parts: list[Fold], folder: Path) -> None:
    """Record what is cross-validated, or make sure that it is what this folder began with."""
    held_out = hashlib.sha256(b"|".join(part.held_out.astype("<i8").tobytes() for part in parts)).hexdigest()
    now = {
        **identity(recipe, corpus.digest(), without=("tune",)),
        "number of folds": len(parts),
        "held-out items": held_out,
    }
    path = folder / IDENTITY
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        save_json(now, path)
    elif found := difference(load_json(path), now):
        raise ConfigError(
            f"{folder} holds another cross-validation: {found}",
            expected="the recipe, the data and the number of folds that it began with",
            fix="choose another folder",
        )


def _train_fold(recipe: Recipe, corpus: Corpus, part: Fold, number: int, folder: Path, *, progress: bool) -> None:
    began = time.time()
    save_recipe(recipe, folder)
    resume = (folder / RESUME).is_file()
    splits: dict[Any, Items] = {"train": part.train, "validation": part.validation}
    try:
        fitted = fit(recipe, corpus=corpus, splits=splits, folder=folder, resume=resume, progress=progress)
    except InterruptedTraining as error:
        raise InterruptedTraining(
            f"fold {number}: {error.found}", expected=error.expected, fix="run the same command again: it goes on"
        ) from error
    save_checkpoint(fitted.model, folder)
    clips = corpus.clips(part.held_out, training=False)
    scores = evaluate(torch_answer(fitted.model), clips, corpus.heads).scores
    sizes = len(part.train), len(part.validation), len(part.held_out)
    save_json(asdict(FoldScores(number, *sizes, fitted.kept_epoch, time.time() - began, scores)), folder / SCORES)
    forget_progress(folder)


def _read_scores(path: Path) -> FoldScores:
    document = load_json(path)
    try:
        return FoldScores(**document)
    except TypeError as error:
        raise CheckpointError(
            f"{path}: {error}", expected="the scores of a fold", fix="delete the file: the fold is then done again"
        ) from error


def _spread(scores: list[dict[str, float]]) -> dict[str, Spread]:
    names = dict.fromkeys(name for fold in scores for name in fold)
    values = {name: [fold[name] for fold in scores if math.isfinite(fold.get(name, math.nan))] for name in names}
    return {
        name: Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else 0.0, len(known))
        for name, known in values.items()
        if known
    }
