"""A clip that was answered, and what every task's details are made with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.training.data.clip import Truth

ACROSS = range(-6, 10)
"""Frames relative to the first hidden one, over which answers are followed."""
WORST = 4

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Answered:
    """A clip without its frames, and what the network said of it, [time, …] each.

    `truth` is all that is known; `asked` is what counts: of a per-clip head, the last known frame alone.
    """

    name: str
    height: int
    width: int
    outputs: Mapping[str, NDArray[np.float32]]
    truth: Truth
    asked: Truth
    conditions: Mapping[str, NDArray[np.bool_]]

    @property
    def time(self) -> int:
        """How many frames the clip has."""
        return len(next(iter(self.outputs.values())))


def hidden_for(hidden: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return for how many frames the target has been hidden, this one included; 0 in sight. int64 [time]."""
    time = np.arange(len(hidden))
    return time - np.maximum.accumulate(np.where(hidden, -1, time))


def across(metric: str, values: Sequence[Floats], clips: Sequence[Answered]) -> dict[str, Any] | None:
    """Return the mean of `values` at each frame of `ACROSS`, clips lined up at their first hidden frame."""
    lined_up: dict[int, list[float]] = {at: [] for at in ACROSS}
    for clip, row in zip(clips, values, strict=True):
        hidden = clip.conditions.get("hidden")
        if hidden is None or not hidden.any():
            continue
        for at, value in enumerate(row.tolist(), -int(hidden.argmax())):
            if at in lined_up:
                lined_up[at].append(value)
    if not any(lined_up.values()):
        return None
    return {"frames": list(ACROSS), metric: [mean(found) for found in lined_up.values()]}


def worst(losses: Sequence[float]) -> list[dict[str, Any]]:
    """Return the clips that cost most, worst first; those about which nothing is known cost NaN and are left out."""
    order = np.argsort(-np.array(losses, float), kind="stable")[:WORST].tolist()
    return [{"clip": at, "loss": float(losses[at])} for at in order if not np.isnan(losses[at])]


def mean(values: Any, *, missing: Any = None) -> Any:
    """Return the mean of what is known."""
    values = np.asarray(values, float)
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else missing


def plain(values: Any) -> Any:
    """Return numbers as JSON holds them: rounded, and None for NaN."""
    if isinstance(values, np.ndarray):
        return [plain(value) for value in values]
    return None if np.isnan(values) else round(float(values), 6)
