"""Many streams in one batch: each is bit for bit what it would be alone, whatever happens to the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from edge_cnnlstm.errors import BackendError, ClosedError, ConfigError, FrameError
from edge_cnnlstm.runtime.backends.base import Arrays, Backend
from edge_cnnlstm.runtime.backends.ort import OnnxRuntimeBackend
from edge_cnnlstm.runtime.backends.scripted import Script, ScriptedBackend
from edge_cnnlstm.runtime.frame import Frame, Pixels
from edge_cnnlstm.runtime.group import Member, StreamGroup
from edge_cnnlstm.runtime.prediction import Prediction
from edge_cnnlstm.runtime.stream import WARM_UP_STEPS, Stream
from edge_cnnlstm.spec import ModelSpec, StateRules
from tests.conftest import tiny_frames
from tests.runtime.backend_contract import assert_same
from tests.runtime.doubles import (
    BAD_FRAMES,
    FRAME,
    MS,
    PERIOD,
    Clock,
    CountingBackend,
    film,
    for_streams,
    said,
    telling_time,
    timed,
    told,
)

SLOTS = 3
RULES = StateRules(idle_ms=3000.0)
FRAMES = tiny_frames(64, seed=1)
POISON, SPOILT = np.full_like(FRAME, 255), np.full_like(FRAME, 254)
KINDS = ("next", "bare", "some lost", "seek", "earlier", "gap", "another source", "future", "poison", "spoilt")

whatever_comes = st.lists(st.sampled_from([*KINDS, "none"]), min_size=SLOTS, max_size=SLOTS)
places = st.integers(0, len(FRAMES) - SLOTS)


def breakable(script: Script) -> Script:
    """Return a script that makes NaN of the memory, or of the answer only, when it sees such a frame."""

    def breaking(pixels: Pixels, state: Arrays, *dt: float) -> tuple[Arrays, Arrays]:
        outputs, after = script(pixels, state, *dt)
        if np.array_equal(pixels, POISON):
            after = {name: np.full_like(array, np.nan) for name, array in after.items()}
        if np.array_equal(pixels, SPOILT):
            outputs = {**outputs, "target_box": np.full_like(outputs["target_box"], np.nan)}
        return outputs, after

    return breaking


@dataclass
class Alone:
    """What a member of the group would be alone: a stream that sees the same frames, and fails when the group does."""

    stream: Stream
    fails: set[int]
    steps: int = WARM_UP_STEPS
    index: int = 0
    captured: int = 0
    source: str = "camera"
    snapshots: list[dict[str, Any]] = field(default_factory=list)

    def step(self, frame: Any, *, failing: bool = False) -> Prediction | str:
        """Step, and return the prediction or what the engine's error says."""
        if failing:
            self.fails.add(self.steps)
        try:
            return self.stream.step(frame)
        except BackendError as error:
            return type(error).__name__
        finally:
            self.steps += 1

    def frame(self, kind: str, pixels: Pixels, now: int) -> Frame | Pixels:
        """Make a frame that follows on the last one in such a way."""
        if kind == "bare":
            return pixels
        self.captured = {"earlier": self.captured - MS, "gap": self.captured + 1500 * MS, "future": now + MS}.get(
            kind, max(self.captured, now - PERIOD)
        )
        self.index = {"seek": max(0, self.index - 1), "some lost": self.index + 5}.get(kind, self.index + 1)
        self.source += "'" * (kind == "another source")
        return Frame(
            {"poison": POISON, "spoilt": SPOILT}.get(kind, pixels), self.index, self.captured, source=self.source
        )


