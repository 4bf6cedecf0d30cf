"""What each graph answers and remembers over one stream, and how far that is from FP32."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.goals import Figure
from edge_cnnlstm.errors import BackendError
from edge_cnnlstm.runtime.backends.base import Backend, advance
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.spec import HeadSpec, ModelSpec

TOP_1, GROWTH = 0.995, 1.05
"""What is asked of a quantized graph: its least agreement with FP32, and its largest growth of drift."""
YOUNG = slice(50, 150)
"""Frames 51 to 150: around frame 100."""
WINDOW = 100
RESOLUTION = 1e-7
"""Of FP32 near 1. Smaller drifts count as this one, so that their ratios mean something."""

Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Course:
    """Outputs by name, and states by the name of their graph input, over time: float32 [frames, numbers] each."""

    outputs: dict[str, Values]
    states: dict[str, Values]


def record(backends: Mapping[str, Backend], frames: Iterable[Pixels], counted: Callable[[], None]) -> dict[str, Course]:
    """Run every backend over the same frames, from an empty memory and without a reset.

    `counted` is called after each frame. Raises BackendError when a backend answers or remembers NaN or infinity.
    """
    rows: dict[str, list[Mapping[str, Values]]] = {name: [] for name in backends}
    for number, pixels in enumerate(frames, start=1):
        for name, backend in backends.items():
            answers = {tensor: value.astype(np.float32).ravel() for tensor, value in advance(backend, pixels).items()}
            memory = {tensor: value.astype(np.float32).ravel() for tensor, value in backend.state.snapshot().items()}
            rows[name].append(answers | memory)
            _check_finite(name, number, rows[name][-1])
        counted()
    return {name: _course(backend.spec, rows[name]) for name, backend in backends.items()}


def answers(spec: ModelSpec, graph: str, found: Course, reference: Course) -> list[Figure]:
    """Return how well a graph's answers agree with the reference's, head by head.

    A figure's range is that of the tenths of the stream.
    """
    return [figure for head in spec.heads for figure in _OF_TASK[head.task](spec, head, graph, found, reference)]


def growth(graph: str, found: Course, reference: Course) -> list[Figure]:
    """Return by how much each state's drift has grown: at the end over frame 100, and the second half over the first.

    A range is that of all windows of 100 frames since. Drift relative to size tells a memory that goes astray from
    one whose FP32 twin grows too: a cell that nothing bounds may count for thousands of frames, in any precision.
    """
    figures = []
    absolute, relative = drifts(found, reference), drifts(found, reference, relative=True)
    for state, drift in absolute.items():
        last = f"frame {len(drift):,} / frame 100"
        figures.append(_grown(f"{graph}: drift of {state}, {last}", drift, GROWTH))
        first, second = (max(float(half.mean()), RESOLUTION) for half in np.array_split(drift, 2))
        figures.append(Figure(f"{graph}: drift of {state}, second half / first half", second / first, len(drift)))
        figures.append(_grown(f"{graph}: drift of {state} relative to its size, {last}", relative[state]))
    return figures


def drifts(found: Course, reference: Course, *, relative: bool = False) -> dict[str, NDArray[np.float64]]:
    """Return the mean absolute difference of each state from the reference's, float64 [frames].

    `relative` divides each cell's difference by one more than its size in the reference.
    """
    apart = {}
    for state, values in found.states.items():
        twin = reference.states[state].astype(np.float64)
        apart[state] = (np.abs(values - twin) / (1 + np.abs(twin) if relative else 1)).mean(axis=1)
    return apart


def sizes(reference: Course) -> dict[str, NDArray[np.float64]]:
    """Return the mean absolute value of each of the reference's states, float64 [frames]."""
    return {state: np.abs(values).mean(axis=1, dtype=np.float64) for state, values in reference.states.items()}


def unrelated(reference: Course) -> dict[str, float]:
    """Return how far each of the reference's states is from itself half a stream later: as far as drift can go."""
    half = len(next(iter(reference.states.values()), [])) // 2
    return {
        state: float(np.abs(values[:half] - values[half : 2 * half]).mean())
        for state, values in reference.states.items()
    }


