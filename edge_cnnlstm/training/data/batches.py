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
    """Stack clips; shorter ones are continued with their last frame, about which nothing is known."""
    time = max(len(clip.frames) for clip in clips)
    frames = np.stack([np.pad(clip.frames, _after(clip.frames, time), mode="edge") for clip in clips])
    truth = {}
    for name, first in clips[0].truth.items():
        missing = UNKNOWN if np.issubdtype(first.dtype, np.integer) else np.nan
        values = [np.pad(clip.truth[name], _after(clip.truth[name], time), constant_values=missing) for clip in clips]
        truth[name] = torch.from_numpy(np.stack(values))
    return torch.from_numpy(frames), truth


def _after(values: np.ndarray[tuple[int, ...], np.dtype[np.generic]], time: int) -> list[tuple[int, int]]:
    return [(0, time - len(values)), *[(0, 0)] * (values.ndim - 1)]
