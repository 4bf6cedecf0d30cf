"""What every backend promises, as tests: inherit `BackendContract` and say how to make one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_cnnlstm.bundle.golden import Golden
from edge_cnnlstm.errors import BackendError, ClosedError
from edge_cnnlstm.runtime.backends.base import Backend, advance
from edge_cnnlstm.runtime.backends.scripted import Script
from edge_cnnlstm.runtime.proof import prove
from edge_cnnlstm.spec import ModelSpec

Values = dict[str, NDArray[np.generic]]


class BackendContract(ABC):
    """`backend` makes a fresh backend of the tiny network, whose description and graph lie in `spec` and `onnx`."""

    tolerance = 1e-5
    spec: ModelSpec
    onnx: bytes
    script: Script

    @abstractmethod
    def backend(self) -> Backend: ...

    @pytest.fixture(autouse=True)
    def _tiny(self, tiny_spec: ModelSpec, tiny_onnx: bytes, tiny_script: Script) -> None:
        self.spec, self.onnx, self.script = tiny_spec, tiny_onnx, tiny_script

    @pytest.fixture
    def engine(self, _tiny: None) -> Iterator[Backend]:
        engine = self.backend()
        yield engine
        engine.close()

    @pytest.fixture
    def frames(self) -> NDArray[np.uint8]:
        return np.random.default_rng(11).integers(0, 256, (50, *self.spec.frame.shape[1:]), dtype=np.uint8)

    def test_it_answers_with_every_output_in_its_shape_and_type(
        self, engine: Backend, frames: NDArray[np.uint8]
    ) -> None:
        outputs = advance(engine, frames[0])
        assert {name: (value.shape, value.dtype) for name, value in outputs.items()} == {
            output.name: (output.shape, np.dtype(output.dtype)) for output in self.spec.outputs
        }

    def test_it_starts_from_empty_memory(self, engine: Backend) -> None:
        assert_same(engine.state.snapshot(), {pair.input: pair.zeros() for pair in self.spec.states})

    def test_the_same_frames_give_the_same_answers_bit_for_bit(
        self, engine: Backend, frames: NDArray[np.uint8]
    ) -> None:
        first = [copied(advance(engine, pixels)) for pixels in frames]
        engine.state.reset()
        for before, pixels in zip(first, frames, strict=True):
            assert_same(advance(engine, pixels), before)

    def test_it_remembers(self, engine: Backend, frames: NDArray[np.uint8]) -> None:
        first, second = copied(advance(engine, frames[0])), copied(advance(engine, frames[0]))
        assert all(np.abs(first[name].astype(float) - second[name]).max() > 1e-3 for name in first)

    @pytest.mark.parametrize("steps", [1, 2, 3])
    def test_reset_returns_to_the_first_answer_from_either_side_of_the_ping_pong(
        self, engine: Backend, frames: NDArray[np.uint8], steps: int
    ) -> None:
        first = copied(advance(engine, frames[0]))
        for pixels in frames[1:steps]:
            advance(engine, pixels)
        engine.state.reset()
        assert_same(engine.state.snapshot(), {pair.input: pair.zeros() for pair in self.spec.states})
        assert_same(advance(engine, frames[0]), first)

    def test_fifty_steps_follow_the_true_course(self, engine: Backend, frames: NDArray[np.uint8]) -> None:
        state: Mapping[str, NDArray[np.generic]] = {pair.input: pair.zeros() for pair in self.spec.states}
        for pixels in frames:
            expected, state = self.script(pixels, state)
            assert_close(advance(engine, pixels), expected, self.tolerance)
            assert_close(engine.state.snapshot(), state, self.tolerance)

    def test_it_proves_itself_on_the_golden_rollout(self, engine: Backend, tiny_golden: Golden) -> None:
        found = prove(engine, tiny_golden, tiny_golden.expected["tiny"], self.tolerance)
        assert found.largest <= self.tolerance
        assert_same(engine.state.snapshot(), {pair.input: pair.zeros() for pair in self.spec.states})

    def test_each_piece_of_memory_goes_back_where_it_came_from(
        self, engine: Backend, frames: NDArray[np.uint8]
    ) -> None:
        for pixels in frames[:3]:
            advance(engine, pixels)
        memory = engine.state.snapshot()
        right = copied(advance(engine, frames[3]))
        engine.state.restore({"h": memory["c"], "c": memory["h"]})
        swapped = advance(engine, frames[3])
        assert np.abs(right["digit_logits"].astype(float) - swapped["digit_logits"]).max() > 1e-2

    @pytest.mark.parametrize("between", [0, 1, 2, 7])
    def test_a_snapshot_brings_the_future_back_bit_for_bit(
        self, engine: Backend, frames: NDArray[np.uint8], between: int
    ) -> None:
        for pixels in frames[:5]:
            advance(engine, pixels)
        memory = engine.state.snapshot()
        future = [copied(advance(engine, pixels)) for pixels in frames[5:20]]
        last = engine.state.snapshot()
        for pixels in frames[20 : 20 + between]:
            advance(engine, pixels)
        engine.state.restore(memory)
        for expected, pixels in zip(future, frames[5:20], strict=True):
            assert_same(advance(engine, pixels), expected)
        assert_same(engine.state.snapshot(), last)

    def test_a_snapshot_is_the_callers(self, engine: Backend, frames: NDArray[np.uint8]) -> None:
        advance(engine, frames[0])
        memory = engine.state.snapshot()
        kept = copied(memory)
        advance(engine, frames[1])
        advance(engine, frames[2])
        assert_same(memory, kept)
        after = engine.state.snapshot()
        for array in engine.state.snapshot().values():
            array.fill(9)
        assert_same(engine.state.snapshot(), after)

    def test_restoring_copies_the_snapshot(self, engine: Backend, frames: NDArray[np.uint8]) -> None:
        advance(engine, frames[0])
        memory = engine.state.snapshot()
        kept = copied(memory)
        engine.state.restore(memory)
        for array in memory.values():
            array.fill(9)
        assert_same(engine.state.snapshot(), kept)

    @pytest.mark.parametrize("wrong", ["a name missing", "a name too many", "another shape", "another type", "empty"])
    def test_a_snapshot_that_does_not_fit_changes_nothing(
        self, engine: Backend, frames: NDArray[np.uint8], wrong: str
    ) -> None:
        advance(engine, frames[0])
        before = engine.state.snapshot()
        h, c = (np.full_like(before[name], 5) for name in ("h", "c"))
        snapshots: dict[str, Values] = {
            "a name missing": {"h": h},
            "a name too many": {"h": h, "c": c, "d": c},
            "another shape": {"h": h, "c": c.reshape(-1)},
            "another type": {"h": h, "c": c.astype(np.float64)},
            "empty": {},
        }
        with pytest.raises(BackendError, match="expected"):
            engine.state.restore(snapshots[wrong])
        assert_same(engine.state.snapshot(), before)

    def test_frames_may_be_views(self, engine: Backend, frames: NDArray[np.uint8]) -> None:
        mirrored = frames[0][::-1, ::-1]
        expected = copied(advance(engine, np.ascontiguousarray(mirrored)))
        engine.state.reset()
        assert_same(advance(engine, mirrored), expected)

    def test_the_frame_is_read_before_infer_returns(self, engine: Backend, frames: NDArray[np.uint8]) -> None:
        expected = [copied(advance(engine, pixels)) for pixels in frames[:2]]
        engine.state.reset()
        reused = frames[0].copy()
        assert_same(advance(engine, reused), expected[0])
        reused[:] = frames[1]
        assert_same(advance(engine, reused), expected[1])

    def test_two_backends_share_no_memory(self, engine: Backend, frames: NDArray[np.uint8]) -> None:
        alone = [copied(advance(engine, pixels)) for pixels in frames[:6]]
        engine.state.reset()
        other = self.backend()
        for expected, pixels, noise in zip(alone, frames[:6], frames[6:12], strict=True):
            outputs = advance(engine, pixels)
            advance(other, noise)
            assert_same(outputs, expected)
        other.close()

    def test_closing_twice_is_allowed(self) -> None:
        engine = self.backend()
        engine.close()
        engine.close()

    def test_a_closed_backend_says_so(self, frames: NDArray[np.uint8]) -> None:
        engine = self.backend()
        advance(engine, frames[0])
        engine.close()
        with pytest.raises(ClosedError, match="closed"):
            advance(engine, frames[0])

    @pytest.mark.parametrize("call", ["reset", "snapshot", "restore", "hold", "is_finite"])
    def test_the_memory_of_a_closed_backend_is_out_of_reach(self, call: str) -> None:
        engine = self.backend()
        arguments: dict[str, list[object]] = {"restore": [engine.state.snapshot()], "hold": [[0]]}
        engine.close()
        with pytest.raises(ClosedError):
            getattr(engine.state, call)(*arguments.get(call, []))

    @pytest.mark.parametrize("steps", [0, 1, 2, 3])
    @pytest.mark.parametrize("times", [1, 2])
    def test_a_rehearsal_changes_nothing_on_either_side_of_the_ping_pong(
        self, engine: Backend, frames: NDArray[np.uint8], steps: int, times: int
    ) -> None:
        for pixels in frames[:steps]:
            advance(engine, pixels)
        memory = engine.state.snapshot()
        expected = copied(advance(engine, frames[steps]))
        after = engine.state.snapshot()
        engine.state.restore(memory)
        engine.frames[...] = frames[-1]
        for _ in range(times):
            engine.rehearse()
            assert_same(engine.state.snapshot(), memory)
        assert_same(advance(engine, frames[steps]), expected)
        assert_same(engine.state.snapshot(), after)

    def test_a_closed_backend_does_not_rehearse(self) -> None:
        engine = self.backend()
        engine.close()
        with pytest.raises(ClosedError, match="closed"):
            engine.rehearse()

    def test_the_buffers_that_the_caller_writes_into_are_the_same_ones_for_ever(
        self, engine: Backend, frames: NDArray[np.uint8]
    ) -> None:
        assert (engine.frames.shape, engine.frames.dtype) == (self.spec.frame.shape, np.uint8)
        assert (engine.dt.shape, engine.dt.dtype) == ((1, 1), np.float32)
        buffers = engine.frames, engine.dt
        addresses = [buffer.ctypes.data for buffer in buffers]
        memory = engine.state.snapshot()
        for pixels in frames[:3]:
            advance(engine, pixels)
            engine.rehearse()
            engine.state.restore(memory)
            engine.state.reset()
        assert engine.frames is buffers[0]
        assert engine.dt is buffers[1]
        assert [buffer.ctypes.data for buffer in buffers] == addresses
        np.testing.assert_array_equal(engine.frames[0], frames[2])

    @pytest.mark.parametrize("steps", [1, 2, 3])
    def test_a_step_that_is_held_back_was_never_made(
        self, engine: Backend, frames: NDArray[np.uint8], steps: int
    ) -> None:
        for pixels in frames[:steps]:
            advance(engine, pixels)
        memory = engine.state.snapshot()
        expected = copied(advance(engine, frames[steps]))
        engine.state.restore(memory)
        advance(engine, frames[-1])
        engine.state.restore(memory)
        advance(engine, frames[-2])
        engine.state.hold([])
        assert not np.array_equal(engine.state.snapshot()["c"], memory["c"])
        engine.state.hold([0])
        assert_same(engine.state.snapshot(), memory)
        assert_same(advance(engine, frames[steps]), expected)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_it_knows_whether_its_memory_is_finite(
        self, engine: Backend, frames: NDArray[np.uint8], bad: float
    ) -> None:
        advance(engine, frames[0])
        assert engine.state.is_finite()
        memory = engine.state.snapshot()
        poisoned = copied(memory)
        poisoned["h"].flat[-1] = bad
        engine.state.restore(poisoned)
        assert not engine.state.is_finite()
        assert not engine.state.is_finite(0)
        engine.state.restore(memory)
        assert engine.state.is_finite()


def copied(arrays: Mapping[str, NDArray[np.generic]]) -> Values:
    return {name: array.copy() for name, array in arrays.items()}


def assert_same(found: Mapping[str, NDArray[np.generic]], expected: Mapping[str, NDArray[np.generic]]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].tobytes() == array.tobytes(), name


def assert_close(
    found: Mapping[str, NDArray[np.generic]], expected: Mapping[str, NDArray[np.generic]], tolerance: float
) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name].astype(float), array.astype(float), rtol=0, atol=tolerance, err_msg=name)
