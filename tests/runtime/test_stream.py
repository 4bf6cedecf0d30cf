from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_cnnlstm
from edge_cnnlstm.errors import BackendError, ClosedError, ConfigError, FrameError
from edge_cnnlstm.runtime.backends.base import Arrays, advance
from edge_cnnlstm.runtime.backends.ort import OnnxRuntimeBackend
from edge_cnnlstm.runtime.backends.scripted import Script, ScriptedBackend
from edge_cnnlstm.runtime.frame import Frame, Pixels
from edge_cnnlstm.runtime.stream import WARM_UP_STEPS, Stream
from edge_cnnlstm.spec import ModelSpec
from tests.conftest import tiny_frames
from tests.runtime.backend_contract import assert_same
from tests.runtime.doubles import BAD_FRAMES, FRAME, said


@pytest.fixture
def stream(tiny_onnx: bytes, tiny_spec: ModelSpec) -> Stream:
    return Stream(OnnxRuntimeBackend(tiny_onnx, tiny_spec))


@pytest.mark.parametrize("wrapped", [False, True], ids=["array", "Frame"])
@pytest.mark.parametrize(
    "bad", BAD_FRAMES, ids=lambda bad: f"{getattr(bad, 'dtype', type(bad).__name__)}-{np.shape(bad)}"
)
def test_a_bad_frame_is_refused_and_the_memory_untouched(stream: Stream, bad: Any, wrapped: bool) -> None:
    stream.step(tiny_frames(1, seed=1)[0])
    before = stream.snapshot()
    with pytest.raises(FrameError) as caught:
        stream.step(Frame(bad, 5, time.monotonic_ns()) if wrapped else bad)
    assert_same(stream.snapshot(), before)
    found = str(bad.shape) if isinstance(bad, np.ndarray) else type(bad).__name__
    assert found in caught.value.found
    assert "uint8 (8, 8, 3)" in caught.value.expected
    assert "fit=stream.fit" in caught.value.fix
    assert all(part in str(caught.value) for part in (caught.value.found, "expected:", "to fix:"))


def test_a_thousand_bad_frames_change_no_later_prediction(tiny_onnx: bytes, tiny_spec: ModelSpec) -> None:
    disturbed, calm = (Stream(OnnxRuntimeBackend(tiny_onnx, tiny_spec)) for _ in range(2))
    refused = 0
    for pixels in tiny_frames(100, seed=2):
        for _ in range(10):
            with pytest.raises(FrameError):
                disturbed.step(BAD_FRAMES[refused % len(BAD_FRAMES)])
            refused += 1
        found, expected = disturbed.step(pixels), calm.step(pixels)
        assert said(found) == said(expected)
        assert found.frame_index == expected.frame_index
        assert found.first_after_reset == expected.first_after_reset
    assert refused == 1000
    assert disturbed.latency.stages["age"].count == 100
    assert_same(disturbed.snapshot(), calm.snapshot())


def test_the_warm_up_never_reaches_the_memory(stream: Stream, tiny_spec: ModelSpec, tiny_script: Script) -> None:
    assert_same(stream.snapshot(), {pair.input: pair.zeros() for pair in tiny_spec.states})
    pixels = tiny_frames(1, seed=3)[0]
    outputs, _ = tiny_script(pixels, {pair.input: pair.zeros() for pair in tiny_spec.states})
    logits = outputs["digit_logits"][0].astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(stream.step(pixels).scores, expected, atol=1e-6)
    assert stream.latency.stages["age"].count == 1
    assert not stream.resets


def test_the_first_prediction_after_a_reset_says_so(stream: Stream) -> None:
    first, second, third, fourth = tiny_frames(4, seed=4)
    assert stream.step(first).first_after_reset
    assert not stream.step(second).first_after_reset
    stream.reset()
    with pytest.raises(FrameError):
        stream.step(None)  # type: ignore[arg-type]
    assert stream.step(third).first_after_reset
    assert not stream.step(fourth).first_after_reset


def test_a_reset_forgets_everything(stream: Stream) -> None:
    frames = tiny_frames(6, seed=5)
    before = [said(stream.step(pixels)) for pixels in frames]
    stream.reset()
    assert [said(stream.step(pixels)) for pixels in frames] == before


