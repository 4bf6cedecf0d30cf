from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np
import pytest
import torch

from edge_cnnlstm.errors import DataError
from edge_cnnlstm.training.config import HeadConfig
from edge_cnnlstm.training.data.batches import ClipBatches, collate
from edge_cnnlstm.training.data.clip import UNKNOWN, Clip

HEADS = (HeadConfig(name="kind", task="classify", labels=("a", "b", "c")),)


@dataclass
class Counted:
    """Clip i shows the number i, and the epoch in its label's place."""

    count: int
    heads: tuple[HeadConfig, ...] = HEADS

    def __len__(self) -> int:
        return self.count

    def clip(self, index: int, *, epoch: int = 0, frames: int | None = None) -> Clip:
        time = frames or 4
        return Clip(np.full((time, 2, 2, 3), index, np.uint8), {"kind": np.full(time, epoch, np.int64)})


def shown(batches: ClipBatches) -> list[list[int]]:
    return [batches[index][0][:, 0, 0, 0, 0].tolist() for index in range(len(batches))]


def test_an_epoch_shows_every_clip_once_and_each_epoch_in_another_order() -> None:
    first, second = (ClipBatches(Counted(12), 4, epoch=epoch, seed=3) for epoch in (0, 1))

    assert sorted(chain(*shown(first))) == sorted(chain(*shown(second))) == list(range(12))
    assert shown(first) != shown(second)
    assert shown(first) == shown(ClipBatches(Counted(12), 4, epoch=0, seed=3))
    assert second[0][1]["kind"].unique().tolist() == [1]


def test_training_leaves_out_what_is_left_over_and_scoring_does_not() -> None:
    assert [len(batch) for batch in shown(ClipBatches(Counted(10), 4, seed=0))] == [4, 4]
    assert shown(ClipBatches(Counted(10), 4)) == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_a_set_smaller_than_a_batch_is_one_batch() -> None:
    assert [len(batch) for batch in shown(ClipBatches(Counted(3), 32, seed=0))] == [3]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_each_batch_among_them(world: int) -> None:
    whole = shown(ClipBatches(Counted(12), 6, seed=1))
    parts = [shown(ClipBatches(Counted(12), 6, seed=1, rank=rank, world=world)) for rank in range(world)]

    for index, batch in enumerate(whole):
        assert sorted(chain(*(part[index] for part in parts))) == sorted(batch)
        assert {len(part[index]) for part in parts} == {6 // world}


def test_a_batch_that_does_not_go_round_is_refused() -> None:
    with pytest.raises(DataError, match="3 processes"):
        ClipBatches(Counted(12), 2, world=3)
    with pytest.raises(DataError, match="3 processes"):
        ClipBatches(Counted(2), 32, world=3)


def test_short_clips_go_on_with_their_last_frame_about_which_nothing_is_known() -> None:
    long = Clip(
        np.ones((3, 2, 2, 3), np.uint8),
        {"kind": np.array([1, 1, 1]), "target_box": np.ones((3, 4), np.float32)},
    )
    short = Clip(
        np.full((1, 2, 2, 3), 7, np.uint8),
        {"kind": np.array([2]), "target_box": np.ones((1, 4), np.float32)},
    )

    frames, truth, periods = collate([long, short])

    assert frames.shape == (2, 3, 2, 2, 3)
    assert (frames[1] == 7).all()
    assert periods[..., 0].tolist() == [[0, 1, 1], [0, 1, 1]]
    assert truth["kind"].tolist() == [[1, 1, 1], [2, UNKNOWN, UNKNOWN]]
    assert torch.isnan(truth["target_box"][1, 1:]).all()


def test_a_batch_beyond_the_last_does_not_exist() -> None:
    with pytest.raises(IndexError):
        ClipBatches(Counted(4), 2)[2]
