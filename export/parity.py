"""The proof that a graph computes what its network computes in torch, step after step, for a thousand steps.

The reference is the lowered torch module itself, with the same integer arithmetic, so what remains to differ is
rounding: where both round one sum to different sides, that difference travels through the recurrence. Errors are
relative to each tensor's largest magnitude in the rollout. Control graphs, each a little corrupted, must fail the same
comparison: a proof that nothing can fail is none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from edge_cnnlstm.errors import ParityError
from edge_cnnlstm.spec import ModelSpec
from edge_cnnlstm.training.model import CnnLstm
from edge_cnnlstm.training.spec_of import spec_of
from export import controls
from export.intervals import intervals
from export.locate import first_disagreement
from export.rollout import Course, Frames, OnnxSteps, Resets, torch_course

STEPS = 1000
SHORT = 128
"""Steps of a control, of permuted and of interleaved streams."""
STREAMS = 3
DISTINCT = 3
"""A corrupted graph strays so many times further than the sound one, in the median, or beyond the tolerance."""
SHOWN = 100
"""Points of a curve."""


class Strayed(NamedTuple):
    """How far a graph strays, relative to each tensor's largest magnitude: at its worst step, and in the median one."""

    largest: float
    typical: float

    def beyond(self, limit: Strayed) -> bool:
        """Whether either is further than `limit`."""
        return self.largest > limit.largest or self.typical > limit.typical


class Tolerance(NamedTuple):
    """How far a graph may stray at any step, and in the median one, relative to each tensor's largest magnitude."""

    largest: float
    typical: float


@dataclass(frozen=True, slots=True)
class Curve:
    """Relative error over a rollout: the largest among the outputs, of h and of c, at each of some steps."""

    step: list[int]
    outputs: list[float]
    h: list[float] = field(default_factory=list)
    c: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Parity:
    """How far a graph strays from torch.

    `largest` at the worst step, in tensor `worst`; `typical` in the median step. `permuted` is how much streams in one
    batch depend on their order, `batched` how much each depends on being in one, `interleaved` how much two streams
    that take turns depend on each other; `controls` how far each corrupted graph strays.
    """

    steps: int
    largest: float
    typical: float
    worst: str
    tolerance: Tolerance
    permuted: float
    batched: float
    interleaved: float
    controls: dict[str, Strayed]
    curve: Curve


def prove_graph(
    name: str,
    graph: onnx.ModelProto,
    network: CnnLstm,
    frames: NDArray[np.uint8],
    resets: Resets,
    tolerance: Tolerance,
    reference: Course | None = None,
) -> Parity:
    """Run a step graph over a rollout beside its lowered network, and its controls.

    `frames` uint8 [steps, height, width, 3]; a network that asks is told `intervals` between them. `reference` is the
    network's own course, when it is known already. Raises ParityError when the graph strays further than `tolerance`
    (naming the first tensor that disagrees), when streams influence each other, or when a control does not stray.
    """
    spec, dt = spec_of(network), intervals(network.config, resets)
    expected = reference or torch_course(network, frames[:, None], resets, dt)
    errors = relative_errors(OnnxSteps(graph, spec).course(frames[:, None], resets, dt), expected)
    worst, largest, typical = _summary(errors)
    if not (largest <= tolerance.largest and typical <= tolerance.typical):
        where = first_disagreement(graph, network, frames, expected, _first_beyond(errors, tolerance), dt)
        raise ParityError(
            f"graph {name!r} strays from torch by {largest:.3g} at worst and {typical:.3g} typically over "
            f"{len(frames)} steps, most in {worst!r}; {where}",
            expected=f"at most {tolerance.largest:.3g} and {tolerance.typical:.3g} of each tensor's magnitude",
            fix="look for an operator that the lowering or ONNX Runtime computes differently from there on",
        )
    (permuted, batched), interleaved = _batched(graph, network, frames), _interleaved(graph, spec, frames)
    if not max(permuted, batched) <= tolerance.largest or interleaved > 0:
        raise ParityError(
            f"graph {name!r}: streams influence each other, by {permuted:.3g} through their order in a batch, by "
            f"{batched:.3g} by being in one and by {interleaved:.3g} by taking turns",
            expected=f"at most {tolerance.largest:.3g} in a batch, and 0",
            fix="look for an operator that mixes the batch",
        )
    enough = Strayed(tolerance.largest, min(tolerance.typical, DISTINCT * typical))
    strayed = _controls(graph, network, frames[:SHORT, None], resets[:SHORT], expected, enough)
    for kind, found in strayed.items():
        if not found.beyond(enough):
            raise ParityError(
                f"graph {name!r} with {kind} strays by only {found.largest:.3g}, typically {found.typical:.3g}",
                expected=f"{DISTINCT} times what the sound graph strays, {typical:.3g}: else the proof proves nothing",
                fix="train the network first: its answers hardly depend on its weights; or tighten the tolerance",
            )
    return Parity(
        steps=len(frames),
        largest=largest,
        typical=typical,
        worst=worst,
        tolerance=tolerance,
        permuted=permuted,
        batched=batched,
        interleaved=interleaved,
        controls=strayed,
        curve=curve_of(errors),
    )