def test_resets_are_counted_by_reason(stream: Stream) -> None:
    stream.reset()
    stream.reset("gap")
    stream.reset("gap")
    assert dict(stream.resets) == {"requested": 1, "gap": 2}


def test_a_snapshot_brings_the_stream_back(stream: Stream) -> None:
    frames = tiny_frames(9, seed=6)
    for pixels in frames[:3]:
        stream.step(pixels)
    memory = stream.snapshot()
    future = [said(stream.step(pixels)) for pixels in frames[3:]]
    stream.reset()
    stream.restore(memory)
    again = [stream.step(pixels) for pixels in frames[3:]]
    assert [said(prediction) for prediction in again] == future
    assert not again[0].first_after_reset


def test_restoring_empty_memory_is_a_fresh_start(stream: Stream) -> None:
    empty = stream.snapshot()
    stream.step(FRAME)
    stream.restore(empty)
    assert stream.step(FRAME).first_after_reset


def test_a_snapshot_that_does_not_fit_leaves_the_stream_as_it_was(stream: Stream) -> None:
    memory = stream.snapshot()
    with pytest.raises(BackendError, match="snapshot"):
        stream.restore({"h": memory["h"]})
    assert stream.step(FRAME).first_after_reset


@pytest.mark.parametrize("failing", [0, 1, 4])
def test_a_failing_step_leaves_memory_marks_and_counts_as_they_were(
    tiny_spec: ModelSpec, tiny_script: Script, failing: int
) -> None:
    at = frozenset({WARM_UP_STEPS + failing})
    stream, spared = (
        Stream(ScriptedBackend(tiny_spec, tiny_script, fail_at=at)),
        Stream(ScriptedBackend(tiny_spec, tiny_script)),
    )
    frames = tiny_frames(6, seed=7)
    for pixels in frames[:failing]:
        stream.step(pixels)
        spared.step(pixels)
    before = stream.snapshot()
    with pytest.raises(BackendError, match=f"step {WARM_UP_STEPS + failing}"):
        stream.step(frames[failing])
    assert_same(stream.snapshot(), before)
    assert stream.latency.stages["age"].count == failing
    for pixels in frames[failing:]:
        found, expected = stream.step(pixels), spared.step(pixels)
        assert said(found) == said(expected)
        assert (found.frame_index, found.first_after_reset) == (expected.frame_index, expected.first_after_reset)


def test_timings_add_up_to_the_age(stream: Stream) -> None:
    captured = time.monotonic_ns() - 5_000_000
    for index, pixels in enumerate(tiny_frames(20, seed=8)):
        timings = stream.step(Frame(pixels, index, captured, fit_ns=1_000_000)).timings
        assert timings.wait + timings.fit + timings.infer + timings.decode == timings.age
        assert timings.fit == 1_000_000
        assert timings.wait >= 4_000_000
        assert timings.infer >= 0
        assert timings.decode >= 0
        assert timings.age >= 5_000_000


def test_a_bare_array_is_captured_when_it_arrives(stream: Stream) -> None:
    before = time.monotonic_ns()
    prediction = stream.step(FRAME)
    assert before <= prediction.captured_ns <= time.monotonic_ns()
    assert prediction.captured_ns + prediction.timings.age <= time.monotonic_ns()
    assert prediction.timings.fit == 0


def test_bare_arrays_are_numbered_after_the_last_frame(stream: Stream) -> None:
    assert [stream.step(FRAME).frame_index for _ in range(3)] == [0, 1, 2]
    assert stream.step(Frame(FRAME, 40, time.monotonic_ns())).frame_index == 40
    assert stream.step(FRAME).frame_index == 41


@pytest.mark.parametrize(
    "view", ["mirrored", "every second", "rotated", "one of a batch", "read-only", "Fortran order"]
)
def test_a_view_is_as_good_as_an_array(tiny_onnx: bytes, tiny_spec: ModelSpec, view: str) -> None:
    large = np.random.default_rng(9).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    locked = large[:8, :8].copy()
    locked.flags.writeable = False
    views: dict[str, Pixels] = {
        "mirrored": large[7::-1, 7::-1, ::-1],
        "every second": large[::2, ::2],
        "rotated": large[:8, 8:].transpose(1, 0, 2),
        "one of a batch": large.reshape(4, 8, 8, 3)[2],
        "read-only": locked,
        "Fortran order": np.asfortranarray(large[:8, :8]),
    }
    viewing, copying = (Stream(OnnxRuntimeBackend(tiny_onnx, tiny_spec)) for _ in range(2))
    for _ in range(3):
        assert said(viewing.step(views[view])) == said(copying.step(np.array(views[view], order="C")))


