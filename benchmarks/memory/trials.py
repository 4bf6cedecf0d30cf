"""Trains every cell of a plan, some at a time, each on a core of its own; what is done is kept and never done again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.memory import networks
from benchmarks.memory.plan import TASKS, Cell
from edge_cnnlstm.training.config import HeadConfig
from edge_cnnlstm.training.data.batches import collate
from edge_cnnlstm.training.data.clip import Clip, ClipSet, Corpus, Split
from edge_cnnlstm.training.data.corpora import open_corpus
from edge_cnnlstm.training.fit import fit
from edge_cnnlstm.training.metrics import Meters
from edge_cnnlstm.training.model import CnnLstm

Trial = dict[str, Any]
"""What one training came to, as JSON data."""

BATCH = 50


def run(cells: Sequence[Cell], folder: Path, processes: int, done: Callable[[], None]) -> list[Trial]:
    """Return the trial of every cell, in order; `done` is called as each becomes known.

    A trial that `folder` holds is read; the others are trained, `processes` at a time, and written there at once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [cell for cell in cells if not (folder / cell.file).is_file()]
    for _ in range(len(cells) - len(missing)):
        done()
    # Forked processes would share the locks of this one's thread pools.
    executor = ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    )
    try:
        for future in as_completed([executor.submit(_keep, cell, folder) for cell in missing]):
            future.result()
            done()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
    return [json.loads((folder / cell.file).read_text()) for cell in cells]


def _keep(cell: Cell, folder: Path) -> None:
    text = json.dumps(trial(cell), indent=2) + "\n"
    unfinished = folder / f".{cell.file}.{os.getpid()}"
    unfinished.write_text(text)
    unfinished.replace(folder / cell.file)


def trial(cell: Cell) -> Trial:
    """Train one network on the training split, and score it on the test split."""
    recipe, task = cell.recipe, TASKS[cell.set]
    corpus = open_corpus(recipe.data, recipe.model, recipe.seed)
    torch.manual_seed(recipe.seed)
    model = networks.build(cell.network, recipe.model, corpus.heads)
    began = time.monotonic()
    fitted = fit(recipe, corpus=drawn_once(corpus, (cell.set, cell.seed)), model=model, progress=False)
    seconds = time.monotonic() - began
    enough = recipe.data.model_copy(update={"held_out": cell.test_clips})
    test = open_corpus(enough, recipe.model, recipe.seed)
    scores = test_scores(fitted.model, test.clips(test.splits["test"], training=False))
    return {
        "set": cell.set,
        "network": cell.network,
        "seed": cell.seed,
        "accuracy": scores[task.score],
        "chance": 1 / next(len(head.labels) for head in corpus.heads if head.name == task.head),
        "scores": scores,
        "macs_per_frame": networks.macs_per_frame(model),
        "parameters": networks.parameters(model),
        "training_loss": fitted.history[-1]["train_loss"],
        "training_seconds": round(seconds, 1),
        "data_digest": corpus.digest(),
    }


@dataclass
class DrawnClips:
    """Training clips that are drawn when first asked for, and kept for the next network of this set and seed."""

    clips: ClipSet
    kept: dict[tuple[int, int, int | None], Clip]

    @property
    def heads(self) -> tuple[HeadConfig, ...]:
        return self.clips.heads

    def __len__(self) -> int:
        return len(self.clips)

    def clip(self, index: int, *, epoch: int = 0, frames: int | None = None) -> Clip:
        key = (index, epoch, frames)
        if key not in self.kept:
            self.kept[key] = self.clips.clip(index, epoch=epoch, frames=frames)
        return self.kept[key]


@dataclass
class DrawnCorpus:
    """A corpus whose training clips are `DrawnClips`."""

    corpus: Corpus
    kept: dict[tuple[int, int, int | None], Clip]

    @property
    def heads(self) -> tuple[HeadConfig, ...]:
        return self.corpus.heads

    @property
    def splits(self) -> Mapping[Split, NDArray[np.int64]]:
        return self.corpus.splits

    @property
    def strata(self) -> NDArray[np.int64]:
        return self.corpus.strata

    @property
    def groups(self) -> NDArray[np.int64]:
        return self.corpus.groups

    def clips(self, items: NDArray[np.int64], *, training: bool) -> ClipSet:
        clips = self.corpus.clips(items, training=training)
        return DrawnClips(clips, self.kept) if training else clips

    def digest(self) -> str:
        return self.corpus.digest()


_kept: dict[tuple[str, int], dict[tuple[int, int, int | None], Clip]] = {}
"""This process's training clips of the set and seed at hand: drawing them takes a quarter of a training's time."""


def drawn_once(corpus: Corpus, which: tuple[str, int]) -> Corpus:
    """Return a corpus that draws each training clip once for all networks of a set and seed, one after the other."""
    if which not in _kept:
        _kept.clear()
        _kept[which] = {}
    return DrawnCorpus(corpus, _kept[which])


@torch.inference_mode()
def test_scores(model: CnnLstm, clips: ClipSet) -> dict[str, float]:
    """Return every score of a network over these clips, each of which it meets with an empty memory."""
    meters = Meters(model.config.heads, model.config.height, model.config.width)
    for first in range(0, len(clips), BATCH):
        batch = [clips.clip(index) for index in range(first, min(first + BATCH, len(clips)))]
        frames, truth, _ = collate(batch)
        outputs, _ = model.sequence(frames, model.initial_state(len(batch)))
        conditions = {
            name: torch.stack([torch.from_numpy(clip.conditions[name]) for clip in batch])
            for name in batch[0].conditions
        }
        meters.update(outputs, truth, conditions)
    return meters.compute()
