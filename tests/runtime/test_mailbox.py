"""Every frame is accounted for: at every moment, under every policy, however the iteration ends."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_cnnlstm.errors import BackendError, ConfigError, SourceError
from edge_cnnlstm.runtime.backends.base import Arrays
from edge_cnnlstm.runtime.backends.ort import OnnxRuntimeBackend
from edge_cnnlstm.runtime.backends.scripted import Script, ScriptedBackend
from edge_cnnlstm.runtime.frame import Frame, Pixels
from edge_cnnlstm.runtime.mailbox import QUEUE_FRAMES, Counts, Mailbox, Policy
from edge_cnnlstm.runtime.pipeline import Pipeline
from edge_cnnlstm.runtime.prediction import Prediction
from edge_cnnlstm.runtime.realtime import Realtime
from edge_cnnlstm.runtime.sinks.base import Callback
from edge_cnnlstm.runtime.stream import WARM_UP_STEPS, Stream
from edge_cnnlstm.spec import ModelSpec
from tests.conftest import tiny_frames
from tests.runtime.backend_contract import assert_same
from tests.runtime.doubles import BAD_FRAMES, FRAME, PATIENCE, PERIOD, Doorman, Thread, busy, film, told

POLICIES = ("newest", "every", "skip-1", "skip-2", "skip-7")
COUNT = 120
MOST_WAITING = {"newest": 1, **dict.fromkeys(("every", "skip-1", "skip-2", "skip-7"), QUEUE_FRAMES)}
IN_HAND = 2
"""Frames that wait nowhere and are not decided: one that the source is putting, and one that is being predicted."""


class Listed:
    """A source of given frames; `gate` is called before each, `exhausted` set after the last, as is `closed`."""

    live = False

    def __init__(self, frames: list[Frame], gate: Callable[[int], object] = lambda _: None) -> None:
        self.frames = frames
        self.gate = gate
        self.error: BaseException | None = None
        self.given = 0
        self.exhausted, self.closed = threading.Event(), threading.Event()

    def __iter__(self) -> Iterator[Frame]:
        for at, frame in enumerate(self.frames):
            self.gate(at)
            self.given += 1
            yield frame
        self.exhausted.set()
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        self.closed.set()


def source_of(count: int = COUNT, gate: Callable[[int], object] = lambda _: None) -> Listed:
    return Listed(film(tiny_frames(count, seed=1)), gate)


def assert_holds(counts: Counts, policy: str) -> None:
    assert counts.produced == counts.predicted + counts.dropped + counts.waiting
    assert 0 <= counts.waiting <= MOST_WAITING[policy] + IN_HAND
    assert 0 <= counts.refused <= counts.dropped <= counts.produced


@contextmanager
def watched(pipeline: Pipeline, policy: str) -> Iterator[None]:
    """While the block runs, another thread looks at the counts and finds that they add up and never go back."""
    done = threading.Event()

    def watching() -> int:
        looks, before = 0, pipeline.counts
        while not done.is_set():
            now = pipeline.counts
            assert_holds(now, policy)
            assert all(getattr(now, name) >= getattr(before, name) for name in ("produced", "predicted", "dropped"))
            looks, before = looks + 1, now
        return looks

    watcher = Thread(watching, "watcher")
    try:
        yield
    finally:
        done.set()
        assert watcher.result()


def settled(pipeline: Pipeline) -> Counts:
    """The counts once the source's thread has ended; nothing is on its way any more."""
    pipeline._thread.join(PATIENCE)
    assert not pipeline._thread.is_alive()
    assert pipeline.counts.waiting == 0
    return pipeline.counts


def taken(policy: str, count: int) -> list[int]:
    return list(range(0, count, int(policy.partition("-")[2] or 0) + 1))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("slow", ["neither", "source", "consumer"])
