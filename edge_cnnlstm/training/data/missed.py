"""Frames that a training clip lacks, as a stream lacks those that came while its network was still busy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.training.data.clip import Clip

LONGER = 3.0
"""By up to so many frames is the mean run of missed frames longer than it has to be."""


def kept(frames: int, most: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw which of a clip's frames are not missed, ascending; the first one never is.

    The clip's share of missed frames is drawn from 0..`most`, so that undisturbed streams are known too, and so is
    how long they are missed in a row: one by one, or in bursts as of a consumer that was held up (Gilbert 1960).
    """
    share, longer = rng.uniform(0, most), rng.uniform(0, LONGER)
    run = max(1.0, share / (1 - share)) + longer
    begins, goes_on = share / (1 - share) / run, 1 - 1 / run
    missed = False
    found = [0]
    for frame, chance in enumerate(rng.random(frames - 1), 1):
        missed = bool(chance < (goes_on if missed else begins))
        if not missed:
            found.append(frame)
    return np.array(found, np.int64)


def thinned(clip: Clip, at: NDArray[np.int64]) -> Clip:
    """Return a clip of these frames alone, with the truth about each."""
    return Clip(
        clip.frames[at],
        {name: values[at] for name, values in clip.truth.items()},
        {name: values[at] for name, values in clip.conditions.items()},
        clip.name,
    )


def periods(at: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return how many frame periods each of these frames came after the one before, [time, 1]; 0 for the first."""
    return np.diff(at, prepend=at[:1]).astype(np.float32)[:, None]