def windows(drift: NDArray[np.float64]) -> list[float]:
    """Return the means of windows of 100 frames, the last of which ends with the stream."""
    whole = drift[len(drift) % WINDOW :].reshape(-1, WINDOW)
    return [float(mean) for mean in whole.mean(axis=1)]


def curve(drift: NDArray[np.float64], points: int = 80) -> list[tuple[int, float]]:
    """Return frame and mean drift up to it since the point before: so many points, evenly spaced by ratio."""
    ends = np.unique(np.geomspace(1, len(drift), points).round().astype(int))
    starts = [0, *ends[:-1]]
    return [(int(end), float(drift[start:end].mean())) for start, end in zip(starts, ends, strict=True)]


def _course(spec: ModelSpec, rows: list[Mapping[str, Values]]) -> Course:
    outputs = {output.name: np.stack([row[output.name] for row in rows]) for output in spec.outputs}
    return Course(outputs, {pair.input: np.stack([row[pair.input] for row in rows]) for pair in spec.states})


def _check_finite(name: str, number: int, row: Mapping[str, Values]) -> None:
    for tensor, values in row.items():
        if not np.isfinite(values).all():
            raise BackendError(
                f"graph {name!r} has NaN or infinity in {tensor!r} at frame {number:,}",
                expected="finite answers and memory for as long as the stream runs",
                fix="export again with another calibration, and report the video",
            )


def _classify(_: ModelSpec, head: HeadSpec, graph: str, found: Course, reference: Course) -> list[Figure]:
    name = f"{graph}: top-1 agreement of {head.name}"
    return [_share(name, _chosen(found, head.outputs[0]) == _chosen(reference, head.outputs[0]), TOP_1)]


def _track(spec: ModelSpec, head: HeadSpec, graph: str, found: Course, reference: Course) -> list[Figure]:
    box, presence = head.outputs
    pixels = np.array([spec.width, spec.height] * 2, np.float32)
    apart = (np.abs(found.outputs[box] - reference.outputs[box]) * pixels).mean(axis=1)
    return [
        _mean(f"{graph}: box of {head.name}, mean difference in pixels", apart),
        _share(f"{graph}: agreement on {head.name} in sight", _chosen(found, presence) == _chosen(reference, presence)),
    ]


def _regress(_: ModelSpec, head: HeadSpec, graph: str, found: Course, reference: Course) -> list[Figure]:
    (output,) = head.outputs
    scale = max(float(np.abs(reference.outputs[output]).mean()), RESOLUTION)
    apart = np.abs(found.outputs[output] - reference.outputs[output]).mean(axis=1) / scale
    return [_mean(f"{graph}: {head.name}, mean difference over mean value", apart)]


_OF_TASK = {"classify": _classify, "track": _track, "regress": _regress}


def _chosen(course: Course, output: str) -> NDArray[np.int64]:
    """The most likely label; of a single logit, whether it is above 0."""
    logits = course.outputs[output]
    return (logits[:, 0] > 0).astype(np.int64) if logits.shape[1] == 1 else logits.argmax(axis=1)


def _share(name: str, agreed: NDArray[np.bool_], goal: float | None = None) -> Figure:
    return _mean(name, agreed.astype(np.float64), goal)


def _grown(name: str, drift: NDArray[np.float64], goal: float | None = None) -> Figure:
    young = max(float(drift[YOUNG].mean()), RESOLUTION)
    later = [max(window, RESOLUTION) / young for window in windows(drift[YOUNG.stop :])]
    return Figure(name, later[-1], WINDOW, min(later), max(later), goal, at_most=True)


def _mean(name: str, values: NDArray[np.floating], goal: float | None = None) -> Figure:
    tenths = [float(part.mean()) for part in np.array_split(values, 10)]
    return Figure(name, float(values.mean()), len(values), min(tenths), max(tenths), goal)
