"""Clips as training batches: the curriculum decides how long and how many, the data set renders them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from edge_cnnlstm.training.data.occluded_digits import Clip, Scene, Split, render_clip
from edge_cnnlstm.training.tasks import Truth


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a curriculum: so many batches of so many clips of so many frames."""

    frames: int
    clips: int
    batches: int


class ClipBatches(Dataset[tuple[Tensor, Truth]]):
    """Batches of occluded-digit clips, stage after stage; no clip is ever repeated.

    Item i is batch i: frames, uint8 [clips, time, height, width, 3], and the truth about them. Each batch is
    rendered when it is asked for, so any number of workers gives the same batches.
    """

    def __init__(self, split: Split, seed: int, side: int, curriculum: tuple[Stage, ...]) -> None:
        self.split: Split = split
        self.seed = seed
        self.side = side
        self.curriculum = curriculum

    def __len__(self) -> int:
        return sum(stage.batches for stage in self.curriculum)

    def __getitem__(self, batch: int) -> tuple[Tensor, Truth]:
        first_clip = 0
        for stage in self.curriculum:
            if batch < stage.batches:
                scene = Scene(stage.frames, self.side, self.side)
                start = first_clip + batch * stage.clips
                clips = [render_clip(self.split, self.seed, start + i, scene) for i in range(stage.clips)]
                return batch_of(clips, scene)
            batch -= stage.batches
            first_clip += stage.batches * stage.clips
        raise IndexError(batch)


def batch_of(clips: list[Clip], scene: Scene) -> tuple[Tensor, Truth]:
    """Stack clips into frames, uint8 [clips, time, height, width, 3], and truth with boxes in 0..1."""
    size = np.array([scene.width, scene.height, scene.width, scene.height], np.float32)
    return torch.from_numpy(np.stack([clip.frames for clip in clips])), Truth(
        boxes=torch.from_numpy(np.stack([clip.boxes for clip in clips]) / size),
        visible=torch.from_numpy(np.stack([clip.visible for clip in clips])),
        labels=torch.tensor([clip.label for clip in clips]),
    )
