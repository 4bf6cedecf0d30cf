"""What a step is on the GPU: a copy up, the engine, a copy down, in one launch where that can be had.

The engine reads the memory from one side and writes the other. So there are two execution contexts, one for each
direction, whose addresses are set once, and two CUDA graphs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.errors import BackendError, DependencyError
from edge_cnnlstm.gpu.block import Block
from edge_cnnlstm.gpu.capture import Graph, Marks
from edge_cnnlstm.gpu.cuda import Session
from edge_cnnlstm.gpu.engine import WATCH, Engine
from edge_cnnlstm.runtime.device_state import DeviceState
from edge_cnnlstm.runtime.device_times import STAGES
from edge_cnnlstm.runtime.wiring import Wiring
from edge_cnnlstm.spec import ModelSpec, TensorSpec

log = logging.getLogger(__name__)

REPLAY_TOLERANCE = 1e-3
"""How far a graph may stray from the same step enqueued by hand, over the largest magnitude: sums that the GPU adds up
in no fixed order differ by less, and an answer to another frame by far more.
"""
DIRECTIONS = (0, 1)
"""A step in direction 0 reads the memory of side 0 and writes side 1."""


class DeviceStep:
    """An engine with everything that it needs on the GPU.

    `load` returns the engine; it is called where the GPU's context is current. `frames`, `dt` and `answers[direction]`
    are host arrays that every step reads or writes, `state` is the memory. `bytes_copied` is what a step moves between
    processor and GPU. Raises BackendError for an engine that is not what `spec` says, DeviceMemoryError where it does
    not fit; whatever had been made by then is released.
    """

    def __init__(self, load: Callable[[], Engine], spec: ModelSpec, wiring: Wiring) -> None:
        self.spec = spec
        self._session = session = Session(spin=wiring.spin)
        self._loaded: Engine | None = None
        self._contexts: list[Any] = []
        self._marks: list[Marks] = []
        self._steps: list[Callable[[], None]] = []
        self.uses_graphs = False
        try:
            with session:
                self._allocate(session, mapped=wiring.maps(session.device))
                self._wire(load())
                self._steps = self._prepared(session, graphs=wiring.graphs)
        except BaseException:
            self.close()
            raise

    def run(self, direction: int, meanwhile: Callable[[], None]) -> None:
        """Make a step, and call `meanwhile` while the GPU is busy. Raises BackendError, with the memory untouched."""
        with self._session as session:
            self._steps[direction]()
            try:
                meanwhile()
            finally:
                session.wait()

    @property
    def keeps_times(self) -> bool:
        """Whether the GPU notes what a step takes; that needs `cuda-bindings`."""
        return bool(self._marks)

    def times(self, direction: int) -> list[int]:
        """Return the nanoseconds of each stage of the last step in this direction; to be called within `meanwhile`."""
        return self._marks[direction].times()

    def is_lost(self) -> bool:
        """Return whether the GPU's context died."""
        return self._session.is_lost()

    def abandon(self) -> None:
        """Give up everything that was held in a context that died."""
        self._session.abandon()
        self._drop_engine()

    def revive(self) -> None:
        """See, after `abandon`, that the GPU has a context again, for a new step."""
        self._session.revive()

    def close(self) -> None:
        """Wait for the GPU and release everything, the last first; may be called twice."""
        self._session.close()
        self._drop_engine()

    @property
    def _written(self) -> list[TensorSpec]:
        """What the engine answers, and how large it says the memory is."""
        watch = [TensorSpec(WATCH, (self.spec.batch,), "float32")] if self.spec.states else []
        return [*self.spec.outputs, *watch]

    def _allocate(self, session: Session, *, mapped: bool) -> None:
        spec = self.spec
        self._inputs = Block(session, spec.inputs, "frames", mapped=mapped)
        # One a direction: what is known of the memory on one side must outlive the step that reads it.
        self._outputs = [Block(session, self._written, "answers", mapped=mapped) for _ in DIRECTIONS]
        self.bytes_copied = self._inputs.bytes_copied + self._outputs[0].bytes_copied
        self.frames = self._inputs.arrays[spec.frame.name]
        self.dt = self._inputs.arrays[spec.dt.name] if spec.dt else np.zeros((spec.batch, 1), np.float32)
        self.answers = [{output.name: block.arrays[output.name] for output in spec.outputs} for block in self._outputs]
        nothing = np.zeros(spec.batch, np.float32)
        writes_one, writes_zero = (block.arrays.get(WATCH, nothing) for block in self._outputs)
        self.state = DeviceState(session, spec.states, (writes_zero, writes_one))

    def _wire(self, loaded: Engine) -> None:
        """Tell the engine, once, where everything lies."""
        self._loaded = loaded
        self._session.at_close(self._drop_engine)
        self._check_signature(loaded)
        for direction in DIRECTIONS:
            context = loaded.engine.create_execution_context()
            if context is None:
                raise self._refused("make an execution context")
            self._contexts.append(context)
            for name, address in self._addresses(direction).items():
                if not context.set_tensor_address(name, address):
                    raise self._refused(f"take an address for {name!r}")

    def _addresses(self, direction: int) -> dict[str, int]:
        addresses = self._inputs.addresses | self._outputs[direction].addresses
        for pair in self.spec.states:
            addresses[pair.input] = self.state.address(direction, pair)
            addresses[pair.output] = self.state.address(1 - direction, pair)
        return addresses

    def _drop_engine(self) -> None:
        """Let go of the contexts, and then of their engine: TensorRT destroys each with its last reference."""
        self._steps = []
        self._contexts.clear()
        self._loaded = None

    def _prepared(self, session: Session, *, graphs: bool) -> list[Callable[[], None]]:
        """Return the step in each direction, warmed up: as a graph, if that gives what it gives by hand."""
        by_hand: list[Callable[[], None]] = [partial(self._enqueue, direction) for direction in DIRECTIONS]
        try:
            for _ in DIRECTIONS:
                marks = Marks(session.handle, len(STAGES) + 1)
                session.at_close(marks.close)
                self._marks.append(marks)
        except DependencyError as error:
            log.warning("no CUDA graphs, and no times by the GPU's clock: %s", error.found)
            graphs = False
        expected = self._rehearsed(by_hand)
        if not graphs:
            return by_hand
        try:
            replays = [self._recorded(session, direction) for direction in DIRECTIONS]
            apart = _apart(self._rehearsed(replays), expected)
        except BackendError as error:
            if session.is_lost():
                raise
            log.warning("no CUDA graphs, each step is enqueued by hand: %s", error.found)
            return by_hand
        if apart > REPLAY_TOLERANCE:
            log.warning("no CUDA graphs, each step is enqueued by hand: a replay strays by %.2g", apart)
            return by_hand
        self.uses_graphs = True
        return replays

    def _recorded(self, session: Session, direction: int) -> Callable[[], None]:
        graph = Graph(session.handle, partial(self._enqueue, direction, recording=True))
        session.at_close(graph.close)
        return graph.launch

    def _rehearsed(self, steps: Sequence[Callable[[], None]]) -> list[NDArray[Any]]:
        """Return all that comes of two steps, one in each direction, over an empty memory, which is emptied again.

        The frames are the same noise each time. Whatever a step leaves unwritten is NaN, on the GPU too, and no memory
        is left of an earlier rehearsal: a replay that leaves something out must not find it done already.
        """
        noise, found = np.random.default_rng(0), []
        self._empty()
        for step, answers in zip(steps, self._outputs, strict=True):
            self.frames[...] = noise.integers(0, 256, self.frames.shape, np.uint8)
            for answer in answers.arrays.values():
                answer[...] = np.nan
            answers.upload()
            step()
            self._session.wait()
            found += [answer.copy() for answer in answers.arrays.values()]
        found += self.state.snapshot().values()
        self._empty()
        self.frames[...] = 0
        return found

    def _empty(self) -> None:
        """Empty the memory on both sides."""
        for _ in DIRECTIONS:
            self.state.reset()
            self.state.advance()

    def _enqueue(self, direction: int, *, recording: bool = False) -> None:
        self._mark(direction, 0, recording=recording)
        self._inputs.upload()
        self._mark(direction, 1, recording=recording)
        if not self._contexts[direction].execute_async_v3(self._session.handle):
            raise self._refused("run")
        self._mark(direction, 2, recording=recording)
        self._outputs[direction].download()
        self._mark(direction, 3, recording=recording)

    def _mark(self, direction: int, at: int, *, recording: bool) -> None:
        if self._marks:
            self._marks[direction].record(at, recording=recording)

    def _check_signature(self, loaded: Engine) -> None:
        """Raw addresses are only safe when the engine agrees about every shape and type."""
        spec = self.spec
        expected = {tensor.name: ("input", tensor.shape, tensor.dtype) for tensor in spec.inputs}
        expected |= {pair.input: ("input", pair.shape, pair.dtype) for pair in spec.states}
        expected |= {pair.output: ("output", pair.shape, pair.dtype) for pair in spec.states}
        expected |= {output.name: ("output", output.shape, output.dtype) for output in self._written}
        if (found := loaded.tensors()) != expected:
            raise BackendError(
                f"the engine's inputs and outputs are {found}",
                expected=f"what the manifest says: {expected}",
                fix="build the plan again: edge-cnnlstm build",
            )

    def _refused(self, doing: str) -> BackendError:
        words = self._loaded.last_words() if self._loaded else "it is closed"
        return BackendError(
            f"TensorRT's engine could not {doing}: {words}",
            expected="TensorRT to do it",
            fix="if it speaks of memory, open fewer streams; else build the plan again: edge-cnnlstm build",
        )


def _apart(found: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]) -> float:
    """Return the largest difference over its array's largest magnitude; NaN counts as infinitely far."""
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        with np.errstate(invalid="ignore", over="ignore"):
            difference = float(np.abs(one - other).max(initial=0.0))
        worst = max(worst, difference / (float(np.abs(other).max(initial=0.0)) or 1.0))
        if np.isnan(difference):
            return float("inf")
    return worst