def test_the_account_holds_at_every_moment(scripted: Stream, policy: str, slow: str) -> None:
    pipeline: Pipeline
    breath = threading.Event()

    def pause(at: int) -> None:
        assert_holds(pipeline.counts, policy)
        if at % 10 == 3:
            breath.wait(0.001)

    source = source_of(gate=pause if slow == "source" else lambda _: assert_holds(pipeline.counts, policy))
    pipeline = Pipeline(source, scripted, policy)
    found: list[int] = []
    with watched(pipeline, policy):
        for frame, _ in pipeline:
            found.append(frame.index)
            assert_holds(pipeline.counts, policy)
            assert pipeline.counts.predicted == len(found)
            if slow == "consumer":
                pause(frame.index)
    counts = settled(pipeline)
    assert counts == Counts(COUNT, len(found), COUNT - len(found))
    assert found == (sorted(set(found)) if policy == "newest" else taken(policy, COUNT))


@pytest.mark.parametrize("skip", [1, 2, 7])
@pytest.mark.parametrize("count", [0, 1, 2, 8, 9, 50])
def test_skip_k_takes_exactly_every_k_plus_first(scripted: Stream, skip: int, count: int) -> None:
    pipeline = Pipeline(source_of(count), scripted, f"skip-{skip}")
    found = [frame.index for frame, _ in pipeline]
    assert found == list(range(0, count, skip + 1))
    assert settled(pipeline) == Counts(count, len(found), count - len(found))


@pytest.mark.parametrize(
    "name",
    ["", "new", "Newest", "skip", "skip-", "skip-0", "skip--1", "skip-1.5", "skip-²", "skip- 1", "every-2", None, 3],
)
def test_what_is_no_policy_is_refused(scripted: Stream, name: Any) -> None:
    with pytest.raises(ConfigError, match="expected: newest, every, or skip-k"):
        Pipeline(source_of(), scripted, name)


def _break(pipeline: Pipeline) -> None:
    for _ in pipeline:
        break


def _raise(pipeline: Pipeline) -> None:
    for _ in pipeline:
        raise ZeroDivisionError


def _stop(pipeline: Pipeline) -> None:
    for _ in pipeline:
        pipeline.stop()


def _close(pipeline: Pipeline) -> None:
    for _ in pipeline:
        pipeline.close()


def _abandon(pipeline: Pipeline) -> None:
    pairs: list[Any] = [iter(pipeline)]
    next(pairs[0])
    pairs.append(pairs)  # only the collector will find it
    del pairs
    gc.collect()


def _spoil_the_sink(pipeline: Pipeline) -> None:
    def failing(frame: Frame, _: Prediction) -> None:
        if frame.index:
            raise ZeroDivisionError

    pipeline.run(Callback(failing))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("end", [_break, _raise, _stop, _close, _abandon, _spoil_the_sink])
def test_whatever_ends_the_iteration_nothing_is_left_on_its_way(
    scripted: Stream, policy: str, end: Callable[[Pipeline], None]
) -> None:
    source = source_of(2000)
    pipeline = Pipeline(source, scripted, policy)
    with watched(pipeline, policy):
        try:
            end(pipeline)
        except ZeroDivisionError:
            assert end in (_raise, _spoil_the_sink)
    counts = settled(pipeline)
    assert counts.produced == source.given == counts.predicted + counts.dropped
    assert counts.predicted == scripted.latency.stages["age"].count >= 1
    assert source.closed.is_set()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", ["source", "engine"])
def test_an_error_on_either_side_leaves_nothing_on_its_way(
    tiny_spec: ModelSpec, tiny_script: Script, policy: str, kind: str
) -> None:
    fails = frozenset({WARM_UP_STEPS + 1}) if kind == "engine" else frozenset()
    stream = Stream(ScriptedBackend(tiny_spec, tiny_script, fail_at=fails))
    predicted = threading.Event()
    # The engine's second frame comes only after its first was decided, so that `newest` has a second one.
    source = source_of(gate=lambda at: predicted.wait(PATIENCE) if kind == "engine" and at == 1 else None)
    source.error = SourceError("cable out", expected="a cable", fix="plug it in")
    pipeline = Pipeline(source, stream, policy)
    found: list[int] = []

    def noting() -> None:
        for frame, _ in pipeline:
            found.append(frame.index)
            predicted.set()

    with watched(pipeline, policy), pytest.raises(BackendError if kind == "engine" else SourceError):
        noting()
    counts = settled(pipeline)
    assert counts.predicted == len(found)
    assert counts.produced == source.given == len(found) + counts.dropped
    assert counts.refused == 0
    if kind == "source" and policy != "newest":
        assert found == taken(policy, COUNT)