class GroupAgainstLoneStreams(RuleBasedStateMachine):
    """Steps a group and, for each of its members, a lone stream; after every step they are the same in every bit."""

    spec: ModelSpec
    script: Script

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.clock = Clock()
        self.clock.govern(self.patch)

    @initialize(members=st.integers(0, SLOTS))
    def open(self, members: int) -> None:
        self.fails: set[int] = set()
        backend = ScriptedBackend(self.spec.batched(SLOTS), self.script, fail_at=self.fails)  # type: ignore[arg-type]
        self.group = StreamGroup(backend, rules=RULES, deadline_ms=33.0)
        self.steps = WARM_UP_STEPS
        self.members: dict[Member, Alone] = {}
        self.gone: list[Member] = []
        for _ in range(members):
            self.join()

    def teardown(self) -> None:
        self.patch.undo()

    @rule()
    def join(self) -> None:
        if len(self.members) == SLOTS:
            with pytest.raises(ConfigError, match="a stream more than the 3 slots"):
                self.group.join()
            return
        member = self.group.join()
        assert not any(array.any() for array in self.group.snapshot(member).values())
        fails: set[int] = set()
        backend = ScriptedBackend(self.spec, self.script, fail_at=fails)  # type: ignore[arg-type]
        self.members[member] = Alone(Stream(backend, rules=RULES, deadline_ms=33.0), fails)

    def some(self, data: st.DataObject) -> Member:
        return data.draw(st.sampled_from(list(self.members)))

    @precondition(lambda self: self.members)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        member = self.some(data)
        for _ in range(2):
            self.group.leave(member)
        del self.members[member]
        self.gone.append(member)

    @precondition(lambda self: self.gone)
    @rule()
    def whoever_left_is_refused(self) -> None:
        calls: list[Callable[[Member], object]] = [
            lambda member: self.group.step({**dict.fromkeys(self.members, FRAME), member: FRAME}),
            self.group.reset,
            self.group.snapshot,
            lambda member: self.group.restore(member, {}),
        ]
        for call in calls:
            with pytest.raises(ClosedError, match="which has left"):
                call(self.gone[-1])

    def step(self, kinds: list[str], at: int, *, failing: bool = False) -> None:
        frames = {
            member: alone.frame(kind, FRAMES[at + member.slot], self.clock.now)
            for (member, alone), kind in zip(self.members.items(), kinds, strict=False)
            if kind != "none"
        }
        if failing:
            self.fails.add(self.steps)
        expected = {member: self.members[member].step(frame, failing=failing) for member, frame in frames.items()}
        self.steps += 1
        if failing:
            with pytest.raises(BackendError, match="fails by script"):
                self.group.step(frames)
            return
        found = self.group.step(frames)
        assert {
            member: type(answer).__name__ if isinstance(answer, BackendError) else answer
            for member, answer in found.items()
        } == expected

    @rule(at=places)
    def everyone_steps(self, at: int) -> None:
        self.clock.now += PERIOD
        self.step(["next"] * SLOTS, at)

    @rule(kinds=whatever_comes, at=places)
    def some_step(self, kinds: list[str], at: int) -> None:
        self.clock.now += PERIOD
        self.step(kinds, at)

    @rule(which=st.lists(st.sampled_from(["next", "none"]), min_size=SLOTS, max_size=SLOTS), at=places)
    def others_lose_frames(self, which: list[str], at: int) -> None:
        self.step(which, at)

    @rule(kinds=whatever_comes, at=places)
    def the_engine_fails(self, kinds: list[str], at: int) -> None:
        self.step(kinds, at, failing=True)

    @precondition(lambda self: self.members)
    @rule(data=st.data(), bad=st.sampled_from(range(len(BAD_FRAMES))))
    def one_bad_frame_and_nothing_runs(self, data: st.DataObject, bad: int) -> None:
        order = data.draw(st.permutations(list(self.members)))
        victim = self.some(data)
        with pytest.raises(FrameError):
            self.members[victim].stream.step(BAD_FRAMES[bad])
        with pytest.raises(FrameError):
            self.group.step({member: BAD_FRAMES[bad] if member is victim else FRAME for member in order})

    @precondition(lambda self: self.members)
    @rule(data=st.data())
    def reset(self, data: st.DataObject) -> None:
        member = self.some(data)
        self.group.reset(member, "night")
        self.members[member].stream.reset("night")

    @precondition(lambda self: self.members)
    @rule(data=st.data())
    def snapshot(self, data: st.DataObject) -> None:
        member = self.some(data)
        self.members[member].snapshots.append(self.group.snapshot(member))

    @precondition(lambda self: any(alone.snapshots for alone in self.members.values()))
    @rule(data=st.data())
    def restore_ones_memory_into_another(self, data: st.DataObject) -> None:
        member = self.some(data)
        memory = data.draw(
            st.sampled_from([memory for alone in self.members.values() for memory in alone.snapshots]).map(dict)
        )
        self.group.restore(member, memory)
        self.members[member].stream.restore(memory)

    @rule()
    def rehearse(self) -> None:
        self.group.rehearse()

    @rule(ms=st.sampled_from([1, 33, 500, 1001, 3001]))
    def time_passes(self, ms: int) -> None:
        self.clock.now += ms * MS

    @invariant()
    def everyone_is_as_if_alone(self) -> None:
        assert self.group.members == tuple(sorted(self.members, key=lambda member: member.slot))
        for member, alone in self.members.items():
            stream = alone.stream
            assert_same(self.group.snapshot(member), stream.snapshot())
            assert (member.resets, member.refused) == (stream.resets, stream.refused)
            assert member.lane.continuity.empty_since == stream._lane.continuity.empty_since
            found, expected = member.latency, stream.latency
            assert (found.lost, found.clock_faults) == (expected.lost, expected.clock_faults)
            assert found.stages["age"].buckets() == expected.stages["age"].buckets()


