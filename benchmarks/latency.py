"""What one more frame costs, back to back: by memory carried from step to step, and by running a window again.

Cases take short turns, in a new random order every round, so that whatever else the machine does hits all of them
alike. Ratios are taken within a round; absolute times come second.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any, Literal

import numpy as np

from benchmarks.statistics import percentile
from edge_cnnlstm.bundle.format import Bundle
from edge_cnnlstm.bundle.manifest import Graph
from edge_cnnlstm.errors import BackendError
from edge_cnnlstm.runtime.account import SAMPLES
from edge_cnnlstm.runtime.backends.base import Backend, advance
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.runtime.prediction import Prediction
from edge_cnnlstm.runtime.proof import prove
from edge_cnnlstm.runtime.selection import load_engine
from edge_cnnlstm.runtime.stream import Stream

SCHEMA_VERSION = 1
SAMPLES_FOR_P99 = SAMPLES["p99"]
"""MLPerf's early-stopping minimum for a p99, with ten samples above it allowed."""
WARM_UP_FRAMES = 32
WINDOW_SHARE = 10
"""A turn of windows is ten times shorter: each window costs as many steps as it has frames."""

Mode = Literal["streaming", "window", "control"]
MODES: tuple[Mode, ...] = ("streaming", "window")
Advance = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    A turn is `steps` timed frames of one case (`window_steps` of a window case) after its warm-up. `window` is in
    frames, `threads` in cores per step; `seed` draws the order of the turns.
    """

    rounds: int = 7
    steps: int = 300
    window: int = 16
    threads: int = 1
    seed: int = 0

    @property
    def window_steps(self) -> int:
        """Timed frames in a turn of a window case."""
        return max(1, self.steps // WINDOW_SHARE)


@dataclass(frozen=True, slots=True)
class Case:
    """One graph, in an engine of its own, answering every frame in one way.

    A control is streaming under another name: its ratio to streaming is what this machine makes of no difference.
    `call` takes one of `arguments` and answers one frame; the first `warm_up` calls of a turn are not timed.
    `rounds` collects nanoseconds per call, turn by turn.
    """

    graph: Graph
    mode: Mode
    stream: Stream
    call: Callable[[Any], Prediction]
    arguments: Sequence[Any]
    warm_up: int
    rounds: list[list[int]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The case's name in every result."""
        return f"{self.graph.name} {self.mode}"

    @property
    def samples(self) -> list[int]:
        """All rounds in one."""
        return [sample for turn in self.rounds for sample in turn]


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times one case takes another's time: the median round's `value`, and the range of all rounds.

    `samples` are those of the side that has fewer, over all rounds.
    """

    name: str
    value: float
    low: float
    high: float
    samples: int


@dataclass(frozen=True, slots=True)
class Result:
    """Everything measured. `order` names the cases of each round as they ran; `skipped` says why, by graph."""

    cases: list[Case]
    ratios: list[Ratio]
    order: list[list[str]]
    skipped: dict[str, str]


def run(bundle: Bundle, plan: Plan, started: Callable[[int], Advance]) -> Result:
    """Measure every graph of a bundle that ONNX Runtime runs.

    `started` is told the number of turns and returns what is called after each. Raises BackendError when a graph
    does not reproduce the golden rollout, or when none runs.
    """
    with ExitStack() as stack:
        graphs, skipped = _runnable(bundle, plan)
        cases = [_case(bundle, graph, mode, plan) for graph in graphs for mode in MODES]
        cases.append(_case(bundle, _reference(graphs), "control", plan))
        for case in cases:
            stack.callback(case.stream.close)
        order = take_turns(cases, plan.rounds, plan.seed, started(plan.rounds * len(cases)))
        return Result(cases, ratios(cases), order, skipped)


def take_turns(cases: Sequence[Case], rounds: int, seed: int, advance: Advance) -> list[list[str]]:
    """Give every case one turn a round, in an order drawn anew, and return the orders."""
    draw = np.random.default_rng(seed)
    order = []
    for _ in range(rounds):
        shuffled = [cases[index] for index in draw.permutation(len(cases))]
        for case in shuffled:
            case.rounds.append(_turn(case))
            advance()
        order.append([case.name for case in shuffled])
    return order


def rerun(stream: Stream, window: Sequence[Pixels]) -> Prediction:
    """Answer a window's last frame as one must without carried memory: forget, run every frame, decode once."""
    stream.reset("window")
    for pixels in window[:-1]:
        advance(stream.backend, pixels)
    return stream.step(window[-1])


