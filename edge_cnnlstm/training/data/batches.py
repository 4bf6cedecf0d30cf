"""Clips as training batches: every batch is a function of the seed, the epoch and its number alone.

So any number of workers gives the same batches, and a resumed training goes on with the batch it would have had.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from edge_cnnlstm.errors import DataError
from edge_cnnlstm.training.data import missed
from edge_cnnlstm.training.data.clip import UNKNOWN, Clip, ClipSet


class Batch(NamedTuple):
    """Frames, uint8 [clips, time, height, width, 3], the truth about them, [clips, time, …], and when they came.

    `periods`, float32 [clips, time, 1], is the time since the clip's frame before, in periods of its frame rate: 0 for
    the first, 1 where no frame was missed.
    """

    frames: Tensor
    truth: dict[str, Tensor]
    periods: Tensor


class ClipBatches(Dataset[Batch]):
    """The batches of one epoch; item i is batch i.

    Shuffled, and without what is left over after the last whole batch, when `seed` is given; in order, complete and
    in batches of like size when it is None. Of each batch this process takes its share: clips `rank`, `rank + world`, …
    Up to a share of `missing` of a shuffled clip's frames are missed, others in each epoch: such clips are shorter.
    """

    def __init__(
        self,
        clips: ClipSet,
        batch: int,
        *,
        epoch: int = 0,
        frames: int | None = None,
        missing: float = 0.0,
        seed: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.clips = clips
        self.epoch = epoch
        self.frames = frames
        self.missing = missing
        self.seed = seed
        self.rank, self.world = rank, world
        count, batch = len(clips), min(batch, len(clips))
        if not count:
            raise DataError(
                "a set without clips", expected="one clip or more", fix="check the splits: one of them is empty"
            )
        if seed is None:
            self.batches = np.array_split(np.arange(count), -(-count // batch))
        else:
            order = np.random.default_rng([seed, epoch]).permutation(count)
            self.batches = np.split(order[: count - count % batch], count // batch)
        if min(map(len, self.batches)) < world:
            raise DataError(
                f"batches of {batch} out of {count} clips, for {world} processes",
                expected="a clip for each process in every batch",
                fix="raise the batch of fit.stages, give more clips, or start fewer processes",
            )

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(index)
        members = self.batches[index][self.rank :: self.world]
        clips = [self._thinned(int(member)) for member in members]
        return collate([clip for clip, _ in clips], [at for _, at in clips])

    def _thinned(self, index: int) -> tuple[Clip, NDArray[np.int64]]:
        """Return a clip, and which of its frames it still has."""
        clip = self.clips.clip(index, epoch=self.epoch, frames=self.frames)
        if self.seed is None or not self.missing:
            return clip, np.arange(len(clip.frames))
        # The last word tells these draws from those that the clip set makes for the same clip.
        rng = np.random.default_rng([self.seed, self.epoch, index, 2])
        at = missed.kept(len(clip.frames), self.missing, rng)
        return missed.thinned(clip, at), at


def collate(clips: Sequence[Clip], kept: Sequence[NDArray[np.int64]] | None = None) -> Batch:
    """Stack clips, the shorter ones continued to the longest one's length.

    `kept` are the indices of their frames in the video that they were taken from, where some of those were missed.
    """
    time = max(len(clip.frames) for clip in clips)
    indices = [np.arange(len(clip.frames)) for clip in clips] if kept is None else kept
    each = [continued(_batch_of_one(clip, at), time) for clip, at in zip(clips, indices, strict=True)]
    return Batch(
        torch.cat([batch.frames for batch in each]),
        {name: torch.cat([batch.truth[name] for batch in each]) for name in each[0].truth},
        torch.cat([batch.periods for batch in each]),
    )


def continued(batch: Batch, time: int) -> Batch:
    """Return a batch of `time` frames: beyond its own stands its last frame, about which nothing is known."""
    more = time - batch.frames.shape[1]
    if not more:
        return batch
    return Batch(
        torch.cat([batch.frames, batch.frames[:, -1:].expand(-1, more, -1, -1, -1)], dim=1),
        {name: _with_unknown(values, more) for name, values in batch.truth.items()},
        torch.cat([batch.periods, batch.periods.new_ones(len(batch.periods), more, 1)], dim=1),
    )


def _batch_of_one(clip: Clip, at: NDArray[np.int64]) -> Batch:
    # Copied: a clip may lie in memory that is shared between processes and read-only.
    return Batch(
        torch.tensor(clip.frames)[None],
        {name: torch.tensor(values)[None] for name, values in clip.truth.items()},
        torch.from_numpy(missed.periods(at))[None],
    )


def _with_unknown(values: Tensor, more: int) -> Tensor:
    unknown = values.new_full(
        (len(values), more, *values.shape[2:]), torch.nan if values.is_floating_point() else UNKNOWN
    )
    return torch.cat([values, unknown], dim=1)
