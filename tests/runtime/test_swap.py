"""A new engine between two frames: it goes on, or starts anew and says so; what does not fit changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge_cnnlstm.errors import BackendError, ClosedError, ConfigError, ThreadError
from edge_cnnlstm.runtime.backends.base import Arrays, Backend
from edge_cnnlstm.runtime.backends.ort import OnnxRuntimeBackend
from edge_cnnlstm.runtime.backends.scripted import Script
from edge_cnnlstm.runtime.frame import Frame, Pixels
from edge_cnnlstm.runtime.stream import Stream
from edge_cnnlstm.spec import HeadSpec, ModelSpec, StateRules, TensorSpec
from tests.conftest import tiny_frames
from tests.runtime.backend_contract import assert_same
from tests.runtime.doubles import FRAME, MS, PERIOD, CountingBackend, film, said, telling_time, timed, told

Make = Callable[..., Backend]


@pytest.fixture(params=["scripted", "onnxruntime"])
def make(request: pytest.FixtureRequest, tiny_spec: ModelSpec, tiny_script: Script, tiny_onnx: bytes) -> Make:
    if request.param == "scripted":
        return lambda: CountingBackend(tiny_spec, tiny_script)
    return lambda: OnnxRuntimeBackend(tiny_onnx, tiny_spec)


@pytest.mark.parametrize("before", [1, 2])
@pytest.mark.parametrize("aside", [0, 1])
def test_the_very_same_graph_goes_on_bit_for_bit(make: Make, before: int, aside: int) -> None:
    stream, alone, fresh = (Stream(make(), digest="a" * 64) for _ in range(3))
    frames = film(tiny_frames(8, seed=1))
    for frame in frames[:before]:
        stream.step(frame)
        alone.step(frame)
    for pixels in tiny_frames(aside, seed=2):
        fresh.step(pixels)
    assert stream.swap(fresh)
    assert_same(stream.snapshot(), alone.snapshot())
    for frame in frames[before:]:
        assert told(stream.step(frame)) == told(alone.step(frame))
    assert not stream.resets


@pytest.mark.parametrize(("mine", "other"), [("a", "b"), ("a", None), (None, "a"), (None, None)])
@pytest.mark.parametrize("aside", [0, 1])
def test_another_graph_starts_anew_and_says_why(make: Make, mine: str | None, other: str | None, aside: int) -> None:
    stream, fresh, unused = Stream(make(), digest=mine), Stream(make(), digest=other), Stream(make())
    for pixels in tiny_frames(3, seed=1):
        stream.step(pixels)
    for pixels in tiny_frames(aside, seed=2):
        fresh.step(pixels)
    assert not stream.swap(fresh)
    assert stream.resets == {"model changed": 1}
    prediction = stream.step(FRAME)
    assert (prediction.first_after_reset, prediction.reset_reason) == (True, "model changed")
    assert said(prediction) == said(unused.step(FRAME))
    assert_same(stream.snapshot(), unused.snapshot())
    assert not stream.step(FRAME).first_after_reset


def _larger(spec: ModelSpec) -> ModelSpec:
    return replace(spec, frame=TensorSpec("frame", (1, 8, 9, 3), "uint8"))


def _stretched(spec: ModelSpec) -> ModelSpec:
    return replace(spec, fit="stretch")


def _other_labels(spec: ModelSpec) -> ModelSpec:
    return replace(spec, heads=(replace(spec.heads[0], labels=("zero", "one", "three")), *spec.heads[1:]))


def _head_missing(spec: ModelSpec) -> ModelSpec:
    return replace(spec, heads=spec.heads[:1])


@pytest.mark.parametrize("change", [_larger, _stretched, _other_labels, _head_missing])
def test_a_network_that_sources_and_sinks_would_not_fit_is_refused_and_nothing_changes(
    tiny_spec: ModelSpec, tiny_script: Script, change: Callable[[ModelSpec], ModelSpec]
) -> None:
    stream, alone = (Stream(CountingBackend(tiny_spec, tiny_script)) for _ in range(2))
    for pixels in tiny_frames(3, seed=1):
        stream.step(pixels), alone.step(pixels)

    def any_width(pixels: Pixels, state: Arrays) -> tuple[Arrays, Arrays]:
        return tiny_script(pixels[:, :8], state)

    other = Stream(CountingBackend(change(tiny_spec), any_width))
    with pytest.raises(ConfigError, match="open a new stream"):
        stream.swap(other)
    assert_same(stream.snapshot(), alone.snapshot())
    assert told(stream.step(FRAME)) == told(alone.step(FRAME))
    assert not stream.resets
    assert other.step(np.zeros(other.spec.frame.shape[1:], np.uint8)).reset_reason == "start"
    assert stream.backend.closed == other.backend.closed == 0  # type: ignore[attr-defined]


def test_memory_of_the_same_graph_that_does_not_fit_changes_nothing(tiny_spec: ModelSpec, tiny_script: Script) -> None:
    def of_another_name(pixels: Pixels, state: Arrays) -> tuple[Arrays, Arrays]:
        outputs, after = tiny_script(pixels, {"h": state["h"], "c": state["d"]})
        return outputs, {"h": after["h"], "d": after["c"]}

    renamed = replace(tiny_spec, states=(tiny_spec.states[0], replace(tiny_spec.states[1], input="d")))
    stream = Stream(CountingBackend(tiny_spec, tiny_script), digest="a")
    other = Stream(CountingBackend(renamed, of_another_name), digest="a")
    with pytest.raises(BackendError, match="snapshot"):
        stream.swap(other)
    assert stream.step(FRAME).reset_reason == other.step(FRAME).reset_reason == "start"


@pytest.mark.parametrize("digest", ["a", "b"])
def test_each_engine_is_closed_exactly_once_by_whoever_owns_it(
    tiny_spec: ModelSpec, tiny_script: Script, digest: str
) -> None:
    old, new = (CountingBackend(tiny_spec, tiny_script) for _ in range(2))
    stream, fresh = Stream(old, digest="a"), Stream(new, digest=digest)
    stream.swap(fresh)
    assert (old.closed, new.closed) == (1, 0)
    with pytest.raises(ClosedError):
        fresh.step(FRAME)
    fresh.close()
    assert (old.closed, new.closed) == (1, 0)
    stream.step(FRAME)
    stream.close()
    stream.close()
    assert (old.closed, new.closed) == (1, 1)


@pytest.mark.parametrize("interrupted", ["stream", "fresh"])
def test_a_close_in_the_middle_of_a_swap_closes_what_its_stream_owns_at_the_end(
    tiny_spec: ModelSpec, tiny_script: Script, interrupted: str
) -> None:
    old, new = (CountingBackend(tiny_spec, tiny_script) for _ in range(2))
    stream, fresh = Stream(old, digest="a"), Stream(new, digest="a")
    snapshot = old.state.snapshot

    def closing() -> Any:
        {"stream": stream, "fresh": fresh}[interrupted].close()  # as a signal handler would
        return snapshot()

    old.state.snapshot = closing  # type: ignore[assignment,method-assign]
    stream.swap(fresh)
    assert (old.closed, new.closed) == (1, 1 if interrupted == "stream" else 0)
    if interrupted == "stream":
        with pytest.raises(ClosedError):
            stream.step(FRAME)
    else:
        stream.step(FRAME)
        stream.close()
        assert new.closed == 1


def test_a_closed_stream_neither_swaps_nor_is_swapped_in(make: Make) -> None:
    stream, closed = Stream(make()), Stream(make())
    closed.close()
    with pytest.raises(ClosedError):
        stream.swap(closed)
    with pytest.raises(ClosedError):
        closed.swap(stream)
    assert stream.step(FRAME).reset_reason == "start"


def test_a_stream_does_not_swap_with_itself(make: Make) -> None:
    stream = Stream(make(), digest="a")
    with pytest.raises(ThreadError):
        stream.swap(stream)
    assert stream.step(FRAME).reset_reason == "start"


def test_history_goes_on_after_a_swap(tiny_spec: ModelSpec, tiny_script: Script) -> None:
    stream, fresh = (Stream(CountingBackend(tiny_spec, tiny_script), deadline_ms=1.0) for _ in range(2))
    first, second, third, fourth, sixth = (film(tiny_frames(6, seed=1))[at] for at in (0, 1, 2, 3, 5))
    latency = stream.latency
    stream.step(first), stream.step(second)
    stream.reset("night")
    fresh.step(first)
    stream.swap(fresh)
    stream.step(third), stream.step(fourth), stream.step(sixth)
    assert stream.latency is latency
    assert latency.stages["age"].count == latency.deadline_misses == 5
    assert latency.lost == 1
    assert dict(stream.resets) == {"night": 1, "model changed": 1}
    assert stream.step(FRAME).frame_index == 6


def test_the_new_network_is_read_by_its_own_description(tiny_spec: ModelSpec, tiny_script: Script) -> None:
    head = HeadSpec("sign", "classify", ("sign_logits",), ("stop", "go"))

    def told_in(width: int) -> Stream:
        spec = replace(tiny_spec, outputs=(TensorSpec("sign_logits", (1, width), "float32"),), heads=(head,))
        logits = np.array([[-2.0, 3.0][-width:]], np.float32)
        return Stream(CountingBackend(spec, lambda _, state: ({"sign_logits": logits}, state)))

    for mine, other in ((1, 2), (2, 1)):
        stream = told_in(mine)
        stream.swap(told_in(other))
        prediction, expected = stream.step(FRAME), told_in(other).step(FRAME)
        assert prediction.answers == expected.answers
        assert len(prediction.scores) == 2


def test_the_new_network_follows_the_rules_that_came_with_it_unless_the_stream_was_given_some(
    tiny_spec: ModelSpec, tiny_script: Script
) -> None:
    patient = replace(tiny_spec, rules=StateRules(gap_ms=None))
    early = Frame(FRAME, 0, 10**9)
    late = Frame(FRAME, 1, 10**9 + 5000 * MS)
    for given, expected in ((None, None), (StateRules(gap_ms=1.0), "gap")):
        stream = Stream(CountingBackend(tiny_spec, tiny_script), rules=given, digest="a")
        stream.step(early)
        assert stream.swap(Stream(CountingBackend(patient, tiny_script), digest="a"))
        assert stream.step(late).reset_reason == expected
        assert stream.rules == (given or patient.rules)


def test_a_new_network_that_asks_for_the_time_is_told(tiny_spec: ModelSpec, tiny_script: Script) -> None:
    heard: list[float] = []
    stream = Stream(CountingBackend(tiny_spec, tiny_script))
    frames = film(tiny_frames(5, seed=1))
    stream.step(frames[0])
    stream.swap(Stream(CountingBackend(timed(tiny_spec), telling_time(tiny_script, heard))))
    heard.clear()
    stream.step(frames[1]), stream.step(frames[2])
    stream.swap(Stream(CountingBackend(tiny_spec, tiny_script)))
    stream.step(frames[3])
    assert heard == [0, pytest.approx(PERIOD / 1e9)]
