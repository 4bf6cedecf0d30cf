"""Train a network as a recipe says: Lightning runs the loop."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from numpy.typing import NDArray

from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.training.config import ModelConfig
from edge_cnnlstm.training.data.clip import ClipSet, Corpus, Split
from edge_cnnlstm.training.data.corpora import open_corpus
from edge_cnnlstm.training.identity import identity
from edge_cnnlstm.training.loop.heap import keep_freed_memory
from edge_cnnlstm.training.loop.interruption import Interruption
from edge_cnnlstm.training.loop.learner import Learner, OnEpoch
from edge_cnnlstm.training.loop.progress import Resume
from edge_cnnlstm.training.model import CnnLstm
from edge_cnnlstm.training.recipe import FitConfig, Recipe

Splits = Mapping[Split, NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained network in evaluation mode, and its course.

    `scores` are the validation loss and scores of the weights that were kept, those of epoch `kept_epoch`; `history`
    holds one record per epoch. `compute_share` is the share of the training loop that did not wait for data.
    """

    model: CnnLstm
    scores: dict[str, float]
    history: tuple[dict[str, float], ...]
    kept_epoch: int
    compute_share: float


def fit(
    recipe: Recipe,
    *,
    corpus: Corpus | None = None,
    splits: Splits | None = None,
    model: CnnLstm | None = None,
    folder: Path | None = None,
    resume: bool = False,
    progress: bool = True,
    on_epoch: OnEpoch | None = None,
) -> Fitted:
    """Train a network, and return it.

    `corpus` defaults to the recipe's data, `splits` (of which "train" and "validation" are used) to the corpus's own,
    `model` to a new network of the recipe's kind; a given one is trained in place. With a `folder` each epoch is
    saved there, and Ctrl-C saves and raises InterruptedTraining; `resume` then goes on to the very weights that an
    uninterrupted training would have reached. `on_epoch` is called with each epoch and its validation scores; what it
    raises ends the training.

    Deterministic from the seed on one machine. Under `torchrun` each process learns from its share of every batch.
    Raises ConfigError for settings that do not fit the data, and DataError, naming batch and layer, when a number
    stops being finite: the folder then holds the last good epoch.
    """
    corpus = corpus or open_corpus(recipe.data, recipe.model, recipe.seed)
    splits = splits or corpus.splits
    lightning.seed_everything(recipe.seed, verbose=False)
    if model is None:
        model = CnnLstm(ModelConfig.model_validate({**recipe.model.model_dump(), "heads": corpus.heads}))
    _check_heads(model, corpus)
    what = identity(recipe, corpus.digest(), without=("tune",)) if folder is not None else {}
    saved = Resume.read(folder, what) if resume and folder is not None else None
    clips: dict[Split, ClipSet] = {
        "train": corpus.clips(splits["train"], training=True),
        "validation": corpus.clips(splits["validation"], training=False),
    }
    interruption = Interruption()
    with interruption if folder is not None else contextlib.nullcontext():
        learner = Learner(
            model,
            recipe.fit,
            clips,
            recipe.seed,
            folder=folder,
            resume=saved,
            identity=what,
            on_epoch=on_epoch,
            interruption=interruption,
        )
        done = learner.progress
        remaining = recipe.fit.epochs - done.position.epoch
        # One that was killed after its last epoch has nothing left to learn.
        if remaining > 0 and not (recipe.fit.patience and done.history and done.stale >= recipe.fit.patience):
            _run(learner, recipe.fit, remaining, folder, progress=progress)
    model.load_state_dict(done.kept)
    return Fitted(model.cpu().eval(), done.scores, tuple(done.history), done.kept_epoch, done.compute_share)


def _check_heads(model: CnnLstm, corpus: Corpus) -> None:
    if model.config.heads != corpus.heads:
        raise ConfigError(
            f"a network with heads {[head.name for head in model.config.heads]}",
            expected=f"the heads of the data, {[head.name for head in corpus.heads]}, with their labels",
            fix="build the network with the heads of the corpus",
        )


class Bar(RichProgressBar):  # type: ignore[misc]  # skipped: its types break strict mode
    """One bar an epoch, on stderr."""

    def __init__(self) -> None:
        super().__init__(console_kwargs={"stderr": True})

    def get_metrics(self, *which: Any) -> dict[str, Any]:
        """Show the loss, and not the number of the log file."""
        return {name: value for name, value in super().get_metrics(*which).items() if name != "v_num"}


def _run(learner: Learner, config: FitConfig, epochs: int, folder: Path | None, *, progress: bool) -> None:
    callbacks: list[Callback] = [Bar()] if progress else []
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    world = int(os.environ.get("WORLD_SIZE", "1"))
    keep_freed_memory()
    with _quiet():
        trainer = lightning.Trainer(
            max_epochs=epochs,
            accelerator=config.accelerator,
            # Processes are torchrun's to start; without it there is one.
            devices=processes,
            num_nodes=world // processes,
            strategy="ddp" if world > 1 else "auto",
            precision="bf16-mixed" if _in_bf16(config) else "32-true",
            deterministic="warn" if config.deterministic else None,
            callbacks=callbacks,
            logger=_loggers(folder),
            log_every_n_steps=10,
            enable_progress_bar=progress,
            enable_checkpointing=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            reload_dataloaders_every_n_epochs=1,
            use_distributed_sampler=False,
            sync_batchnorm=world > 1 and torch.cuda.is_available(),
        )
        with _ctrl_c_stays_ctrl_c(), _opencv_in_one_thread():
            trainer.fit(learner)


@contextlib.contextmanager
def _ctrl_c_stays_ctrl_c() -> Iterator[None]:
    """Undo what Lightning makes of Ctrl-C: it leaves with exit code 1, deaf to any further one."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as left:
        if not isinstance(left.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, before)
        raise KeyboardInterrupt from left


@contextlib.contextmanager
def _opencv_in_one_thread() -> Iterator[None]:
    """End OpenCV's threads before workers are forked: a worker would wait for ever for threads that it has not got."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _in_bf16(config: FitConfig) -> bool:
    """Choose bfloat16 by `auto` where it is computed, and not imitated."""
    if config.precision != "auto":
        return config.precision == "bf16"
    if torch.cuda.is_available() and config.accelerator != "cpu":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able: dict[str, object] = getattr(
        torch.cpu, "get_capabilities", dict
    )()  # newer than the oldest torch that is supported
    return bool(able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16"))


def _loggers(folder: Path | None) -> list[Logger]:
    """Log to CSV and for TensorBoard, in `logs/version_N` of the folder: a resumed training begins a new version."""
    if folder is None:
        return []
    table = CSVLogger(folder, name="logs")
    return [table, TensorBoardLogger(folder, name="logs", version=table.version)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning to warnings that a user could act upon."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # A few workers render while the cores learn; Lightning would have us use as many workers as cores.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # Lightning 2.6 uses a pytree function that torch 2.13 deprecates; nothing a user could change.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
        # The meters have already added up the scores of all processes.
        warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
        yield