@pytest.mark.parametrize("asks_for_dt", [False, True])
def test_each_stream_of_a_group_is_bit_for_bit_what_it_is_alone(
    tiny_spec: ModelSpec, tiny_script: Script, asks_for_dt: bool
) -> None:
    class Tiny(GroupAgainstLoneStreams):
        spec = timed(tiny_spec) if asks_for_dt else tiny_spec
        script = staticmethod(breakable(telling_time(tiny_script, []) if asks_for_dt else tiny_script))

    run_state_machine_as_test(Tiny, settings=settings(max_examples=40, stateful_step_count=40))


@pytest.mark.slow
def test_each_stream_of_a_group_is_bit_for_bit_what_it_is_alone_at_length(
    tiny_spec: ModelSpec, tiny_script: Script
) -> None:
    class Tiny(GroupAgainstLoneStreams):
        spec = timed(tiny_spec)
        script = staticmethod(breakable(telling_time(tiny_script, [])))

    run_state_machine_as_test(Tiny, settings=settings(max_examples=200, stateful_step_count=60))


Make = Callable[[], Backend]


@pytest.fixture(params=["scripted", "onnxruntime"])
def make(request: pytest.FixtureRequest, tiny_spec: ModelSpec, tiny_script: Script, tiny_onnx: bytes) -> Make:
    spec = tiny_spec.batched(SLOTS)
    if request.param == "scripted":
        return lambda: ScriptedBackend(spec, tiny_script)
    graph = for_streams(tiny_onnx, SLOTS)
    return lambda: OnnxRuntimeBackend(graph, spec)


@pytest.mark.parametrize("slot", range(SLOTS))
def test_neighbours_do_not_change_a_bit(make: Make, slot: int) -> None:
    crowded, empty = StreamGroup(make()), StreamGroup(make())
    members = [crowded.join() for _ in range(SLOTS)]
    strangers = [empty.join() for _ in range(SLOTS)]
    alone = strangers.pop(slot)
    for stranger in strangers:
        empty.leave(stranger)
    assert empty.members == (alone,)
    generator = np.random.default_rng(slot)
    for frame, noise in zip(film(tiny_frames(60, seed=2)), tiny_frames(60, seed=3), strict=True):
        if generator.random() < 0.7:
            others = {
                member: np.roll(noise, member.slot, axis=0)
                for member in members
                if member.slot != slot and generator.random() < 0.6
            }
            found = crowded.step({**others, members[slot]: frame})[members[slot]]
            expected = empty.step({alone: frame})[alone]
            assert isinstance(found, Prediction)
            assert isinstance(expected, Prediction)
            assert told(found) == told(expected)
        else:
            crowded.step({member: noise for member in members if member.slot != slot})
        assert_same(crowded.snapshot(members[slot]), empty.snapshot(alone))


def test_a_batch_agrees_with_lone_streams_of_the_same_engine(tiny_spec: ModelSpec, tiny_onnx: bytes) -> None:
    group = StreamGroup(OnnxRuntimeBackend(for_streams(tiny_onnx, SLOTS), tiny_spec.batched(SLOTS)))
    streams = [Stream(OnnxRuntimeBackend(tiny_onnx, tiny_spec)) for _ in range(SLOTS)]
    members = [group.join() for _ in range(SLOTS)]
    for at, frames in enumerate(tiny_frames(60, seed=4).reshape(20, SLOTS, *FRAME.shape)):
        ready = [slot for slot in range(SLOTS) if (at + slot) % 4]
        found = group.step({members[slot]: frames[slot] for slot in ready})
        for slot in ready:
            answer = found[members[slot]]
            assert isinstance(answer, Prediction)
            np.testing.assert_allclose(answer.scores, streams[slot].step(frames[slot]).scores, atol=1e-5)


def test_a_batch_of_nobody_changes_nothing(make: Make) -> None:
    group = StreamGroup(make())
    member = group.join()
    group.step({member: FRAME})
    before = group.snapshot(member)
    assert group.step({}) == {}
    assert_same(group.snapshot(member), before)


