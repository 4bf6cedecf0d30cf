"""What networks learn from: a clip and the truth about it, sets of clips, and the corpus that they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.training.config import HeadConfig

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

UNKNOWN = -1
"""The label of a frame whose class is not known. Unknown numbers are NaN. Neither is learnt from nor scored."""

Truth = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Clip:
    """A moment of video and the truth about each of its frames.

    `frames` uint8 [time, height, width, 3], RGB, at the network's size.

    `truth`, by head: `classify` as `<head>`, int64 [time], UNKNOWN where not known; `regress` as `<head>`, float32
    [time, values] in the values' own units; `track` as `<head>_box`, float32 [time, 4], centre x, centre y, width,
    height in 0..1 of the frame, and `<head>_visible`, float32 [time], 1 in sight, 0 hidden; NaN where not known.

    `conditions` names the frames by what makes them easy or hard, bool [time] each: scores are also given for each
    condition alone. `name` is what reports call the clip.
    """

    frames: NDArray[np.uint8]
    truth: Truth
    conditions: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    name: str = ""


class ClipSet(Protocol):
    """Clips to learn from or to be scored on."""

    @property
    def heads(self) -> tuple[HeadConfig, ...]:
        """What can be asked about these clips."""

    def __len__(self) -> int:
        """Return how many clips make an epoch."""

    def clip(self, index: int, *, epoch: int = 0, frames: int | None = None) -> Clip:
        """Return clip `index`, the same for equal arguments whatever was asked before, in any process.

        A training set renders or augments anew in each epoch; a set to be scored on ignores it. `frames` cuts the
        clip to its first frames, as a curriculum begins with short clips.
        """


@runtime_checkable
class Corpus(Protocol):
    """Items, such as videos or pictures of digits, that are split into training and held-out ones as a whole.

    Clips are made of items. No item, and no group of items, ever stands on both sides of a split.
    """

    @property
    def heads(self) -> tuple[HeadConfig, ...]:
        """What can be asked about the clips."""

    @property
    def splits(self) -> Mapping[Split, NDArray[np.int64]]:
        """The items of the standard split."""

    @property
    def strata(self) -> NDArray[np.int64]:
        """One class per item: every fold of a cross-validation gets its share of each."""

    @property
    def groups(self) -> NDArray[np.int64]:
        """One group per item, such as the person who is seen: no group is ever in two folds."""

    def clips(self, items: NDArray[np.int64], *, training: bool) -> ClipSet:
        """Return the clips made of these items: shuffled, rendered or augmented anew each epoch when `training`."""

    def digest(self) -> str:
        """Return the SHA-256 of what the clips are made of, so that two runs can tell if they saw the same data."""
