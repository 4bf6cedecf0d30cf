from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_cnnlstm.errors import DataError
from edge_cnnlstm.training.data.clip import Split
from edge_cnnlstm.training.data.layouts import Item
from edge_cnnlstm.training.data.split import group_numbers, split_items

SHARES = (0.7, 0.15, 0.15)
LABELS = ("a", "b", "c")


def item(number: int, label: int = 0, group: str | None = None, split: Split = "train") -> Item:
    return Item(Path(str(number)), str(number), label, str(number) if group is None else group, split)


def test_each_class_is_split_in_its_shares() -> None:
    items = [item(number, label=number % 3) for number in range(300)]
    splits = split_items(items, LABELS, SHARES, seed=1)
    strata = np.array([each.label for each in items])
    assert {split: np.bincount(strata[members]).tolist() for split, members in splits.items()} == {
        "train": [70] * 3,
        "validation": [15] * 3,
        "test": [15] * 3,
    }
    assert sorted(np.concatenate(list(splits.values())).tolist()) == list(range(300))


def test_the_seed_alone_decides_who_goes_where() -> None:
    items = [item(number, label=number % 3) for number in range(60)]
    one, again, other = (split_items(items, LABELS, SHARES, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(one[split], again[split]) for split in one)
    assert any(not np.array_equal(one[split], other[split]) for split in one)


@pytest.mark.parametrize("each", [3, 4, 5, 7, 20])
def test_small_classes_reach_every_side(each: int) -> None:
    items = [item(number, label=number % 3) for number in range(3 * each)]
    splits = split_items(items, LABELS, SHARES, seed=0)
    for members in splits.values():
        assert {items[i].label for i in members} == {0, 1, 2}
    assert len(splits["train"]) >= len(splits["test"])


def test_groups_are_never_parted_and_shares_are_met_as_nearly_as_they_allow() -> None:
    rng = np.random.default_rng(0)
    items = [item(number, int(rng.integers(3)), group=f"person {rng.integers(40)}") for number in range(800)]
    splits = split_items(items, LABELS, SHARES, seed=4)
    groups = group_numbers(items)
    sides = [set(groups[members].tolist()) for members in splits.values()]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    assert [len(members) / 800 for members in splits.values()] == pytest.approx(SHARES, abs=0.03)


def test_a_split_that_no_file_gives_is_taken_from_the_training_items_alone() -> None:
    items = [item(number, number % 2, split="train" if number < 40 else "test") for number in range(50)]
    splits = split_items(items, LABELS, (0.6, 0.2, 0.2), seed=0)
    assert splits["test"].tolist() == list(range(40, 50))
    assert (len(splits["train"]), len(splits["validation"])) == (30, 10)
    assert max(splits["validation"]) < 40


def test_given_splits_are_left_as_they_are() -> None:
    given: list[Split] = ["train", "validation", "test"]
    items = [item(number, number % 2, split=given[number // 4]) for number in range(12)]
    splits = split_items(items, LABELS, SHARES, seed=0)
    assert [members.tolist() for members in splits.values()] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_a_group_on_two_sides_is_refused_by_name() -> None:
    items = [item(0, group="anna"), item(1, group="ben"), item(2, group="anna", split="test")]
    with pytest.raises(DataError, match=r"'anna' is in train \(0\) and in test \(2\)"):
        split_items(items, LABELS, SHARES, seed=0)


def test_too_few_groups_for_three_sides_are_refused() -> None:
    items = [item(number, group="the one person") for number in range(30)]
    with pytest.raises(DataError, match="30 videos in 1 groups"):
        split_items(items, LABELS, SHARES, seed=0)


def test_a_class_that_is_never_trained_on_is_refused_by_name() -> None:
    items = [item(number, label=0) for number in range(10)] + [item(10, label=2, split="test")]
    with pytest.raises(DataError, match="no training video of 'c'"):
        split_items(items, LABELS, SHARES, seed=0)
