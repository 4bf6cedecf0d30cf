"""What every backend promises, as tests: inherit `BackendContract` and say how to make one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_cnnlstm.bundle.golden import Golden
from edge_cnnlstm.errors import BackendError, ClosedError
from edge_cnnlstm.runtime.backends.base import Backend
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
        outputs = engine.infer(frames[0])
        assert {name: (value.shape, value.dtype) for name, value in outputs.items()} == {
            output.name: (output.shape, np.dtype(output.dtype)) for output in self.spec.outputs
        }

    def test_it_starts_from_empty_memory(self, engine: Backend) -> None:
        assert_same(engine.snapshot(), {pair.input: pair.zeros() for pair in self.spec.states})

    def test_the_same_frames_give_the_same_answers_bit_for_bit(
        self, engine: Backend, frames: NDArray[np.uint8]
    ) -> None:
        first = [copied(engine.infer(pixels)) for pixels in frames]
        engine.reset()
        for before, pixels in zip(first, frames, strict=True):
            assert_same(engine.infer(pixels), before)

    def test_it_remembers(self, engine: Backend, frames: NDArray[np.uint8]) -> None:
        first, second = copied(engine.infer(frames[0])), copied(engine.infer(frames[0]))
        assert all(np.abs(first[name].astype(float) - second[name]).max() > 1e-3 for name in first)

    @pytest.mark.parametrize("steps", [1, 2, 3])
    def test_reset_returns_to_the_first_answer_from_either_side_of_the_ping_pong(
        self, engine: Backend, frames: NDArray[np.uint8], steps: int
    ) -> None:
        first = copied(engine.infer(frames[0]))
        for pixels in frames[1:steps]:
            engine.infer(pixels)
        engine.reset()
        assert_same(engine.snapshot(), {pair.input: pair.zeros() for pair in self.spec.states})
        assert_same(engine.infer(frames[0]), first)

    def test_fifty_steps_follow_the_true_course(self, engine: Backend, frames: NDArray[np.uint8]) -> None:
        state: Mapping[str, NDArray[np.generic]] = {pair.input: pair.zeros() for pair in self.spec.states}
        for pixels in frames:
            expected, state = self.script(pixels, state)
            assert_close(engine.infer(pixels), expected, self.tolerance)
            assert_close(engine.snapshot(), state, self.tolerance)

    def test_it_proves_itself_on_the_golden_rollout(self, engine: Backend, tiny_golden: Golden) -> None:
        found = prove(engine, tiny_golden, tiny_golden.expected["tiny"], self.tolerance)
        assert found.largest <= self.tolerance
        assert_same(engine.snapshot(), {pair.input: pair.zeros() for pair in self.spec.states})

    def test_each_piece_of_memory_goes_back_where_it_came_from(
        self, engine: Backend, frames: NDArray[np.uint8]
    ) -> None:
        for pixels in frames[:3]:
            engine.infer(pixels)
        memory = engine.snapshot()
        right = copied(engine.infer(frames[3]))
        engine.restore({"h": memory["c"], "c": memory["h"]})
        swapped = engine.infer(frames[3])
        assert np.abs(right["digit_logits"].astype(float) - swapped["digit_logits"]).max() > 1e-2

    @pytest.mark.parametrize("between", [0, 1, 2, 7])
    def test_a_snapshot_brings_the_future_back_bit_for_bit(
        self, engine: Backend, frames: NDArray[np.uint8], between: int
    ) -> None:
        for pixels in frames[:5]:
            engine.infer(pixels)
        memory = engine.snapshot()
        future = [copied(engine.infer(pixels)) for pixels in frames[5:20]]
        last = engine.snapshot()
        for pixels in frames[20 : 20 + between]:
            engine.infer(pixels)
        engine.restore(memory)
        for expected, pixels in zip(future, frames[5:20], strict=True):
            assert_same(engine.infer(pixels), expected)
        assert_same(engine.snapshot(), last)

    def test_a_snapshot_is_the_callers(self, engine: Backend, frames: NDArray[np.uint8]) -> None:
        engine.infer(frames[0])
        memory = engine.snapshot()
        kept = copied(memory)
        engine.infer(frames[1])
        engine.infer(frames[2])
        assert_same(memory, kept)
        after = engine.snapshot()
        for array in engine.snapshot().values():
            array.fill(9)
        assert_same(engine.snapshot(), after)

    def test_restoring_copies_the_snapshot(self, engine: Backend, frames: NDArray[np.uint8]) -> None:
        engine.infer(frames[0])
        memory = engine.snapshot()
        kept = copied(memory)
        engine.restore(memory)
        for array in memory.values():
            array.fill(9)
        assert_same(engine.snapshot(), kept)

    @pytest.mark.parametrize("wrong", ["a name missing", "a name too many", "another shape", "another type", "empty"])
    def test_a_snapshot_that_does_not_fit_changes_nothing(
        self, engine: Backend, frames: NDArray[np.uint8], wrong: str
    ) -> None:
        engine.infer(frames[0])
        before = engine.snapshot()
        h, c = (np.full_like(before[name], 5) for name in ("h", "c"))
        snapshots: dict[str, Values] = {
            "a name missing": {"h": h},
            "a name too many": {"h": h, "c": c, "d": c},
            "another shape": {"h": h, "c": c.reshape(-1)},
            "another type": {"h": h, "c": c.astype(np.float64)},
            "empty": {},
        }
        with pytest.raises(BackendError, match="expected"):
            engine.restore(snapshots[wrong])
        assert_same(engine.snapshot(), before)

    def test_frames_may_be_views(self, engine: Backend, frames: NDArray[np.uint8]) -> None:
        mirrored = frames[0][::-1, ::-1]
        expected = copied(engine.infer(np.ascontiguousarray(mirrored)))
        engine.reset()
        assert_same(engine.infer(mirrored), expected)

    def test_the_frame_is_read_before_infer_returns(self, engine: Backend, frames: NDArray[np.uint8]) -> None:
        expected = [copied(engine.infer(pixels)) for pixels in frames[:2]]
        engine.reset()
        reused = frames[0].copy()
        assert_same(engine.infer(reused), expected[0])
        reused[:] = frames[1]
        assert_same(engine.infer(reused), expected[1])

    def test_two_backends_share_no_memory(self, engine: Backend, frames: NDArray[np.uint8]) -> None:
        alone = [copied(engine.infer(pixels)) for pixels in frames[:6]]
        engine.reset()
        other = self.backend()
        for expected, pixels, noise in zip(alone, frames[:6], frames[6:12], strict=True):
            outputs = engine.infer(pixels)
            other.infer(noise)
            assert_same(outputs, expected)
        other.close()

    def test_closing_twice_is_allowed(self) -> None:
        engine = self.backend()
        engine.close()
        engine.close()

    def test_a_closed_backend_says_so(self, frames: NDArray[np.uint8]) -> None:
        engine = self.backend()
        engine.infer(frames[0])
        engine.close()
        with pytest.raises(ClosedError, match="closed"):
            engine.infer(frames[0])

    @pytest.mark.parametrize("call", ["reset", "snapshot", "restore"])
    def test_the_memory_of_a_closed_backend_is_out_of_reach(self, call: str) -> None:
        engine = self.backend()
        memory = engine.snapshot()
        engine.close()
        with pytest.raises(ClosedError):
            getattr(engine, call)(*[memory] * (call == "restore"))


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
