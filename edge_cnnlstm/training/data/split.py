"""Split what no file splits: each class in its shares, and no group on two sides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.errors import DataError
from edge_cnnlstm.training.data.clip import SPLITS, Split
from edge_cnnlstm.training.data.layouts import Item

Items = NDArray[np.int64]


def split_items(
    items: Sequence[Item], labels: Sequence[str], shares: tuple[float, float, float], seed: int
) -> dict[Split, Items]:
    """Return the items of each split; splits that no item names are taken out of the training items.

    `shares` are those of train, validation and test. Equal items and seeds give equal splits. Raises DataError when a
    group stands on two sides, a split is empty, or a class is missing from the training items.
    """
    _refuse_parted_groups(items)
    splits: dict[Split, Items] = {
        split: np.array([i for i, item in enumerate(items) if item.split == split], np.int64) for split in SPLITS
    }
    absent = [split for split in SPLITS if split == "train" or not len(splits[split])]
    if len(absent) > 1:
        pool = splits["train"]
        wanted = np.array([shares[SPLITS.index(split)] for split in absent])
        strata = np.array([items[i].label for i in pool])
        groups = np.unique([items[i].group for i in pool], return_inverse=True)[1]
        side = _sides(strata, groups, wanted / wanted.sum(), np.random.default_rng(seed))
        splits |= {split: pool[side == number] for number, split in enumerate(absent)}
    _refuse_what_cannot_be_learnt(items, labels, splits)
    return splits


def group_numbers(items: Sequence[Item]) -> Items:
    """Return one number per item, equal where the groups are."""
    return np.unique([item.group for item in items], return_inverse=True)[1].astype(np.int64)


def _sides(strata: Items, groups: Items, shares: NDArray[np.float64], rng: np.random.Generator) -> Items:
    """Deal out groups, large ones first, each to the side that lacks most of its classes; the first is training.

    Of a class with an item for every side each side is owed one, however small its share.
    """
    totals = np.bincount(strata)
    owed = shares[:, None] * totals
    owed[1:] = np.where(totals >= len(shares), np.maximum(owed[1:], 1), owed[1:])
    owed[0] = totals - owed[1:].sum(axis=0)
    owed_in_all = owed.sum(axis=1)
    members = np.split(np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups))[:-1])
    side = np.empty(len(strata), np.int64)
    for group in sorted(rng.permutation(len(members)), key=lambda group: -len(members[group])):
        classes, counts = np.unique(strata[members[group]], return_counts=True)
        need = (owed[:, classes] * counts / totals[classes]).sum(axis=1) + owed_in_all * counts.sum() / len(strata)
        chosen = int(np.argmax(need))
        owed[chosen, classes] -= counts
        owed_in_all[chosen] -= counts.sum()
        side[members[group]] = chosen
    return side


def _refuse_parted_groups(items: Sequence[Item]) -> None:
    sides: dict[str, Item] = {}
    for item in items:
        other = sides.setdefault(item.group, item)
        if other.split != item.split:
            raise DataError(
                f"group {item.group!r} is in {other.split} ({other.name}) and in {item.split} ({item.name})",
                expected="every group in one split: what is scored on was never seen in training",
                fix="move the group to one side, or let data.shares make the split",
            )


def _refuse_what_cannot_be_learnt(items: Sequence[Item], labels: Sequence[str], splits: dict[Split, Items]) -> None:
    for split, members in splits.items():
        if not len(members):
            groups = len({item.group for item in items})
            raise DataError(
                f"no video for {split}: {len(items)} videos in {groups} groups",
                expected="one or more videos in each of train, validation and test",
                fix="add videos, or make the groups smaller",
            )
    missing = {item.label for item in items} - {items[i].label for i in splits["train"]}
    if missing:
        names = ", ".join(repr(labels[label]) for label in sorted(missing))
        raise DataError(
            f"no training video of {names}",
            expected="every class among the training videos",
            fix="add training videos of it, or remove the class",
        )
