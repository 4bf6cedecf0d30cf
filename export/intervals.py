"""When the frames of a rollout come: mostly one after the other, but some after others that were missed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.training.config import ModelConfig
from edge_cnnlstm.training.model import MOST_MISSED

Intervals = NDArray[np.float32]
"""Seconds since each stream's last frame, float32 [steps, streams]; 0 for the first after a reset."""

SOME, MANY = 1 / 8, 1 / 32
"""Shares of the frames that come two to eight periods after the last, and after more than a network tells apart."""


def intervals(config: ModelConfig, resets: NDArray[np.bool_], streams: int = 1) -> Intervals | None:
    """Return the course of dt for a rollout with these resets, bool [steps]; None for a network that does not ask.

    Always the same draw, so a shorter course is the beginning of a longer one.
    """
    if not config.dt_input:
        return None
    which, many = np.moveaxis(np.random.default_rng(0).random((len(resets), streams, 2)), 2, 0)
    periods = np.select(
        [which < MANY, which < MANY + SOME], [MOST_MISSED + 2 + np.floor(32 * many), 2 + np.floor(7 * many)], 1
    )
    periods[resets] = periods[:1] = 0
    return np.asarray(periods / config.frame_rate, np.float32)