def relative_errors(found: Course, expected: Course) -> dict[str, NDArray[np.float64]]:
    """Return each tensor's largest error at every step, relative to its largest magnitude; NaN is infinitely far."""
    errors = {}
    for name, values in found.items():
        if name not in expected:
            continue  # a control calls its memories by other names
        wanted = expected[name][: len(values)]
        scale = float(np.abs(expected[name]).max()) or 1.0
        apart = np.abs(values.astype(np.float64) - wanted).reshape(len(values), -1).max(axis=1) / scale
        errors[name] = np.where(np.isnan(apart), np.inf, apart)
    return errors


def curve_of(errors: dict[str, NDArray[np.float64]]) -> Curve:
    """Return errors as a curve: the largest within each of a hundred stretches, so that no peak is lost."""
    steps = len(next(iter(errors.values())))
    starts = np.unique(np.linspace(0, steps, SHOWN, endpoint=False).astype(int))

    def largest(names: list[str]) -> list[float]:
        if not names:
            return []
        joined = np.max([errors[name] for name in names], axis=0)
        return [float(value) for value in np.maximum.reduceat(joined, starts)]

    outputs = [name for name in errors if name not in {"h_next", "c_next"}]
    memory = {part: [name for name in errors if name == f"{part}_next"] for part in "hc"}
    return Curve([int(start) for start in starts], largest(outputs), largest(memory["h"]), largest(memory["c"]))


def _summary(errors: dict[str, NDArray[np.float64]]) -> tuple[str, float, float]:
    worst = max(errors, key=lambda name: float(errors[name].max()))
    per_step = np.max(list(errors.values()), axis=0)
    return worst, float(per_step.max()), float(np.median(per_step))


def _first_beyond(errors: dict[str, NDArray[np.float64]], tolerance: Tolerance) -> int:
    per_step = np.max(list(errors.values()), axis=0)
    beyond = per_step > (tolerance.largest if per_step.max() > tolerance.largest else tolerance.typical)
    return int(np.argmax(beyond))


def _controls(
    graph: onnx.ModelProto, network: CnnLstm, frames: Frames, resets: Resets, expected: Course, enough: Strayed
) -> dict[str, Strayed]:
    """Return how far each control strays. That missed frames matter is shown only where they do in torch."""
    dt = intervals(network.config, resets)

    def strayed(course: Course) -> Strayed:
        return Strayed(*_summary(relative_errors(course, expected))[1:])

    bad = controls.corrupted(graph, spec_of(network))
    if dt is not None and not strayed(torch_course(network, frames, resets)).beyond(enough):
        del bad[controls.TIME_IGNORED]
    return {kind: strayed(OnnxSteps(wrong, spec).course(frames, resets, dt)) for kind, (wrong, spec) in bad.items()}


def _batched(graph: onnx.ModelProto, network: CnnLstm, frames: NDArray[np.uint8]) -> tuple[float, float]:
    """Run several streams as one batch; return how far they stray in another order, and from each one alone."""
    spec, length = spec_of(network), min(SHORT, len(frames) // STREAMS)
    streams = np.stack([frames[at * length : (at + 1) * length] for at in range(STREAMS)], axis=1)
    never = np.zeros(length, np.bool_)
    dt = intervals(network.config, never, STREAMS)

    def course(steps: OnnxSteps, order: list[int]) -> Course:
        return steps.course(streams[:, order], never, None if dt is None else dt[:, order])

    def apart(found: Course, order: list[int]) -> float:
        axis = {name: 2 if name in {"h_next", "c_next"} else 1 for name in found}
        expected = {name: np.take(straight[name], order, axis[name]) for name in found}
        return max(float(errors.max()) for errors in relative_errors(found, expected).values())

    together, alone = OnnxSteps(graph, spec.batched(STREAMS)), OnnxSteps(graph, spec)
    straight, turned = course(together, [0, 1, 2]), [2, 0, 1]
    return apart(course(together, turned), turned), max(apart(course(alone, [at]), [at]) for at in range(STREAMS))


def _interleaved(graph: onnx.ModelProto, spec: ModelSpec, frames: NDArray[np.uint8]) -> float:
    """Let two streams take turns in one engine, and compare each with itself alone."""
    length = min(SHORT, len(frames) // 2)
    streams = [frames[:length, None], frames[length : 2 * length, None]]
    steps, never = OnnxSteps(graph, spec), np.zeros(length, np.bool_)
    alone = [steps.course(stream, never) for stream in streams]
    steps.reset()
    memories = [steps.memory, dict(steps.memory)]
    apart = 0.0
    for moment in range(length):
        for which, stream in enumerate(streams):
            steps.memory = memories[which]
            for name, value in steps.step(stream[moment]).items():
                apart = max(apart, float(np.abs(value - alone[which][name][moment]).max()))
            memories[which] = steps.memory
    return apart
