"""The rules by which a stream forgets: when each applies, that it is counted and told, and that it can be left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_cnnlstm.errors import BackendError, ConfigError, FrameError
from edge_cnnlstm.runtime.backends.base import Arrays
from edge_cnnlstm.runtime.backends.scripted import Script, ScriptedBackend
from edge_cnnlstm.runtime.frame import Frame, Pixels
from edge_cnnlstm.runtime.group import StreamGroup
from edge_cnnlstm.runtime.prediction import Prediction
from edge_cnnlstm.runtime.stream import WARM_UP_STEPS, Stream
from edge_cnnlstm.spec import ModelSpec, StateRules
from tests.conftest import tiny_frames
from tests.runtime.backend_contract import assert_same
from tests.runtime.doubles import BAD_FRAMES, FRAME, MS, PERIOD, Clock, film, said, telling_time, timed, told

GAP_MS = 1000.0
START = 10**9
POISON, SPOILT = np.full_like(FRAME, 255), np.full_like(FRAME, 254)
"""Frames that make NaN of the memory, and of the answer only."""


def with_rules(spec: ModelSpec, script: Script, rules: StateRules | None = None) -> Stream:
    return Stream(ScriptedBackend(spec, script), rules=rules)


def breakable(script: Script) -> Script:
    def breaking(pixels: Pixels, state: Arrays) -> tuple[Arrays, Arrays]:
        outputs, after = script(pixels, state)
        if np.array_equal(pixels, POISON):
            after = {name: np.full_like(array, np.nan) for name, array in after.items()}
        if np.array_equal(pixels, SPOILT):
            outputs = {**outputs, "target_presence": np.full_like(outputs["target_presence"], np.inf)}
        return outputs, after

    return breaking


def begun(stream: Stream) -> Stream:
    """Three frames from the camera, numbered 0 to 2, a period apart; the last at START + 2 × PERIOD."""
    for frame in film(tiny_frames(3, seed=1), start=START):
        stream.step(frame)
    return stream


def fourth(*, index: int = 3, later: int = PERIOD, source: str = "camera") -> Frame:
    return Frame(FRAME, index, START + 2 * PERIOD + later, source=source)


def assert_fresh(stream: Stream, prediction: Prediction, reason: str, spec: ModelSpec, script: Script) -> None:
    """The stream answered FRAME as if it had seen nothing before, said so once, and counted it once."""
    fresh = with_rules(spec, script)
    assert said(prediction) == said(fresh.step(FRAME))
    assert_same(stream.snapshot(), fresh.snapshot())
    assert (prediction.first_after_reset, prediction.reset_reason) == (True, reason)
    assert dict(stream.resets) == {reason: 1}
    source = stream._lane.continuity.source
    following = stream.step(Frame(FRAME, prediction.frame_index + 1, prediction.captured_ns + 1, source=source))
    assert (following.first_after_reset, following.reset_reason) == (False, None)
    assert said(following) == said(fresh.step(FRAME))


def assert_went_on(stream: Stream, prediction: Prediction, spec: ModelSpec, script: Script) -> None:
    """The stream answered FRAME as one that no rule ever stops."""
    lasting = begun(with_rules(spec, script))
    assert said(prediction) == said(lasting.step(fourth()))
    assert_same(stream.snapshot(), lasting.snapshot())
    assert (prediction.first_after_reset, prediction.reset_reason) == (False, None)
    assert not stream.resets


@pytest.mark.parametrize(("beyond", "resets"), [(-1, False), (0, False), (1, True)])
def test_a_gap_empties_the_memory_only_beyond_its_limit(
    tiny_spec: ModelSpec, tiny_script: Script, beyond: int, resets: bool
) -> None:
    stream = begun(with_rules(tiny_spec, tiny_script))
    prediction = stream.step(fourth(later=round(GAP_MS * MS) + beyond))
    if resets:
        assert_fresh(stream, prediction, "gap", tiny_spec, tiny_script)
    else:
        assert_went_on(stream, prediction, tiny_spec, tiny_script)


@pytest.mark.parametrize(("beyond", "resets"), [(-1, False), (0, False), (1, True)])
def test_idling_empties_the_memory_only_beyond_its_limit_whenever_frames_were_captured(
    clock: Clock, tiny_spec: ModelSpec, tiny_script: Script, beyond: int, resets: bool
) -> None:
    stream = begun(with_rules(tiny_spec, tiny_script, StateRules(idle_ms=500.0)))
    clock.now += 500 * MS + beyond
    prediction = stream.step(fourth())
    if resets:
        assert_fresh(stream, prediction, "idle", tiny_spec, tiny_script)
    else:
        assert_went_on(stream, prediction, tiny_spec, tiny_script)


BREAKS = {
    "source change": fourth(source="another camera"),
    "gap": fourth(later=round(GAP_MS * MS) + 1),
    "the same index": fourth(index=2),
    "a lower index": fourth(index=0),
    "an earlier capture": fourth(later=-1),
}
REASONS = {"the same index": "seek", "a lower index": "seek", "an earlier capture": "seek"}
WITHOUT = {
    "source change": StateRules(source_change=False),
    "gap": StateRules(gap_ms=None),
    "seek": StateRules(seek=False),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_a_frame_that_breaks_a_rule_finds_an_empty_memory(tiny_spec: ModelSpec, tiny_script: Script, kind: str) -> None:
    stream = begun(with_rules(tiny_spec, tiny_script))
    prediction = stream.step(BREAKS[kind])
    assert (prediction.first_after_reset, prediction.reset_reason) == (True, REASONS.get(kind, kind))
    assert dict(stream.resets) == {REASONS.get(kind, kind): 1}
    fresh = with_rules(tiny_spec, tiny_script)
    assert said(prediction) == said(fresh.step(FRAME))
    assert_same(stream.snapshot(), fresh.snapshot())


@pytest.mark.parametrize("kind", BREAKS)
def test_a_rule_that_is_switched_off_never_applies(tiny_spec: ModelSpec, tiny_script: Script, kind: str) -> None:
    rules = WITHOUT[REASONS.get(kind, kind)]
    stream = begun(with_rules(tiny_spec, tiny_script, rules))
    assert_went_on(stream, stream.step(BREAKS[kind]), tiny_spec, tiny_script)


def test_idling_is_allowed_unless_the_network_says_otherwise(
    clock: Clock, tiny_spec: ModelSpec, tiny_script: Script
) -> None:
    stream = begun(with_rules(tiny_spec, tiny_script))
    clock.now += 3_600_000 * MS
    assert_went_on(stream, stream.step(fourth()), tiny_spec, tiny_script)


def test_where_the_source_may_change_the_frames_of_another_may_have_any_number(
    tiny_spec: ModelSpec, tiny_script: Script
) -> None:
    stream = begun(with_rules(tiny_spec, tiny_script, StateRules(source_change=False)))
    assert_went_on(stream, stream.step(fourth(index=0, source="another camera")), tiny_spec, tiny_script)


def test_the_rules_are_those_of_the_network_unless_others_are_given(tiny_spec: ModelSpec, tiny_script: Script) -> None:
    patient = replace(tiny_spec, rules=StateRules(gap_ms=60_000.0, seek=False))
    later = fourth(later=2000 * MS)
    assert begun(with_rules(patient, tiny_script)).step(later).reset_reason is None
    assert begun(with_rules(tiny_spec, tiny_script)).step(later).reset_reason == "gap"
    assert begun(with_rules(patient, tiny_script, StateRules())).step(later).reset_reason == "gap"
    assert with_rules(patient, tiny_script).rules == patient.rules
    assert with_rules(patient, tiny_script, StateRules()).rules == StateRules()


@pytest.mark.parametrize("rule", ["gap_ms", "idle_ms"])
@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_that_is_no_time_is_refused(rule: str, limit: float) -> None:
    with pytest.raises(ConfigError, match=rule):
        StateRules(**{rule: limit})


def test_bare_arrays_never_seek_nor_change_the_source(clock: Clock, tiny_spec: ModelSpec, tiny_script: Script) -> None:
    stream = with_rules(tiny_spec, tiny_script)
    start = clock.now
    kinds: list[Frame | Pixels] = [
        FRAME,
        Frame(FRAME, 40, start, source="camera"),
        FRAME,
        FRAME,
        Frame(FRAME, 43, start + MS, source="camera"),  # by a clock that is ahead
        FRAME,
    ]
    for frame in kinds:
        stream.step(frame)
        clock.now += 1
    assert dict(stream.resets) == {"source change": 1}


def test_a_gap_between_bare_arrays_counts_too(clock: Clock, scripted: Stream) -> None:
    scripted.step(FRAME)
    clock.now += round(GAP_MS * MS)
    assert scripted.step(FRAME).reset_reason is None
    clock.now += round(GAP_MS * MS) + 1
    assert scripted.step(FRAME).reset_reason == "gap"


@pytest.mark.parametrize(("poison", "where"), [(POISON, "memory"), (SPOILT, "target_presence")])
@pytest.mark.parametrize("before", [0, 1, 2])
def test_poison_never_outlives_its_frame(
    tiny_spec: ModelSpec, tiny_script: Script, poison: Pixels, where: str, before: int
) -> None:
    stream = with_rules(tiny_spec, breakable(tiny_script))
    for pixels in tiny_frames(before, seed=2):
        stream.step(pixels)
    with pytest.raises(BackendError, match=f"{where}.*NaN or infinity"):
        stream.step(poison)
    assert not any(array.any() for array in stream.snapshot().values())
    assert stream.latency.stages["age"].count == before
    assert_fresh(stream, stream.step(FRAME), "not finite", tiny_spec, tiny_script)


def test_memory_that_was_restored_with_poison_is_emptied_too(tiny_spec: ModelSpec, tiny_script: Script) -> None:
    stream = with_rules(tiny_spec, tiny_script)
    stream.restore({name: np.full_like(array, np.nan) for name, array in stream.snapshot().items()})
    with pytest.raises(BackendError, match="NaN or infinity"):
        stream.step(FRAME)
    assert_fresh(stream, stream.step(FRAME), "not finite", tiny_spec, tiny_script)


def test_large_but_finite_memory_is_no_poison(tiny_spec: ModelSpec, tiny_script: Script) -> None:
    def huge(pixels: Pixels, state: Arrays) -> tuple[Arrays, Arrays]:
        outputs, _ = tiny_script(pixels, {name: np.zeros_like(array) for name, array in state.items()})
        return outputs, {name: np.full_like(array, 3e38) for name, array in state.items()}

    stream = with_rules(tiny_spec, huge)
    assert stream.step(FRAME).reset_reason == "start"
    assert not stream.resets


@pytest.mark.parametrize("poison", [POISON, SPOILT])
def test_where_poison_is_allowed_the_answer_is_what_the_network_said(
    tiny_spec: ModelSpec, tiny_script: Script, poison: Pixels
) -> None:
    stream = with_rules(tiny_spec, breakable(tiny_script), StateRules(not_finite=False))
    stream.step(poison)
    stream.step(FRAME)
    assert not stream.resets


def test_a_refused_frame_changes_nothing_but_its_count(clock: Clock, scripted: Stream, twin: Stream) -> None:
    begun(scripted), begun(twin)
    for count, bad in enumerate(BAD_FRAMES, start=1):
        clock.now += 10
        # Each would break every rule, and be lost frames, were it not refused.
        refused = Frame(bad, 10_000 * (count % 2), START + 10_000 * MS * count, source="another camera")
        with pytest.raises(FrameError):
            scripted.step(refused)
        assert scripted.refused == count
    assert told(scripted.step(fourth())) == told(twin.step(fourth()))
    assert_same(scripted.snapshot(), twin.snapshot())
    assert scripted.resets == twin.resets == {}
    assert (scripted.latency.lost, scripted.latency.clock_faults) == (0, 0)
    assert scripted.latency.stages["age"].count == 4
    assert told(scripted.step(FRAME)) == told(twin.step(FRAME))


@pytest.mark.parametrize("kind", BREAKS)
def test_after_a_restore_no_rule_applies_to_the_next_frame(
    tiny_spec: ModelSpec, tiny_script: Script, kind: str
) -> None:
    stream = begun(with_rules(tiny_spec, tiny_script, StateRules(idle_ms=0.001)))
    stream.resets.clear()
    memory = stream.snapshot()
    stream.restore(memory)
    prediction = stream.step(BREAKS[kind])
    expected = with_rules(tiny_spec, tiny_script)
    expected.restore(memory)
    assert said(prediction) == said(expected.step(FRAME))
    assert not stream.resets
    assert not prediction.first_after_reset
    assert stream.latency.lost == 0


def test_a_reset_is_told_by_the_next_prediction_however_many_frames_fail_before_it(
    tiny_spec: ModelSpec, tiny_script: Script
) -> None:
    stream = begun(with_rules(tiny_spec, breakable(tiny_script)))
    stream.reset("night")
    with pytest.raises(FrameError):
        stream.step(None)  # type: ignore[arg-type]
    assert stream.step(FRAME).reset_reason == "night"
    stream.reset("night")
    with pytest.raises(BackendError):
        stream.step(POISON)
    assert stream.step(FRAME).reset_reason == "not finite"
    assert dict(stream.resets) == {"night": 2, "not finite": 1}


def test_a_network_that_asks_gets_the_true_seconds_since_its_last_frame(
    clock: Clock, tiny_spec: ModelSpec, tiny_script: Script
) -> None:
    alone: list[float] = []
    stream = Stream(ScriptedBackend(timed(tiny_spec), telling_time(tiny_script, alone)))
    shared: list[float] = []
    group = StreamGroup(ScriptedBackend(timed(tiny_spec.batched(2)), telling_time(tiny_script, shared)))
    group.join("empty")
    member = group.join("camera")
    alone.clear(), shared.clear()

    def both(index: int, captured: int, source: str = "camera", pixels: Pixels = FRAME) -> None:
        frame = Frame(pixels, index, captured, source=source)
        prediction = stream.step(frame)
        assert group.step({member: frame})[member] == prediction
        assert_same(group.snapshot(member), stream.snapshot())

    both(0, START)
    both(1, START + 33 * MS)
    both(5, START + 500 * MS)
    for refusing in (stream, group):
        with pytest.raises(FrameError):
            refusing.step({member: None} if refusing is group else None)  # type: ignore[arg-type]
    both(6, START + 1500 * MS)
    both(7, START + 2500 * MS + 1)  # a gap
    both(8, START + 2510 * MS)
    both(8, START + 2520 * MS)  # a seek
    both(0, START + 2530 * MS, source="another")
    stream.reset(), group.reset(member)
    both(1, START + 2540 * MS, source="another")
    both(2, START + 2550 * MS, source="another")
    memory = stream.snapshot()
    stream.restore(memory), group.restore(member, memory)
    both(3, START + 2560 * MS, source="another")
    both(4, START + 2560 * MS, source="another")

    expected = [0, 0.033, 0.467, 1.0, 0, 0.009999999, 0, 0, 0, 0.01, 0, 0]
    assert alone == [float(np.float32(seconds)) for seconds in expected]
    assert shared[1::2] == alone
    clock.now += 1


def test_a_network_that_asks_learns_of_frames_from_the_past_as_no_time_at_all(
    tiny_spec: ModelSpec, tiny_script: Script
) -> None:
    heard: list[float] = []
    backend = ScriptedBackend(timed(tiny_spec), telling_time(tiny_script, heard))
    stream = begun(Stream(backend, rules=StateRules(seek=False)))
    stream.step(fourth(later=-PERIOD))
    assert heard[-1] == 0
    assert not stream.resets


def test_an_engine_that_fails_at_a_frame_that_broke_a_rule_leaves_the_memory_empty_and_the_reason_known(
    tiny_spec: ModelSpec, tiny_script: Script
) -> None:
    stream = Stream(ScriptedBackend(tiny_spec, tiny_script, fail_at=frozenset({WARM_UP_STEPS + 3})))
    begun(stream)
    with pytest.raises(BackendError, match="fails by script"):
        stream.step(BREAKS["gap"])
    assert not any(array.any() for array in stream.snapshot().values())
    assert_fresh(stream, stream.step(FRAME), "gap", tiny_spec, tiny_script)