@pytest.mark.parametrize("policy", ["newest", "every"])
def test_frames_that_nobody_waits_for_are_freed(tiny_spec: ModelSpec, tiny_script: Script, policy: str) -> None:
    references: list[weakref.ref[Pixels]] = []
    full = threading.Event()

    class Camera:
        live = True

        def __iter__(self) -> Iterator[Frame]:
            for index in range(20 * QUEUE_FRAMES):
                pixels = FRAME.copy()
                references.append(weakref.ref(pixels))
                if index >= {"newest": 10 * QUEUE_FRAMES, "every": QUEUE_FRAMES + 1}[policy]:
                    full.set()
                yield Frame(pixels, index, 0)

        def close(self) -> None:
            pass

    doorman = Doorman(tiny_script)
    stream = Stream(ScriptedBackend(tiny_spec, doorman))
    pipeline = Pipeline(Camera(), stream, policy)
    with busy(doorman, lambda: [frame.index for frame, _ in pipeline]) as consumer:
        assert full.wait(PATIENCE)
        with pipeline._mailbox._changed:  # nobody puts or takes
            alive = sum(reference() is not None for reference in references)
            assert len(pipeline._mailbox._frames) <= MOST_WAITING[policy]
            assert alive <= MOST_WAITING[policy] + IN_HAND + 1  # one that the source is making
            pipeline.stop()
    assert len(consumer.result()) == 1
    settled(pipeline)
    del consumer
    gc.collect()
    assert not any(reference() is not None for reference in references)