def test_the_frame_stays_the_callers(stream: Stream) -> None:
    pixels = tiny_frames(1, seed=10)[0]
    kept = pixels.copy()
    for _ in range(3):
        stream.step(pixels)
    np.testing.assert_array_equal(pixels, kept)


def test_a_closed_stream_says_so(stream: Stream) -> None:
    stream.step(FRAME)
    stream.close()
    stream.close()
    with pytest.raises(ClosedError, match="closed stream"):
        stream.step(FRAME)
    with pytest.raises(ClosedError):
        stream.step(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("call", ["reset", "snapshot", "restore"])
def test_the_memory_of_a_closed_stream_is_out_of_reach(stream: Stream, call: str) -> None:
    memory = stream.snapshot()
    stream.close()
    with pytest.raises(ClosedError):
        getattr(stream, call)(*[memory] * (call == "restore"))
    assert not stream.resets


def test_leaving_the_block_closes_the_stream_even_after_an_error(tiny_bundle: Path) -> None:
    with pytest.raises(FrameError), edge_cnnlstm.open(tiny_bundle) as stream:
        stream.step(None)  # type: ignore[arg-type]
    with pytest.raises(ClosedError):
        stream.step(FRAME)


def test_latency_counts_every_prediction(stream: Stream) -> None:
    for pixels in tiny_frames(25, seed=11):
        stream.step(pixels)
    assert {name: histogram.count for name, histogram in stream.latency.stages.items()} == dict.fromkeys(
        ("wait", "fit", "infer", "decode", "age"), 25
    )


def test_a_late_prediction_counts_as_a_miss(tiny_onnx: bytes, tiny_spec: ModelSpec) -> None:
    stream = Stream(OnnxRuntimeBackend(tiny_onnx, tiny_spec), deadline_ms=60_000.0)
    now = time.monotonic_ns()
    for index, minutes in enumerate([0, 2, 2, 2, 0, 2]):
        stream.step(Frame(FRAME, index, now - minutes * 60_000_000_000))
    assert stream.latency.deadline_misses == 4
    assert stream.latency.longest_miss_burst == 3


@pytest.mark.parametrize("deadline", [float("nan"), float("inf"), -1.0])
def test_a_deadline_that_is_no_time_is_refused(tiny_onnx: bytes, tiny_spec: ModelSpec, deadline: float) -> None:
    with pytest.raises(ConfigError):
        Stream(OnnxRuntimeBackend(tiny_onnx, tiny_spec), deadline_ms=deadline)


def test_a_stream_that_cannot_warm_up_closes_its_backend(tiny_spec: ModelSpec, tiny_script: Script) -> None:
    backend = ScriptedBackend(tiny_spec, tiny_script, fail_at=frozenset({3}))
    with pytest.raises(BackendError, match="step 3"):
        Stream(backend)
    with pytest.raises(ClosedError):
        advance(backend, FRAME)


def test_memory_that_has_become_nan_does_not_pass_for_an_answer(tiny_spec: ModelSpec, tiny_script: Script) -> None:
    steps = 0

    def script(pixels: Pixels, state: Arrays) -> tuple[Arrays, Arrays]:
        nonlocal steps
        steps += 1
        outputs, after = tiny_script(pixels, state)
        if steps == WARM_UP_STEPS + 2:
            after = {name: np.full_like(array, np.nan) for name, array in after.items()}
        return outputs, after

    stream = Stream(ScriptedBackend(tiny_spec, script))
    first, poisoned = tiny_frames(2, seed=12)
    stream.step(first)
    with pytest.raises(BackendError, match="memory holds NaN"):
        stream.step(poisoned)
    prediction = stream.step(FRAME)
    assert np.isfinite(prediction.scores).all()
    assert prediction.reset_reason == "not finite"
    assert stream.resets == {"not finite": 1}
