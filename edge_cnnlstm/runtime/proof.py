"""Ask a backend to prove itself: replay the golden rollout and compare every output and the final state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_cnnlstm.bundle.golden import Arrays, Golden
from edge_cnnlstm.errors import BackendError
from edge_cnnlstm.runtime.backends.base import Backend


@dataclass(frozen=True, slots=True)
class Deviation:
    """The largest differences over a rollout, each relative to its tensor's largest magnitude, and the worst tensor."""

    output: float
    state: float
    worst: str

    @property
    def largest(self) -> float:
        """The larger of both."""
        return max(self.output, self.state)


def replay(backend: Backend, golden: Golden) -> dict[str, list[np.ndarray]]:
    """Run the rollout and return each output over time, and the final state under its output's name.

    The backend is left reset.
    """
    course: dict[str, list[np.ndarray]] = {output.name: [] for output in backend.spec.outputs}
    backend.reset()
    infer: Any = backend.infer  # not every backend can be told dt yet
    for at, (pixels, reset) in enumerate(zip(golden.frames, golden.resets, strict=True)):
        if reset:
            backend.reset()
        told = () if golden.dt is None else (float(golden.dt[at]),)
        for name, value in infer(pixels, *told).items():
            course[name].append(value[0].copy())
    memory = backend.snapshot()
    for pair in backend.spec.states:
        course[pair.output] = [memory[pair.input]]
    backend.reset()
    return course


def deviation(backend: Backend, golden: Golden, expected: Arrays) -> Deviation:
    """Return how far a backend strays from what was expected; a NaN counts as infinitely far."""
    course = replay(backend, golden)
    apart = {name: _apart(np.stack(course[name]), np.asarray(expected[name])) for name in expected}
    states = {pair.output for pair in backend.spec.states}
    return Deviation(
        output=max(value for name, value in apart.items() if name not in states),
        state=max((value for name, value in apart.items() if name in states), default=0.0),
        worst=max(apart, key=apart.__getitem__),
    )


def prove(backend: Backend, golden: Golden, expected: Arrays, tolerance: float) -> Deviation:
    """Raise BackendError unless the backend reproduces the rollout within `tolerance`."""
    found = deviation(backend, golden, expected)
    if not found.largest <= tolerance:
        raise BackendError(
            f"{backend.name} strays from the golden rollout by {found.largest:.3g}, most in {found.worst!r}",
            expected=f"at most {tolerance:.3g}",
            fix="this engine does not compute what was trained, on this machine: choose another backend or graph, "
            "and report it with the output of `edge-cnnlstm verify`",
        )
    return found


def _apart(found: np.ndarray, expected: np.ndarray) -> float:
    difference = np.abs(found.reshape(expected.shape) - expected)
    scale = float(np.abs(expected).max()) or 1.0
    return float("inf") if np.isnan(difference).any() else float(difference.max()) / scale
