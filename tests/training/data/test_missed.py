"""Frames that are missed in training are really missed, and what is said of the others stays true."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from edge_cnnlstm.training.config import HeadConfig, NetworkConfig
from edge_cnnlstm.training.data.batches import Batch, ClipBatches
from edge_cnnlstm.training.data.clip import UNKNOWN, Clip, ClipSet
from edge_cnnlstm.training.data.corpora import open_corpus
from edge_cnnlstm.training.data.missed import kept, periods, thinned
from edge_cnnlstm.training.recipe import recipe_from

HEADS = (HeadConfig(name="kind", task="classify", labels=("a", "b", "c")),)
TIME = 40


@dataclass
class Numbered:
    """Frame t of each clip is grey of level t, and is labelled t."""

    count: int = 12
    time: int = TIME
    heads: tuple[HeadConfig, ...] = HEADS

    def __len__(self) -> int:
        return self.count

    def clip(self, index: int, *, epoch: int = 0, frames: int | None = None) -> Clip:
        time = np.arange(frames or self.time)
        return Clip(np.tile(time.astype(np.uint8)[:, None, None, None], (1, 2, 2, 3)), {"kind": time})


def levels(batch: Batch) -> torch.Tensor:
    return batch.frames[:, :, 0, 0, 0].long()


def equal(first: Batch, second: Batch) -> bool:
    return (
        torch.equal(first.frames, second.frames)
        and torch.equal(first.periods, second.periods)
        and all(
            torch.equal(values.nan_to_num(-1), second.truth[name].nan_to_num(-1))
            for name, values in first.truth.items()
        )
    )


def test_the_truth_and_the_time_belong_to_the_frames_that_are_left() -> None:
    batch = ClipBatches(Numbered(), 12, missing=0.8, seed=3)[0]
    known = batch.truth["kind"] != UNKNOWN

    assert (levels(batch)[known] == batch.truth["kind"][known]).all()
    for clip in range(12):
        shown, since = levels(batch)[clip][known[clip]], batch.periods[clip, :, 0]
        assert shown[0] == since[0] == 0
        assert since.cumsum(0)[known[clip]].tolist() == shown.tolist()
        assert (since[~known[clip]] == 1).all()
    assert known.sum() < 12 * TIME * 0.8


def test_validation_misses_nothing_nor_does_training_unless_it_is_asked_to() -> None:
    for batches in (ClipBatches(Numbered(), 4, missing=0.9), ClipBatches(Numbered(), 4, seed=0)):
        assert (levels(batches[0]) == torch.arange(TIME)).all()
        assert batches[0].periods[..., 0].tolist() == [[0, *[1] * (TIME - 1)]] * 4


def test_each_epoch_misses_others_and_the_seed_decides_which() -> None:
    first, again, later, other = (
        ClipBatches(Numbered(1), 1, missing=0.6, seed=seed, epoch=epoch)[0]
        for seed, epoch in ((3, 0), (3, 0), (3, 1), (4, 0))
    )

    assert equal(first, again)
    assert not torch.equal(levels(first), levels(later))
    assert not torch.equal(levels(first), levels(other))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_same_clips(world: int) -> None:
    whole = ClipBatches(Numbered(), 6, missing=0.7, seed=1)[1]
    known = (whole.truth["kind"] != UNKNOWN).sum(1)

    for rank in range(world):
        part = ClipBatches(Numbered(), 6, missing=0.7, seed=1, rank=rank, world=world)[1]
        for own, clip in enumerate(range(rank, 6, world)):
            assert torch.equal(levels(part)[own, : known[clip]], levels(whole)[clip, : known[clip]])


def test_a_curriculum_cuts_a_clip_before_frames_are_missed() -> None:
    batch = ClipBatches(Numbered(), 12, frames=5, missing=0.9, seed=0)[0]

    assert levels(batch).max() <= 4
    assert (batch.truth["kind"] == UNKNOWN).any()


def test_a_single_image_is_never_missed() -> None:
    assert ClipBatches(Numbered(time=1), 12, missing=0.9, seed=0)[0].frames.shape[1] == 1


@pytest.mark.parametrize("most", [0.3, 0.7, 0.95])
def test_shares_reach_from_none_to_the_most_in_bursts_and_one_by_one(most: float) -> None:
    time = 2000
    found = [kept(time, most, np.random.default_rng(seed)) for seed in range(200)]
    shares = np.array([1 - len(at) / time for at in found])
    runs = [np.diff(at)[np.diff(at) > 1] - 1 for at in found]
    means = np.array([run.mean() for run in runs if len(run) > 20])

    assert shares.min() < 0.1 * most
    assert 0.85 * most < shares.max() < 1.1 * most
    assert shares.mean() == pytest.approx(most / 2, rel=0.15)
    assert means.min() < 1.4
    assert means.max() > 3


def test_conditions_and_the_name_go_with_the_frames() -> None:
    clip = Clip(np.zeros((4, 2, 2, 3), np.uint8), {}, {"hidden": np.array([False, True, False, True])}, "one")
    at = np.array([0, 3])

    assert thinned(clip, at).conditions["hidden"].tolist() == [False, True]
    assert thinned(clip, at).name == "one"
    assert periods(at).tolist() == [[0], [3]]


def of_kind(data: dict[str, Any]) -> ClipSet:
    recipe = recipe_from({"model": {"height": 24, "width": 32}, "data": data})
    corpus = open_corpus(recipe.data, NetworkConfig.model_validate({"height": 24, "width": 32}), 0)
    return corpus.clips(corpus.splits["train"], training=True)


@pytest.mark.parametrize(
    "data",
    [
        {"kind": "occluded-digits", "clips": 4, "ask": ["digit", "target", "velocity"], "frames": 10},
        {"kind": "gestures", "clips": 4, "frames": 10},
        {"kind": "recall", "clips": 4, "frames": 10},
        {"kind": "video-folder", "frames": 10, "augment": {"drop": 0.3, "speed": 0.3, "colour": 0.2}},
    ],
)
def test_every_kind_of_clips_loses_frames_and_nothing_else(data: dict[str, Any], classes: Path) -> None:
    clips = of_kind({**data, "root": classes} if data["kind"] == "video-folder" else data)
    batches = ClipBatches(clips, 4, missing=0.8, seed=5, epoch=2)
    helped = DataLoader(batches, batch_size=None, num_workers=2)

    assert all(equal(batch, same) for batch, same in zip(batches, helped, strict=True))
    for index in range(4):
        whole = clips.clip(index, epoch=2)
        clip, at = batches._thinned(index)
        np.testing.assert_array_equal(clip.frames, whole.frames[at])
        assert clip.truth.keys() == whole.truth.keys()
        for name, values in whole.truth.items():
            np.testing.assert_array_equal(clip.truth[name], values[at])
    assert max(batch.periods.max() for batch in batches) > 1