def test_a_slot_that_is_given_to_another_starts_from_nothing(make: Make) -> None:
    group = StreamGroup(make())
    first = group.join("first")
    for pixels in tiny_frames(3, seed=5):
        group.step({first: pixels})
    group.leave(first)
    second, fresh = group.join("second"), StreamGroup(make())
    assert (second.slot, second.generation) == (first.slot, first.generation + 1)
    found, expected = group.step({second: FRAME})[second], fresh.step({(alone := fresh.join()): FRAME})[alone]
    assert isinstance(found, Prediction)
    assert isinstance(expected, Prediction)
    assert told(found) == told(expected)
    assert second.latency.stages["age"].count == 1
    with pytest.raises(ClosedError, match="'first', which has left"):
        group.step({first: FRAME})
    group.leave(first)
    assert group.members == (second,)


def test_a_member_of_another_group_is_no_member(make: Make) -> None:
    group, other = StreamGroup(make()), StreamGroup(make())
    group.join()
    stranger = other.join()
    with pytest.raises(ClosedError):
        group.step({stranger: FRAME})


def test_members_are_named_after_their_slots_unless_they_have_a_name(make: Make) -> None:
    group = StreamGroup(make())
    assert [group.join(name).name for name in ("", "left eye", "")] == ["stream 0", "left eye", "stream 2"]


@pytest.mark.parametrize("rules", [None, StateRules(not_finite=False)])
@pytest.mark.parametrize("first", ["sick", "well"])
def test_a_poisoned_stream_is_told_and_the_others_do_not_notice(
    tiny_spec: ModelSpec, tiny_script: Script, twin: Stream, rules: StateRules | None, first: str
) -> None:
    group = StreamGroup(ScriptedBackend(tiny_spec.batched(2), breakable(tiny_script)), rules=rules)
    sick, well = group.join("sick"), group.join("well")
    for turn, pixels in enumerate(tiny_frames(4, seed=6)):
        frames = {sick: POISON if turn == 1 else pixels, well: pixels}
        found = group.step(frames if first == "sick" else dict(reversed(frames.items())))
        assert said(found[well]) == said(twin.step(pixels))  # type: ignore[arg-type]
        assert isinstance(found[sick], BackendError) == (turn == 1 and rules is None)
        if turn == 1 and rules is None:
            assert "the memory of 'sick' holds NaN" in str(found[sick])
    assert dict(sick.resets) == ({"not finite": 1} if rules is None else {})
    assert not well.resets


def test_a_closed_group_says_so(tiny_spec: ModelSpec, tiny_script: Script) -> None:
    backend = CountingBackend(tiny_spec.batched(2), tiny_script)
    with StreamGroup(backend) as group:
        member = group.join()
        group.step({member: FRAME})
    group.close()
    assert backend.closed == 1
    calls: list[Callable[[], object]] = [
        lambda: group.step({member: FRAME}),
        lambda: group.step({}),
        group.join,
        group.rehearse,
        lambda: group.reset(member),
        lambda: group.snapshot(member),
        lambda: group.restore(member, {}),
    ]
    for call in calls:
        with pytest.raises(ClosedError):
            call()
    group.leave(member)


def test_a_group_that_cannot_warm_up_closes_its_engine(tiny_spec: ModelSpec, tiny_script: Script) -> None:
    backend = CountingBackend(tiny_spec.batched(2), tiny_script, fail_at=frozenset({3}))
    with pytest.raises(BackendError, match="step 3"):
        StreamGroup(backend)
    assert backend.closed == 1


@pytest.mark.parametrize("deadline", [float("nan"), float("inf"), -1.0, 0.0])
def test_a_deadline_that_is_no_time_is_refused_and_the_engine_closed(
    tiny_spec: ModelSpec, tiny_script: Script, deadline: float
) -> None:
    backend = CountingBackend(tiny_spec.batched(2), tiny_script)
    with pytest.raises(ConfigError, match="deadline"):
        StreamGroup(backend, deadline_ms=deadline)
    assert backend.closed == 1


def test_a_lone_stream_does_not_take_a_graph_for_several(tiny_spec: ModelSpec, tiny_script: Script) -> None:
    backend = CountingBackend(tiny_spec.batched(2), tiny_script)
    with pytest.raises(ConfigError, match="a graph for 2 streams"):
        Stream(backend)
    assert backend.closed == 1
