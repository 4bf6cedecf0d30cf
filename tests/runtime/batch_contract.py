"""What every backend promises that steps several streams at once: inherit `BatchContract` and say how to make one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_cnnlstm.runtime.backends.base import Backend, advance
from edge_cnnlstm.runtime.backends.scripted import Script
from edge_cnnlstm.spec import ModelSpec
from tests.conftest import tiny_frames
from tests.runtime.backend_contract import Values, assert_close, assert_same, copied

STREAMS = 3


def of_slot(memory: Values, slot: int) -> Values:
    return {name: array[:, slot : slot + 1] for name, array in memory.items()}


class BatchContract(ABC):
    """`backend` makes a fresh backend of the tiny network, whose parts lie in `spec` and `onnx`, for so many streams.

    `tolerance` is by how much a stream in a batch may stray from one that is alone.
    """

    tolerance = 1e-5
    spec: ModelSpec
    onnx: bytes
    script: Script

    @abstractmethod
    def backend(self, streams: int) -> Backend: ...

    @pytest.fixture(autouse=True)
    def _tiny(self, tiny_spec: ModelSpec, tiny_onnx: bytes, tiny_script: Script) -> None:
        self.spec, self.onnx, self.script = tiny_spec, tiny_onnx, tiny_script

    @pytest.fixture
    def engine(self, _tiny: None) -> Iterator[Backend]:
        engine = self.backend(STREAMS)
        yield engine
        engine.close()

    @pytest.fixture
    def frames(self) -> NDArray[np.uint8]:
        """Steps of one frame for each stream."""
        return tiny_frames(20 * STREAMS, seed=11).reshape(20, STREAMS, 8, 8, 3)

    def test_its_buffers_have_a_row_for_each_stream(self, engine: Backend, frames: NDArray[np.uint8]) -> None:
        assert engine.frames.shape == (STREAMS, 8, 8, 3)
        assert engine.dt.shape == (STREAMS, 1)
        assert all(len(output) == STREAMS for output in advance(engine, frames[0]).values())
        assert {array.shape[1] for array in engine.state.snapshot().values()} == {STREAMS}

    def test_each_stream_follows_the_course_that_it_takes_alone(
        self, engine: Backend, frames: NDArray[np.uint8]
    ) -> None:
        alone = [self.backend(1) for _ in range(STREAMS)]
        for step in frames:
            outputs = advance(engine, step)
            for slot, lone in enumerate(alone):
                expected = advance(lone, step[slot])
                assert_close(
                    {name: array[slot : slot + 1] for name, array in outputs.items()}, expected, self.tolerance
                )
                assert_close(engine.state.snapshot(slot), lone.state.snapshot(), self.tolerance)
        for lone in alone:
            lone.close()

    @pytest.mark.parametrize("slot", range(STREAMS))
    @pytest.mark.parametrize("steps", [1, 2])
    def test_a_reset_of_one_empties_it_and_leaves_the_others(
        self, engine: Backend, frames: NDArray[np.uint8], slot: int, steps: int
    ) -> None:
        for step in frames[:steps]:
            advance(engine, step)
        before = engine.state.snapshot()
        engine.state.reset(slot)
        for other in range(STREAMS):
            expected = of_slot(before, other)
            if other == slot:
                expected = {name: np.zeros_like(array) for name, array in expected.items()}
            assert_same(engine.state.snapshot(other), expected)

    @pytest.mark.parametrize("slot", range(STREAMS))
    @pytest.mark.parametrize("steps", [1, 2])
    def test_a_snapshot_of_one_brings_back_that_one_only(
        self, engine: Backend, frames: NDArray[np.uint8], slot: int, steps: int
    ) -> None:
        for step in frames[:steps]:
            advance(engine, step)
        memory = engine.state.snapshot(slot)
        kept = copied(memory)
        for step in frames[steps : steps + 2]:
            advance(engine, step)
        after = engine.state.snapshot()
        engine.state.restore(memory, slot)
        for other in range(STREAMS):
            assert_same(engine.state.snapshot(other), kept if other == slot else of_slot(after, other))
        for array in memory.values():
            array.fill(9)
        assert_same(engine.state.snapshot(slot), kept)

    def test_memory_moves_between_slots_and_between_engines(self, engine: Backend, frames: NDArray[np.uint8]) -> None:
        alone, another = self.backend(1), self.backend(1)
        for step in frames[:3]:
            advance(alone, step[0])
        engine.state.restore(alone.state.snapshot(), 2)
        assert_same(engine.state.snapshot(2), alone.state.snapshot())
        another.state.restore(engine.state.snapshot(2))
        assert_same(advance(another, frames[3][0]), advance(alone, frames[3][0]))
        alone.close(), another.close()

    @pytest.mark.parametrize("held", [[], [0], [1], [0, 2], [0, 1, 2]])
    @pytest.mark.parametrize("steps", [1, 2])
    def test_streams_that_are_held_stay_bit_for_bit_where_they_were_and_the_others_move_on(
        self, engine: Backend, frames: NDArray[np.uint8], held: list[int], steps: int
    ) -> None:
        for step in frames[:steps]:
            advance(engine, step)
        before = engine.state.snapshot()
        advance(engine, frames[steps])
        after = engine.state.snapshot()
        engine.state.hold(slot for slot in held)
        for slot in range(STREAMS):
            assert_same(engine.state.snapshot(slot), of_slot(before if slot in held else after, slot))

    def test_a_rehearsal_changes_no_stream(self, engine: Backend, frames: NDArray[np.uint8]) -> None:
        advance(engine, frames[0])
        before = engine.state.snapshot()
        engine.rehearse()
        assert_same(engine.state.snapshot(), before)

    def test_poison_in_one_stream_stays_there(self, engine: Backend, frames: NDArray[np.uint8]) -> None:
        for step in frames[:2]:
            advance(engine, step)
        memory = engine.state.snapshot()
        expected = copied(advance(engine, frames[2]))
        engine.state.restore(memory)
        engine.state.restore({name: np.full_like(array, np.nan) for name, array in of_slot(memory, 1).items()}, 1)
        outputs = advance(engine, frames[2])
        assert [engine.state.is_finite(slot) for slot in range(STREAMS)] == [True, False, True]
        for name, array in outputs.items():
            assert np.isnan(array[1]).any()
            assert array[[0, 2]].tobytes() == expected[name][[0, 2]].tobytes()
