"""Search a recipe's space for the values that score best, alone or with any number of other workers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import optuna
from optuna.exceptions import OptunaError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from edge_cnnlstm.errors import ConfigError, DataError, EdgeError
from edge_cnnlstm.training.checkpoint import save_json
from edge_cnnlstm.training.config import nearest
from edge_cnnlstm.training.data.clip import Corpus
from edge_cnnlstm.training.data.corpora import open_corpus
from edge_cnnlstm.training.fit import fit
from edge_cnnlstm.training.identity import identity
from edge_cnnlstm.training.metrics import higher_is_better
from edge_cnnlstm.training.recipe import Recipe, dump_recipe
from edge_cnnlstm.training.search.space import Value, check_space, suggest, with_values
from edge_cnnlstm.training.search.study import BEAT, ERROR, Worker, open_study, without_password

JOURNAL, BEST, TRIALS = "study.log", "best.toml", "tuning.json"
NOT_THE_SEARCH = ("tune.trials", "tune.storage", "tune.study")
"""Keys that may change from one run of a search to the next."""
FAILURES = 3
"""So many failed trials and not a single good one end the search."""

Watch = Callable[[int, str], None]
"""Told how many trials are finished, and what goes on."""

STATES: dict[TrialState, Literal["complete", "pruned", "failed"]] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True, slots=True)
class Tried:
    """One finished trial: the values it tried and how it scored; a pruned one's score is the last before it ended."""

    number: int
    state: Literal["complete", "pruned", "failed"]
    score: float | None
    values: dict[str, Value]
    seconds: float
    error: str | None


@dataclass(frozen=True, slots=True)
class Search:
    """What a search found: the recipe with the best values, the trials in order, and which keys mattered.

    `importances` add up to 1: how much the best tenth of the trials differs from all of them in each key (Watanabe
    et al. 2023, PED-ANOVA, arXiv 2304.10255). They are empty when there are too few trials to tell.
    """

    recipe: Recipe
    best: Tried
    trials: tuple[Tried, ...]
    metric: str
    maximize: bool
    importances: dict[str, float]

    def save(self, folder: Path) -> None:
        """Write best.toml, a complete recipe, and tuning.json, every trial."""
        tried = f"# The best of {len(self.trials)} trials: {self.metric} {self.best.score:.6g} in validation.\n\n"
        (folder / BEST).write_text(tried + dump_recipe(self.recipe))
        save_json(
            {
                "metric": self.metric,
                "direction": "maximize" if self.maximize else "minimize",
                "best": self.best.number,
                "importances": self.importances,
                "trials": [asdict(trial) for trial in self.trials],
            },
            folder / TRIALS,
        )


def tune(recipe: Recipe, folder: Path, *, watch: Watch | None = None, beat: float = BEAT) -> Search:
    """Train trial after trial until the study has `recipe.tune.trials` finished ones; then return what was found.

    The study lies in `recipe.tune.storage`, or in a journal file in `folder`: the same call goes on where an earlier
    one was stopped, and calls on several machines share the work. A trial that was interrupted does not count and is
    tried again, one that cannot be trained counts as failed. `beat` is the time in seconds between a worker's signs
    of life.

    Raises ConfigError for a space, metric or storage that does not fit, before any training where that can be known;
    and the error of the third trial when the first three all fail.
    """
    maximize = higher_is_better(recipe.tune.metric)
    check_space(recipe)
    corpus = open_corpus(recipe.data, recipe.model, recipe.seed)
    _check_head(recipe.tune.metric, corpus)
    folder.mkdir(parents=True, exist_ok=True)
    place = recipe.tune.storage or str(folder / JOURNAL)
    with _quiet(), _in_reach(place):
        study = open_study(
            place,
            recipe.tune.study or f"{recipe.data.kind}-{recipe.model.preset}",
            identity(recipe, corpus.digest(), without=NOT_THE_SEARCH),
            _pruner(recipe),
            maximize=maximize,
        )
        worker = Worker(study, recipe.tune.trials, seed=recipe.seed, beat=beat)
        _Trials(recipe, corpus, worker, watch or _unwatched).run()
        return _found(recipe, worker)


class _NoSuchScoreError(ConfigError):
    """The metric is no score of this data: no trial will ever have it."""


