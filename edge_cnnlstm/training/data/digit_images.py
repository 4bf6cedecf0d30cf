"""The real images under every synthetic set: scikit-learn's 1,797 handwritten digits.

They come from the UCI set Optical Recognition of Handwritten Digits. They are split by image, so that no image seen
in training is ever scored on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.training.config import HeadConfig
from edge_cnnlstm.training.data.clip import SPLITS, Clip, Split

LABELS = tuple("0123456789")
SPLIT_SHARES = (0.6, 0.2, 0.2)
SPLIT_SEED = 20

Image = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Digits:
    """Images, float32 [n, 8, 8] in 0..1, and their labels, int64 [n]; both read-only."""

    images: Image
    labels: NDArray[np.int64]

    def only(self, items: NDArray[np.int64]) -> Digits:
        """Return some of them."""
        return Digits(self.images[items], self.labels[items])


@cache
def all_digits() -> Digits:
    """Return every digit image, in the order of scikit-learn."""
    data = load_digits()
    images, labels = (data.images / 16).astype(np.float32), data.target.astype(np.int64)
    images.flags.writeable = labels.flags.writeable = False
    return Digits(images, labels)


@cache
def split_items(split: Split) -> NDArray[np.int64]:
    """Return the indices of one split's images; stratified by label, and no seed changes them.

    Raises ConfigError for an unknown split.
    """
    if split not in SPLITS:
        raise ConfigError(f"split {split!r}", expected=f"one of {', '.join(SPLITS)}", fix="choose one of these")
    rng = np.random.default_rng(SPLIT_SEED)
    chosen = []
    for label in range(len(LABELS)):
        members = rng.permutation(np.flatnonzero(all_digits().labels == label))
        cuts = np.rint(np.cumsum(SPLIT_SHARES)[:-1] * len(members)).astype(int)
        chosen.append(np.split(members, cuts)[SPLITS.index(split)])
    items = np.sort(np.concatenate(chosen))
    items.flags.writeable = False
    return items


Render = Callable[[np.random.Generator, Digits, int | None], Clip]
"""Draws one clip of these digits, of that many frames or of the set's own number."""


@dataclass(frozen=True, slots=True)
class RenderedClips:
    """Clips drawn from some digit images; a training set draws new ones in every epoch."""

    heads: tuple[HeadConfig, ...]
    render: Render
    digits: Digits
    count: int
    seed: int
    training: bool

    def __len__(self) -> int:
        return self.count

    def clip(self, index: int, *, epoch: int = 0, frames: int | None = None) -> Clip:
        rng = np.random.default_rng([self.training, self.seed, epoch if self.training else 0, index])
        return self.render(rng, self.digits, frames)


class DigitCorpus:
    """The digit images as the items of a corpus; `describe` says what else its clips depend on."""

    __slots__ = ()
    describe: str

    @property
    def splits(self) -> Mapping[Split, NDArray[np.int64]]:
        return {split: split_items(split) for split in SPLITS}

    @property
    def strata(self) -> NDArray[np.int64]:
        return all_digits().labels

    @property
    def groups(self) -> NDArray[np.int64]:
        """Each image is a group: who wrote it is not recorded."""
        return np.arange(len(all_digits().labels))

    def digest(self) -> str:
        described = hashlib.sha256(self.describe.encode())
        described.update(all_digits().images.tobytes() + all_digits().labels.tobytes())
        return described.hexdigest()


@dataclass(frozen=True, slots=True)
class RenderedCorpus(DigitCorpus):
    """The digit images as items, and how clips are drawn from them."""

    heads: tuple[HeadConfig, ...]
    render: Render
    training_clips: int
    held_out_clips: int
    seed: int
    describe: str

    def clips(self, items: NDArray[np.int64], *, training: bool) -> RenderedClips:
        count = self.training_clips if training else self.held_out_clips
        return RenderedClips(self.heads, self.render, all_digits().only(items), count, self.seed, training)