def test_ten_thousand_bad_frames_of_every_kind_among_500_good_ones_are_counted_and_change_nothing(
    tiny_spec: ModelSpec, tiny_onnx: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    good = film(tiny_frames(500, seed=2))
    mixed: list[Frame] = []
    for place, frame in enumerate(good):
        bad = [BAD_FRAMES[(20 * place + at) % len(BAD_FRAMES)] for at in range(20)]
        mixed += [
            Frame(pixels, 7 * at, frame.captured_ns + at * PERIOD, source="broken") for at, pixels in enumerate(bad)
        ]
        mixed.append(frame)
    disturbed, calm = (Stream(OnnxRuntimeBackend(tiny_onnx, tiny_spec)) for _ in range(2))
    pipeline, other = Pipeline(Listed(mixed), disturbed, "every"), Pipeline(Listed(good), calm, "every")
    with caplog.at_level(logging.WARNING):
        found = [told(prediction) for _, prediction in pipeline]
    assert found == [told(prediction) for _, prediction in other]
    assert replace(settled(pipeline), lost=0) == Counts(10_500, 500, 10_000, refused=10_000)
    assert settled(other) == Counts(500, 500, 0)
    assert (disturbed.refused, calm.refused) == (10_000, 0)
    assert_same(disturbed.snapshot(), calm.snapshot())
    assert disturbed.resets == calm.resets == {}
    assert disturbed.latency.lost == 0
    assert disturbed.latency.stages["age"].count == 500
    assert len(caplog.records) == 1
    assert "will do so without a word" in caplog.text


class Noting:
    """Notes what it was given, and fails where it is told to."""

    def __init__(self, fails_to: str = "") -> None:
        self.fails_to = fails_to
        self.written: list[int] = []
        self.closed = 0

    def write(self, frame: Frame, prediction: Prediction) -> None:
        assert frame.index == prediction.frame_index
        self.written.append(frame.index)
        if self.fails_to == "write" and frame.index == 3:
            raise ZeroDivisionError

    def close(self) -> None:
        self.closed += 1
        if self.fails_to == "close":
            raise ZeroDivisionError


def test_every_sink_gets_every_prediction(scripted: Stream) -> None:
    sinks = [Noting() for _ in range(3)]
    source = source_of(40)
    counts = Pipeline(source, scripted, "every").run(*sinks)
    assert counts == Counts(40, 40, 0)
    assert all(sink.written == list(range(40)) and sink.closed == 1 for sink in sinks)


@pytest.mark.parametrize("fails_to", ["write", "close"])
@pytest.mark.parametrize("which", range(3))
def test_all_sinks_are_closed_after_the_source_even_when_one_fails(scripted: Stream, fails_to: str, which: int) -> None:
    sinks = [Noting(fails_to if at == which else "") for at in range(3)]
    source = source_of(40)
    source_closed_first: list[bool] = []
    close = sinks[0].close

    def closing() -> None:
        source_closed_first.append(source.closed.is_set())
        close()

    sinks[0].close = closing  # type: ignore[method-assign]
    pipeline = Pipeline(source, scripted, "every")
    with pytest.raises(ZeroDivisionError):
        pipeline.run(*sinks)
    assert [sink.closed for sink in sinks] == [1, 1, 1]
    assert source_closed_first == [True]
    expected = 4 if fails_to == "write" else 40
    assert [len(sink.written) for sink in sinks] == [expected] * 3
    assert settled(pipeline).predicted == expected


def test_sinks_are_closed_when_the_engine_fails(tiny_spec: ModelSpec, tiny_script: Script) -> None:
    sinks = [Noting(), Noting()]
    stream = Stream(ScriptedBackend(tiny_spec, tiny_script, fail_at=frozenset({WARM_UP_STEPS + 5})))
    with pytest.raises(BackendError):
        Pipeline(source_of(40), stream, "every").run(*sinks)
    assert all(sink.written == list(range(5)) and sink.closed == 1 for sink in sinks)


class TestAsync:
    """`async for` is `for`, with every step in one thread of its own."""

    @pytest.fixture
    def stepped_in(self) -> list[str]:
        return []

    @pytest.fixture
    def stream(self, tiny_spec: ModelSpec, tiny_script: Script, stepped_in: list[str]) -> Stream:
        def noting(pixels: Pixels, state: Arrays) -> tuple[Arrays, Arrays]:
            stepped_in.append(threading.current_thread().name)
            return tiny_script(pixels, state)

        stream = Stream(ScriptedBackend(tiny_spec, noting))
        stepped_in.clear()
        return stream

    def test_every_frame_is_predicted_in_one_thread_that_is_not_the_loops(
        self, stream: Stream, twin: Stream, stepped_in: list[str]
    ) -> None:
        source = source_of(40)

        async def consume() -> list[tuple[object, ...]]:
            return [told(prediction) async for _, prediction in Pipeline(source, stream, "every")]

        assert asyncio.run(consume()) == [told(twin.step(frame)) for frame in source.frames]
        assert len(set(stepped_in)) == 1
        assert threading.current_thread().name not in stepped_in
        assert source.closed.is_set()

    @pytest.mark.parametrize("ends", ["at the end", "by a break"])
    def test_what_the_loop_changes_for_its_thread_is_put_back_in_that_thread(self, stream: Stream, ends: str) -> None:
        threads: list[str] = []

        class Noting(Realtime):
            @contextmanager
            def loop(self) -> Iterator[None]:
                entered = threading.current_thread().name
                try:
                    yield
                finally:
                    threads.append(threading.current_thread().name)
                    threads.append(entered)

        realtime = Noting(keep_warm=False, priority=None)

        async def consume() -> None:
            async for _ in Pipeline(source_of(), stream, "every", realtime=realtime):
                if ends == "by a break":
                    break

        asyncio.run(consume())
        left_in, entered_in = threads
        assert left_in == entered_in != threading.current_thread().name

    @pytest.mark.parametrize("policy", POLICIES)
    def test_a_break_ends_it(self, stream: Stream, policy: str) -> None:
        source = source_of(2000)
        pipeline = Pipeline(source, stream, policy)

        async def consume() -> None:
            async for _ in pipeline:
                break

        asyncio.run(consume())
        counts = settled(pipeline)
        assert counts.produced == source.given
        assert counts.predicted == stream.latency.stages["age"].count >= 1
        assert source.closed.is_set()

    @pytest.mark.parametrize("policy", POLICIES)
    def test_an_error_in_the_loops_own_code_ends_it(self, stream: Stream, policy: str) -> None:
        source = source_of(2000)
        pipeline = Pipeline(source, stream, policy)

        async def consume() -> None:
            async for _ in pipeline:
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            asyncio.run(consume())
        assert settled(pipeline).produced == source.given
        assert source.closed.is_set()

    def test_errors_of_the_source_come_through(self, stream: Stream) -> None:
        source = source_of(5)
        source.error = SourceError("cable out", expected="a cable", fix="plug it in")
        found: list[int] = []

        async def consume() -> None:
            async for frame, _ in Pipeline(source, stream, "every"):
                found.append(frame.index)

        with pytest.raises(SourceError):
            asyncio.run(consume())
        assert found == list(range(5))

    @pytest.mark.parametrize("waiting_for", ["a frame", "a step"])
    def test_a_task_that_is_cancelled_ends_it_after_the_frame_at_hand(
        self, tiny_spec: ModelSpec, tiny_script: Script, waiting_for: str
    ) -> None:
        doorman = Doorman(tiny_script)
        stream = Stream(ScriptedBackend(tiny_spec, doorman))
        dry, more = threading.Event(), threading.Event()

        def gate(at: int) -> None:
            if at == 3 and waiting_for == "a frame":
                dry.set()
                more.wait(PATIENCE)

        source = source_of(gate=gate)
        pipeline = Pipeline(source, stream, "every")
        seen: list[int] = []

        async def consume() -> None:
            async for frame, _ in pipeline:
                seen.append(frame.index)
                doorman.armed = waiting_for == "a step" and len(seen) == 3

        async def cancel() -> None:
            task = asyncio.create_task(consume())
            held = dry if waiting_for == "a frame" else doorman.inside
            while not (held.is_set() and len(seen) == 3):
                await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.sleep(0)
            doorman.armed = False
            doorman.go.set(), more.set()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(cancel())
        assert seen == [0, 1, 2]
        counts = settled(pipeline)
        assert counts.produced == source.given
        assert counts.predicted == stream.latency.stages["age"].count == (4 if waiting_for == "a step" else 3)
        assert source.closed.is_set()
        assert not stream._guard._lock.locked()

    def test_an_iterator_that_is_closed_early_leaves_nothing(self, stream: Stream) -> None:
        source = source_of()
        pipeline = Pipeline(source, stream, "every")

        async def consume() -> None:
            pairs: AsyncIterator[tuple[Frame, Prediction]] = aiter(pipeline)
            await anext(pairs)
            await pairs.aclose()  # type: ignore[attr-defined]

        asyncio.run(consume())
        assert settled(pipeline).predicted == 1
        assert source.closed.is_set()


moves = st.lists(st.sampled_from(["put", "put", "take", "refuse", "answer", "fail", "close"]), max_size=120)


@given(moves, st.sampled_from(POLICIES))
def test_the_mailbox_counts_each_frame_once_in_every_order(moves: list[str], policy: str) -> None:
    mailbox = Mailbox(Policy.of(policy))
    capacity, skip = MOST_WAITING[policy], int(policy.partition("-")[2] or 0)
    waiting: list[int] = []
    in_hand = put = answered = dropped = refused = 0
    closed = False
    for move in moves:
        if move == "put" and not (
            policy != "newest" and len(waiting) == capacity and put % (skip + 1) == 0 and not closed
        ):
            assert mailbox.put(Frame(FRAME, put, 0)) == (not closed)
            if closed or put % (skip + 1):
                dropped += 1
            else:
                dropped += len(waiting) == capacity
                waiting = [*waiting, put][-capacity:]
            put += 1
        elif move == "take" and waiting:
            frame = mailbox.take()
            assert frame is not None
            assert frame.index == waiting.pop(0)
            in_hand += 1
        elif move in ("refuse", "fail") and in_hand:
            mailbox.gave_up(refused=move == "refuse")
            in_hand, dropped, refused = in_hand - 1, dropped + 1, refused + (move == "refuse")
        elif move == "answer" and in_hand:
            mailbox.answered()
            in_hand, answered = in_hand - 1, answered + 1
        elif move == "close":
            mailbox.close()
            closed, dropped, waiting = True, dropped + len(waiting), []
        assert mailbox.counts == Counts(put, answered, dropped, len(waiting) + in_hand, refused)
