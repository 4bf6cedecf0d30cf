"""Ask a backend to prove itself: replay the golden rollout and compare every output and the final state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edge_cnnlstm.bundle.golden import Arrays, Golden
from edge_cnnlstm.errors import BackendError
from edge_cnnlstm.runtime.backends.base import Backend, advance
from edge_cnnlstm.spec import ModelSpec


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
    """Run the rollout on every stream of a backend at once.

    Returns each output over time, [streams, …] a step, and the final state under its output's name, [layers, streams,
    …]. The backend is left reset.
    """
    course: dict[str, list[np.ndarray]] = {output.name: [] for output in backend.spec.outputs}
    backend.state.reset()
    times = np.zeros(len(golden.frames)) if golden.dt is None else golden.dt
    for pixels, reset, dt in zip(golden.frames, golden.resets, times, strict=True):
        if reset:
            backend.state.reset()
        for name, value in advance(backend, pixels, float(dt)).items():
            course[name].append(value.copy())
    memory = backend.state.snapshot()
    for pair in backend.spec.states:
        course[pair.output] = [memory[pair.input]]
    backend.state.reset()
    return course


def deviation(backend: Backend, golden: Golden, expected: Arrays) -> Deviation:
    """Return how far a backend strays from what was expected; a NaN counts as infinitely far."""
    return compare(replay(backend, golden), expected, backend.spec)


def compare(course: Mapping[str, Sequence[np.ndarray]], expected: Arrays, spec: ModelSpec) -> Deviation:
    """Return how far a course, as `replay` returns it, is from what was expected; a NaN counts as infinitely far."""
    states = {pair.output for pair in spec.states}
    apart = {
        name: _apart(course[name][0], values) if name in states else _apart(np.stack(course[name]), values[:, None])
        for name, values in expected.items()
    }
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
            "build a TensorRT plan again (`edge-cnnlstm build --again`), or report it with the output of "
            "`edge-cnnlstm verify`",
        )
    return found


def _apart(found: np.ndarray, expected: np.ndarray) -> float:
    difference = np.abs(found - expected)
    scale = float(np.abs(expected).max()) or 1.0
    return float("inf") if np.isnan(difference).any() else float(difference.max()) / scale
