"""One call at a time, whichever thread makes it, and a close that waits its turn."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from edge_cnnlstm.errors import BackendError, ClosedError, ThreadError
from edge_cnnlstm.runtime.backends.base import Arrays
from edge_cnnlstm.runtime.backends.ort import OnnxRuntimeBackend
from edge_cnnlstm.runtime.backends.scripted import Script, ScriptedBackend
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.runtime.group import StreamGroup
from edge_cnnlstm.runtime.guard import Guard
from edge_cnnlstm.runtime.stream import Stream
from edge_cnnlstm.spec import ModelSpec
from tests.conftest import tiny_frames
from tests.runtime.backend_contract import assert_same
from tests.runtime.doubles import FRAME, PATIENCE, CountingBackend, Doorman, Thread, busy, film, said, told

Owner = Stream | StreamGroup


@pytest.fixture
def doorman(tiny_script: Script) -> Doorman:
    return Doorman(tiny_script)


@pytest.fixture
def held(tiny_spec: ModelSpec, doorman: Doorman) -> Stream:
    """A stream whose steps last until the doorman lets them go."""
    return Stream(CountingBackend(tiny_spec, doorman))


def closed(stream: Owner) -> int:
    return stream.backend.closed  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("engine", ["scripted", "onnxruntime"])
def test_a_stream_may_be_made_stepped_and_closed_in_three_threads(
    tiny_spec: ModelSpec, tiny_script: Script, tiny_onnx: bytes, twin: Stream, engine: str
) -> None:
    def make() -> Stream:
        if engine == "scripted":
            return Stream(ScriptedBackend(tiny_spec, tiny_script))
        return Stream(OnnxRuntimeBackend(tiny_onnx, tiny_spec))

    stream: Stream = Thread(make, "maker").result()
    frames = film(tiny_frames(6, seed=1))
    found = Thread(lambda: [stream.step(frame) for frame in frames], "stepper").result()
    expected = [twin.step(frame) for frame in frames] if engine == "scripted" else [make().step(frames[0])]
    assert [told(prediction) for prediction in found[: len(expected)]] == [told(prediction) for prediction in expected]
    Thread(stream.close, "closer").result()
    with pytest.raises(ClosedError):
        stream.step(FRAME)


def test_of_two_threads_that_step_at_once_one_works_and_the_other_is_told_both_names(
    held: Stream, twin: Stream, doorman: Doorman
) -> None:
    first, second = tiny_frames(2, seed=1)
    with busy(doorman, lambda: held.step(first), "left eye") as stepping:
        intruder = Thread(lambda: held.step(second), "right eye")
        with pytest.raises(ThreadError, match="'right eye' while thread 'left eye' is in it"):
            intruder.result()
    assert told(stepping.result()) == told(twin.step(first))
    assert_same(held.snapshot(), twin.snapshot())
    assert held.latency.stages["age"].count == 1
    assert said(held.step(second)) == said(twin.step(second))


@pytest.mark.parametrize("call", ["reset", "snapshot", "restore", "swap"])
def test_other_calls_wait_for_the_step_at_hand(
    held: Stream, twin: Stream, tiny_spec: ModelSpec, tiny_script: Script, doorman: Doorman, call: str
) -> None:
    memory = held.snapshot()
    fresh = Stream(CountingBackend(tiny_spec, tiny_script))
    calls: dict[str, Callable[[], Any]] = {
        "reset": held.reset,
        "snapshot": held.snapshot,
        "restore": lambda: held.restore(memory),
        "swap": lambda: held.swap(fresh),
    }
    asked = threading.Event()

    def asking() -> Any:
        asked.set()
        return calls[call]()

    with busy(doorman, lambda: held.step(FRAME)) as stepping:
        waiting = Thread(asking, "second")
        assert asked.wait(PATIENCE)
        assert waiting.is_alive()
        assert not held.resets
    assert told(stepping.result()) == told(twin.step(FRAME))
    result = waiting.result()
    if call == "snapshot":
        assert_same(result, twin.snapshot())
    else:
        assert_same(held.snapshot(), memory)


def test_many_threads_lose_no_call(scripted: Stream) -> None:
    def resetting() -> None:
        for _ in range(200):
            scripted.reset()
            scripted.snapshot()

    threads = [Thread(resetting, f"resetter {at}") for at in range(4)]
    stepped = 0
    while any(thread.is_alive() for thread in threads):
        with contextlib.suppress(ThreadError):
            scripted.step(FRAME)
            stepped += 1
    for thread in threads:
        thread.result()
    assert scripted.resets["requested"] == 800
    assert scripted.latency.stages["age"].count == stepped


CALLS: dict[str, Callable[[Stream], object]] = {
    "step": lambda stream: stream.step(FRAME),
    "reset": lambda stream: stream.reset(),
    "snapshot": lambda stream: stream.snapshot(),
    "restore": lambda stream: stream.restore({}),
    "swap": lambda stream: stream.swap(stream),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_call_from_within_a_step_is_an_error_and_no_deadlock(
    tiny_spec: ModelSpec, tiny_script: Script, twin: Stream, call: str
) -> None:
    inside: list[Stream] = []

    def calling(pixels: Pixels, state: Arrays) -> tuple[Arrays, Arrays]:
        for stream in inside:
            CALLS[call](stream)
        return tiny_script(pixels, state)

    stream = Stream(ScriptedBackend(tiny_spec, calling))
    frames = film(tiny_frames(3, seed=1))
    assert told(stream.step(frames[0])) == told(twin.step(frames[0]))
    inside.append(stream)
    with pytest.raises(ThreadError, match="while thread 'inner' is in it"):
        Thread(lambda: stream.step(frames[1]), "inner").result()
    inside.clear()
    assert_same(stream.snapshot(), twin.snapshot())
    assert told(stream.step(frames[2])) == told(twin.step(frames[2]))
    assert not stream.resets


@pytest.mark.parametrize("kind", ["stream", "group"])
def test_a_close_during_a_step_waits_for_its_end_and_closes_once(
    tiny_spec: ModelSpec, tiny_script: Script, doorman: Doorman, kind: str
) -> None:
    owner: Owner
    if kind == "stream":
        owner = stream = Stream(CountingBackend(tiny_spec, doorman))
        step: Callable[[], Any] = lambda: stream.step(FRAME)  # noqa: E731
    else:
        owner = group = StreamGroup(CountingBackend(tiny_spec, doorman))
        member = group.join()
        step = lambda: group.step({member: FRAME})[member]  # noqa: E731
    with busy(doorman, step) as stepping:
        for closer in [Thread(owner.close, f"closer {at}") for at in range(3)]:
            closer.result()
        assert closed(owner) == 0
        assert stepping.is_alive()
    assert stepping.result().reset_reason == "start"
    assert closed(owner) == 1
    with pytest.raises(ClosedError):
        step()
    owner.close()
    assert closed(owner) == 1


def test_a_close_from_a_signal_handler_lets_the_step_finish(tiny_spec: ModelSpec, tiny_script: Script) -> None:
    sent = [False]

    def interrupting(pixels: Pixels, state: Arrays) -> tuple[Arrays, Arrays]:
        if sent == [True]:
            signal.raise_signal(signal.SIGUSR1)
        return tiny_script(pixels, state)

    stream = Stream(CountingBackend(tiny_spec, interrupting))
    handled: list[int] = []

    def closing(number: int, _: object) -> None:
        stream.close()
        handled.append(closed(stream))

    previous = signal.signal(signal.SIGUSR1, closing)
    try:
        sent[0] = True
        assert stream.step(FRAME).reset_reason == "start"
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert handled == [0]
    assert closed(stream) == 1
    with pytest.raises(ClosedError):
        stream.step(FRAME)


def test_whoever_waited_for_a_step_that_was_the_last_finds_the_stream_closed(held: Stream, doorman: Doorman) -> None:
    asked = threading.Event()

    def asking() -> None:
        asked.set()
        held.reset()

    with busy(doorman, lambda: held.step(FRAME)):
        waiting = Thread(asking, "second")
        assert asked.wait(PATIENCE)
        held.close()
    with pytest.raises(ClosedError):
        waiting.result()
    assert closed(held) == 1
    assert not held.resets


def test_a_stream_that_is_being_closed_names_the_thread_that_closes_it(
    tiny_spec: ModelSpec, tiny_script: Script
) -> None:
    inside, go = threading.Event(), threading.Event()

    class Slow(CountingBackend):
        def close(self) -> None:
            inside.set()
            assert go.wait(PATIENCE)
            super().close()

    stream = Stream(Slow(tiny_spec, tiny_script))
    closing = Thread(stream.close, "closer")
    assert inside.wait(PATIENCE)
    with pytest.raises(ThreadError, match="while thread 'closer' is in it"):
        stream.step(FRAME)
    go.set()
    closing.result()
    with pytest.raises(ClosedError):
        stream.step(FRAME)


def test_a_failing_close_leaves_the_guard_free() -> None:
    guard = Guard("a thing")
    guard.enter_at_once()

    def failing() -> None:
        raise ZeroDivisionError

    guard.at_rest(failing)
    with pytest.raises(ZeroDivisionError):
        guard.leave()
    assert guard.try_enter()
    guard.leave()


def test_a_rehearsal_during_a_step_does_nothing(held: Stream, twin: Stream, doorman: Doorman) -> None:
    with busy(doorman, lambda: held.step(FRAME)) as stepping:
        held.rehearse()
        assert held.backend.rehearsed == 0  # type: ignore[attr-defined]
    assert told(stepping.result()) == told(twin.step(FRAME))
    held.rehearse()
    assert held.backend.rehearsed == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("engine", ["scripted", "onnxruntime"])
def test_rehearsals_leave_no_trace_on_either_side_of_the_ping_pong(
    tiny_spec: ModelSpec, tiny_script: Script, tiny_onnx: bytes, engine: str
) -> None:
    def make() -> Stream:
        if engine == "scripted":
            return Stream(ScriptedBackend(tiny_spec, tiny_script), deadline_ms=1.0)
        return Stream(OnnxRuntimeBackend(tiny_onnx, tiny_spec), deadline_ms=1.0)

    rehearsed, alone = make(), make()
    for count, frame in enumerate(film(tiny_frames(8, seed=1))):
        for _ in range(count % 4):
            rehearsed.rehearse()
        assert_same(rehearsed.snapshot(), alone.snapshot())
        assert told(rehearsed.step(frame)) == told(alone.step(frame))
    for stream in (rehearsed, alone):
        assert stream.latency.stages["age"].count == stream.latency.deadline_misses == 8
        assert (stream.latency.lost, stream.refused, dict(stream.resets)) == (0, 0, {})
    rehearsed.close()
    with pytest.raises(ClosedError):
        rehearsed.rehearse()


def test_a_rehearsal_that_fails_changes_nothing(tiny_spec: ModelSpec, tiny_script: Script, twin: Stream) -> None:
    broken = [False]

    def breaking(pixels: Pixels, state: Arrays) -> tuple[Arrays, Arrays]:
        if broken[0]:
            raise BackendError("out of order", expected="order", fix="none: it is a test")
        return tiny_script(pixels, state)

    stream = Stream(ScriptedBackend(tiny_spec, breaking))
    first, second = film(tiny_frames(2, seed=1))
    assert told(stream.step(first)) == told(twin.step(first))
    broken[0] = True
    with pytest.raises(BackendError, match="out of order"):
        stream.rehearse()
    broken[0] = False
    assert_same(stream.snapshot(), twin.snapshot())
    assert told(stream.step(second)) == told(twin.step(second))


def test_a_group_rehearses_without_a_trace(tiny_spec: ModelSpec, tiny_script: Script, twin: Stream) -> None:
    group = StreamGroup(CountingBackend(tiny_spec.batched(2), tiny_script))
    group.join("idle")
    member = group.join("busy")
    for frame in film(tiny_frames(5, seed=1)):
        group.rehearse()
        assert told(group.step({member: frame})[member]) == told(twin.step(frame))  # type: ignore[arg-type]
        assert_same(group.snapshot(member), twin.snapshot())
    assert group.backend.rehearsed == 5  # type: ignore[attr-defined]