def ratios(cases: Sequence[Case]) -> list[Ratio]:
    """Compare window with streaming, every graph with the reference, and the reference with itself."""
    found = {(case.graph.name, case.mode): case for case in cases}
    names = list(dict.fromkeys(case.graph.name for case in cases))
    reference = next(case.graph.name for case in cases if case.mode == "control")
    base, control = found[reference, "streaming"], found[reference, "control"]
    compared = [
        compare(f"{name} window/streaming p50", found[name, "window"], found[name, "streaming"], 50) for name in names
    ]
    for name in names:
        if name != reference:
            graph = found[name, "streaming"]
            compared += [compare(f"{name}/{reference} streaming p{tail}", graph, base, tail) for tail in (50, 99)]
    return compared + [compare(f"{reference} control/streaming p{tail}", control, base, tail) for tail in (50, 99)]


def compare(name: str, over: Case, under: Case, percent: float) -> Ratio:
    """Divide two cases' percentiles within each round; one slow moment of the machine then spoils one round only."""
    pairs = zip(over.rounds, under.rounds, strict=True)
    rounds = [percentile(upper, percent) / percentile(lower, percent) for upper, lower in pairs]
    samples = min(len(over.samples), len(under.samples))
    return Ratio(name, statistics.median(rounds), min(rounds), max(rounds), samples)


def _runnable(bundle: Bundle, plan: Plan) -> tuple[list[Graph], dict[str, str]]:
    """Prove each graph once, so that no number stands for a network that answers something else."""
    graphs, skipped = [], {}
    for graph in bundle.manifest.graphs:
        try:
            backend = _engine(bundle, graph, plan)
        except BackendError as error:
            skipped[graph.name] = error.found
            continue
        prove(backend, bundle.golden, bundle.golden.expected[graph.name], graph.tolerance)
        backend.close()
        graphs.append(graph)
    if not graphs:
        raise BackendError(
            f"no graph that ONNX Runtime runs: {'; '.join(skipped.values())}",
            expected="at least one",
            fix="export the bundle again, or update onnxruntime",
        )
    return graphs, skipped


def _reference(graphs: Sequence[Graph]) -> Graph:
    return next((graph for graph in graphs if graph.precision == "fp32"), graphs[0])


def _engine(bundle: Bundle, graph: Graph, plan: Plan) -> Backend:
    return load_engine(bundle, graph, "onnxruntime", threads=plan.threads)


def _case(bundle: Bundle, graph: Graph, mode: Mode, plan: Plan) -> Case:
    stream = Stream(_engine(bundle, graph, plan))
    frames: list[Pixels] = list(bundle.golden.frames)
    if mode != "window":
        arguments = list(islice(cycle(frames), WARM_UP_FRAMES + plan.steps))
        return Case(graph, mode, stream, stream.step, arguments, WARM_UP_FRAMES)
    warm_up = math.ceil(WARM_UP_FRAMES / plan.window)
    windows = [list(islice(cycle(frames), last, last + plan.window)) for last in range(warm_up + plan.window_steps)]
    return Case(graph, mode, stream, lambda window: rerun(stream, window), windows, warm_up)


def _turn(case: Case) -> list[int]:
    """Time one turn; nothing but the call and the clock runs inside, and the collector is off."""
    clock, call = time.monotonic_ns, case.call
    samples: list[int] = []
    case.stream.reset("turn")
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for argument in case.arguments[: case.warm_up]:
            call(argument)
        for argument in case.arguments[case.warm_up :]:
            begun = clock()
            call(argument)
            samples.append(clock() - begun)
    finally:
        if collecting:
            gc.enable()
    return samples
