"""Clips as training batches: every batch is a function of the seed, the epoch and its number alone.

So any number of workers gives the same batches, and a resumed training goes on with the batch it would have had.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from edge_cnnlstm.errors import DataError
from edge_cnnlstm.training.data.clip import UNKNOWN, Clip, ClipSet

Batch = tuple[Tensor, dict[str, Tensor]]
"""Frames, uint8 [clips, time, height, width, 3], and the truth about them, [clips, time, …]."""


class ClipBatches(Dataset[Batch]):
    """The batches of one epoch; item i is batch i.

    Shuffled, and without what is left over after the last whole batch, when `seed` is given; in order, complete and
    in batches of like size when it is None. Of each batch this process takes its share: clips `rank`, `rank + world`, …
    """

    def __init__(
        self,
        clips: ClipSet,
        batch: int,
        *,
        epoch: int = 0,
        frames: int | None = None,
        seed: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.clips = clips
        self.epoch = epoch
        self.frames = frames
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
        return collate([self.clips.clip(int(i), epoch=self.epoch, frames=self.frames) for i in members])


def collate(clips: Sequence[Clip]) -> Batch:
    """Stack clips, the shorter ones continued to the longest one's length."""
    time = max(len(clip.frames) for clip in clips)
    each = [continued(_batch_of_one(clip), time) for clip in clips]
    truths = [truth for _, truth in each]
    return torch.cat([frames for frames, _ in each]), {
        name: torch.cat([truth[name] for truth in truths]) for name in truths[0]
    }


def continued(batch: Batch, time: int) -> Batch:
    """Return a batch of `time` frames: beyond its own stands its last frame, about which nothing is known."""
    frames, truth = batch
    more = time - frames.shape[1]
    if not more:
        return batch
    longer = torch.cat([frames, frames[:, -1:].expand(-1, more, -1, -1, -1)], dim=1)
    return longer, {name: _with_unknown(values, more) for name, values in truth.items()}


def _batch_of_one(clip: Clip) -> Batch:
    # Copied: a clip may lie in memory that is shared between processes and read-only.
    return torch.tensor(clip.frames)[None], {name: torch.tensor(values)[None] for name, values in clip.truth.items()}


def _with_unknown(values: Tensor, more: int) -> Tensor:
    unknown = values.new_full(
        (len(values), more, *values.shape[2:]), torch.nan if values.is_floating_point() else UNKNOWN
    )
    return torch.cat([values, unknown], dim=1)