class _Trials:
    """Trains what a worker claims."""

    def __init__(self, recipe: Recipe, corpus: Corpus, worker: Worker, watch: Watch) -> None:
        self.recipe, self.corpus = recipe, corpus
        self.worker = worker
        self.watch = watch
        self.failures = 0

    def run(self) -> None:
        """Train until nothing is left to claim."""
        while trial := self.worker.claim(lambda: self._tell("waiting for the last trials of other workers")):
            with self.worker.working_on(trial):
                self._try(trial)
        self._tell("done")

    def _try(self, trial: optuna.Trial) -> None:
        self._tell(f"trial {trial.number}")
        try:
            self.worker.complete(trial, self._train(trial))
        except optuna.TrialPruned:
            self.worker.prune(trial)
        except (_NoSuchScoreError, OptunaError):
            raise
        except (ConfigError, DataError, RuntimeError) as error:
            # RuntimeError is what torch makes of numbers that overflow, and of memory that runs out.
            self.worker.fail(trial, error.found if isinstance(error, EdgeError) else str(error))
            self.failures += 1
            if self.failures >= FAILURES and all(trial.state == TrialState.FAIL for trial in self.worker.finished()):
                raise

    def _train(self, trial: optuna.Trial) -> float:
        values = suggest(trial, self.recipe.tune.space)
        recipe = with_values(self.recipe, values)

        def report(epoch: int, scores: dict[str, float]) -> None:
            score = self._score(scores)
            self._tell(f"trial {trial.number}, epoch {epoch + 1} of {recipe.fit.epochs}: {score:.4g}")
            trial.report(score, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        return self._score(fit(recipe, corpus=self._clips_for(recipe), progress=False, on_epoch=report).scores)

    def _score(self, scores: dict[str, float]) -> float:
        metric = self.recipe.tune.metric
        score = scores.get(metric, math.nan)
        if math.isfinite(score):
            return score
        if metric in scores or any(trial.intermediate_values for trial in self.worker.study.get_trials(deepcopy=False)):
            raise DataError(f"{metric} is {score}", expected="a finite number", fix="narrow tune.space")
        raise _NoSuchScoreError(
            f"tune.metric {metric!r} is no score of this data",
            expected=f"one of {', '.join(scores)}",
            fix=nearest(metric, scores),
        )

    def _clips_for(self, recipe: Recipe) -> Corpus:
        """Return the corpus at hand unless the trial changes the clips."""
        made_for, needed = (
            (tried.data, tried.model.height, tried.model.width, tried.model.fit) for tried in (self.recipe, recipe)
        )
        return self.corpus if made_for == needed else open_corpus(recipe.data, recipe.model, recipe.seed)

    def _tell(self, going_on: str) -> None:
        self.watch(len(self.worker.finished()), going_on)


def _check_head(metric: str, corpus: Corpus) -> None:
    heads = [head.name for head in corpus.heads]
    name, dot, _ = metric.partition(".")
    if dot and name not in heads:
        raise ConfigError(
            f"tune.metric {metric!r}", expected=f"loss, or a score of {', '.join(heads)}", fix=nearest(name, heads)
        )


def _found(recipe: Recipe, worker: Worker) -> Search:
    trials = tuple(_tried(trial) for trial in worker.finished())
    complete = [trial for trial in trials if trial.state == "complete"]
    if not complete:
        raise DataError(
            f"none of {len(trials)} trials was completed: {trials[-1].error or 'all were pruned'}",
            expected="one or more",
            fix="narrow tune.space, or raise tune.trials and go on",
        )
    best = next(trial for trial in complete if trial.number == worker.study.best_trial.number)
    # The storage may be a URL with a password, and says nothing about a training.
    chosen = with_values(recipe, best.values)
    chosen = chosen.model_copy(update={"tune": chosen.tune.model_copy(update={"storage": None})})
    direction = worker.study.direction == optuna.study.StudyDirection.MAXIMIZE
    differ = len({trial.score for trial in complete}) > 1
    importances = optuna.importance.get_param_importances(worker.study) if differ else {}
    return Search(chosen, best, trials, recipe.tune.metric, direction, importances)


def _tried(trial: FrozenTrial) -> Tried:
    seconds = trial.duration.total_seconds() if trial.duration is not None else 0.0
    error = trial.user_attrs.get(ERROR) if trial.state == TrialState.FAIL else None
    return Tried(trial.number, STATES[trial.state], trial.value, trial.params, seconds, error)


def _pruner(recipe: Recipe) -> optuna.pruners.BasePruner:
    """Return the pruner; the first fifth of a training says too little to stop it."""
    epochs = recipe.fit.epochs
    if recipe.tune.pruner == "median":
        return optuna.pruners.MedianPruner(n_warmup_steps=epochs // 5)
    if recipe.tune.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=max(1, epochs // 5), max_resource=max(2, epochs))
    return optuna.pruners.NopPruner()


@contextmanager
def _quiet() -> Iterator[None]:
    """Let Optuna report what is wrong, but not each trial: that is the watcher's."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


@contextmanager
def _in_reach(place: str) -> Iterator[None]:
    try:
        yield
    except (OptunaError, SQLAlchemyError) as error:
        raise ConfigError(
            f"storage {without_password(place)}: {error}",
            expected="a storage that stays in reach",
            fix="see to it, and run the same command again: it goes on",
        ) from error


def _unwatched(finished: int, going_on: str) -> None:
    """Nobody looks."""
