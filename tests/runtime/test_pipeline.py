from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest

from edge_cnnlstm.errors import BackendError, ClosedError, ConfigError, SourceError
from edge_cnnlstm.runtime import pipeline as pipeline_module
from edge_cnnlstm.runtime.backends.scripted import Script, ScriptedBackend
from edge_cnnlstm.runtime.frame import Frame
from edge_cnnlstm.runtime.mailbox import QUEUE_FRAMES, Mailbox, Policy
from edge_cnnlstm.runtime.pipeline import Pipeline
from edge_cnnlstm.runtime.sources.array import ArraySource
from edge_cnnlstm.runtime.stream import WARM_UP_STEPS, Stream
from edge_cnnlstm.spec import ModelSpec
from tests.conftest import tiny_frames

PATIENCE = 20.0
"""Seconds until a test that hangs gives up; no test that passes comes near it."""
POLICIES = ("newest", "every")


class ScriptedSource:
    """Frames on command: `gate` is called before each, `exhausted` is set after the last."""

    live = False

    def __init__(
        self, count: int, *, gate: Callable[[int], object] = lambda _: None, error: BaseException | None = None
    ) -> None:
        self.frames = tiny_frames(count, seed=1)
        self.gate = gate
        self.error = error
        self.exhausted = threading.Event()
        self.hangs_until = threading.Event()
        self.closed = threading.Event()
        self.yielded = 0

    def __iter__(self) -> Iterator[Frame]:
        try:
            for index, pixels in enumerate(self.frames):
                self.gate(index)
                if self.closed.is_set():
                    return
                self.yielded += 1
                yield Frame(pixels, index, time.monotonic_ns())
            if self.error is not None:
                raise self.error
        finally:
            self.exhausted.set()

    def close(self) -> None:
        self.closed.set()


@pytest.fixture
def stream(tiny_spec: ModelSpec, tiny_script: Script) -> Stream:
    return Stream(ScriptedBackend(tiny_spec, tiny_script))


def finished(pipeline: Pipeline) -> bool:
    """Whether the source's thread has ended, given time to."""
    pipeline._thread.join(PATIENCE)
    return not pipeline._thread.is_alive()


def drain(pipeline: Pipeline, into: list[int], each: Callable[[], object] = lambda: None) -> None:
    """Iterate to the end, noting the frames' indices as they come, so that they outlive an error."""
    for frame, _ in pipeline:
        into.append(frame.index)
        each()


def assert_adds_up(pipeline: Pipeline) -> None:
    counts = pipeline.counts
    assert counts.produced == counts.predicted + counts.dropped


@pytest.mark.parametrize("count", [0, 1, 5, 200])
def test_every_delivers_every_frame_in_order(stream: Stream, count: int) -> None:
    pipeline = Pipeline(ScriptedSource(count), stream, "every")
    pairs = list(pipeline)
    assert [frame.index for frame, _ in pairs] == list(range(count))
    assert [prediction.frame_index for _, prediction in pairs] == list(range(count))
    counts = pipeline.counts
    assert (counts.produced, counts.predicted, counts.dropped) == (count, count, 0)


def test_every_predicts_what_the_stream_alone_predicts(
    stream: Stream, tiny_spec: ModelSpec, tiny_script: Script
) -> None:
    alone = Stream(ScriptedBackend(tiny_spec, tiny_script))
    frames = tiny_frames(60, seed=2)
    for (_, found), pixels in zip(Pipeline(ArraySource(frames), stream, "every"), frames, strict=True):
        np.testing.assert_array_equal(found.scores, alone.step(pixels).scores)


def test_newest_skips_what_came_while_the_consumer_was_busy(stream: Stream) -> None:
    source = ScriptedSource(100)
    pipeline = Pipeline(source, stream, "newest")
    indices = []
    for frame, _ in pipeline:
        indices.append(frame.index)
        assert source.exhausted.wait(PATIENCE)
    assert indices == sorted(set(indices))
    assert len(indices) <= 2
    assert indices[-1] == 99
    counts = pipeline.counts
    assert (counts.produced, counts.predicted, counts.dropped) == (100, len(indices), 100 - len(indices))


def test_newest_loses_nothing_when_the_consumer_keeps_up(stream: Stream) -> None:
    taken = threading.Semaphore(1)
    pipeline = Pipeline(ScriptedSource(40, gate=lambda _: taken.acquire(timeout=PATIENCE)), stream, "newest")
    indices = []
    for frame, _ in pipeline:
        indices.append(frame.index)
        taken.release()
    assert indices == list(range(40))
    assert pipeline.counts.dropped == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_never_more_frames_wait_than_the_policy_allows(stream: Stream, policy: str) -> None:
    capacity = {"newest": 1, "every": QUEUE_FRAMES}[policy]
    begun = threading.Event()
    source = ScriptedSource(3 * QUEUE_FRAMES, gate=lambda index: begun.wait(PATIENCE) if index else None)
    pipeline = Pipeline(source, stream, policy)
    mailbox, most = pipeline._mailbox, 0
    put = mailbox.put

    def watched(frame: Frame) -> bool:
        nonlocal most
        left = put(frame)
        most = max(most, len(mailbox._frames))
        return left

    mailbox.put = watched  # type: ignore[method-assign]
    for step, _ in enumerate(pipeline):
        if step == 0:
            begun.set()
            with mailbox._changed:
                full = mailbox._changed.wait_for(lambda: len(mailbox._frames) == capacity, PATIENCE)
            assert full
        if policy == "every":
            assert source.yielded <= step + 1 + capacity + 1  # taken, waiting, and one in the source's hand
    assert most <= capacity
    assert_adds_up(pipeline)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("after", [1, 2, 7])
def test_an_early_break_accounts_for_every_frame(stream: Stream, policy: str, after: int) -> None:
    source = ScriptedSource(500)
    pipeline = Pipeline(source, stream, policy)
    seen = 0
    for _ in pipeline:
        seen += 1
        if seen == after or source.exhausted.is_set():
            break
    pipeline.close()
    assert finished(pipeline)
    counts = pipeline.counts
    assert counts.predicted == seen
    assert counts.produced == source.yielded
    assert counts.produced == counts.predicted + counts.dropped
    assert source.closed.is_set()


@pytest.mark.parametrize("count", [0, 1, 5, QUEUE_FRAMES + 5])
def test_an_error_in_the_source_comes_after_its_frames(stream: Stream, count: int) -> None:
    error = SourceError("cable out", expected="a cable", fix="plug it in")
    pipeline = Pipeline(ScriptedSource(count, error=error), stream, "every")
    indices: list[int] = []
    with pytest.raises(SourceError, match="cable out") as caught:
        drain(pipeline, indices)
    assert caught.value is error
    assert indices == list(range(count))
    assert pipeline.counts.predicted == count
    assert_adds_up(pipeline)


def test_an_error_in_the_source_comes_after_the_newest_frame(stream: Stream) -> None:
    source = ScriptedSource(50, error=SourceError("cable out", expected="a cable", fix="plug it in"))
    pipeline = Pipeline(source, stream, "newest")
    indices: list[int] = []
    with pytest.raises(SourceError):
        drain(pipeline, indices, lambda: source.exhausted.wait(PATIENCE))
    assert indices[-1] == 49
    assert_adds_up(pipeline)


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt(), SystemExit(3), MemoryError()], ids=repr)
def test_whatever_the_source_raises_reaches_the_consumer(stream: Stream, error: BaseException) -> None:
    pipeline = Pipeline(ScriptedSource(3, error=error), stream, "every")
    indices: list[int] = []
    with pytest.raises(type(error)):
        drain(pipeline, indices)
    assert indices == [0, 1, 2]


def test_an_error_that_comes_after_the_break_is_nobodys(stream: Stream) -> None:
    error = SourceError("read after close", expected="quiet", fix="none")
    go = threading.Event()
    source = ScriptedSource(1, error=error)
    source.frames = tiny_frames(2, seed=1)
    source.gate = lambda index: go.wait(PATIENCE) if index else None
    pipeline = Pipeline(source, stream, "every")
    for _ in pipeline:
        go.set()
        break
    assert finished(pipeline)
    assert_adds_up(pipeline)


def test_an_error_in_the_consumers_own_code_stops_the_source(stream: Stream) -> None:
    source = ScriptedSource(500)
    pipeline = Pipeline(source, stream, "every")
    with pytest.raises(ZeroDivisionError):
        drain(pipeline, [], lambda: 1 // 0)
    assert finished(pipeline)
    assert source.closed.is_set()
    assert_adds_up(pipeline)


def test_an_error_in_the_stream_reaches_the_consumer_and_stops_the_source(
    tiny_spec: ModelSpec, tiny_script: Script
) -> None:
    failing = frozenset({WARM_UP_STEPS + 4})
    source = ScriptedSource(500)
    pipeline = Pipeline(source, Stream(ScriptedBackend(tiny_spec, tiny_script, fail_at=failing)), "every")
    indices: list[int] = []
    with pytest.raises(BackendError, match="fails by script"):
        drain(pipeline, indices)
    assert indices == [0, 1, 2, 3]
    assert pipeline.counts.predicted == 4
    assert finished(pipeline)
    assert source.closed.is_set()


def test_the_frame_at_which_the_engine_failed_is_accounted_for(tiny_spec: ModelSpec, tiny_script: Script) -> None:
    stream = Stream(ScriptedBackend(tiny_spec, tiny_script, fail_at=frozenset({WARM_UP_STEPS + 4})))
    pipeline = Pipeline(ArraySource(list(tiny_frames(8, seed=3))), stream, "every")
    with pytest.raises(BackendError):
        list(pipeline)
    assert finished(pipeline)
    assert_adds_up(pipeline)


@pytest.mark.parametrize("policy", POLICIES)
def test_stop_from_another_thread_ends_the_iteration(stream: Stream, policy: str) -> None:
    taken = threading.Semaphore(0)
    pipeline = Pipeline(ScriptedSource(1000), stream, policy)

    def stop_after_the_first() -> None:
        taken.acquire(timeout=PATIENCE)
        pipeline.stop()

    stopper = threading.Thread(target=stop_after_the_first)
    stopper.start()
    seen = 0
    for _ in pipeline:
        seen += 1
        taken.release()
        stopper.join(PATIENCE)
    assert seen == 1
    assert finished(pipeline)
    assert pipeline.counts.predicted == 1
    assert_adds_up(pipeline)


def test_stop_wakes_a_consumer_that_waits_for_a_frame(stream: Stream) -> None:
    asked, go = threading.Event(), threading.Event()

    def gate(_: int) -> None:
        asked.set()
        go.wait(PATIENCE)

    pipeline = Pipeline(ScriptedSource(5, gate=gate), stream)
    seen: list[Any] = []
    consumer = threading.Thread(target=lambda: seen.extend(pipeline), daemon=True)
    consumer.start()
    assert asked.wait(PATIENCE)
    pipeline.stop()
    go.set()
    consumer.join(PATIENCE)
    assert not consumer.is_alive()
    assert seen == []
    assert finished(pipeline)
    assert_adds_up(pipeline)


def test_stop_before_the_start_means_no_prediction(stream: Stream) -> None:
    pipeline = Pipeline(ScriptedSource(10), stream)
    pipeline.stop()
    assert list(pipeline) == []
    assert finished(pipeline)
    assert_adds_up(pipeline)


def test_stop_may_interrupt_the_thread_that_holds_the_lock(stream: Stream) -> None:
    pipeline = Pipeline(ScriptedSource(10), stream)
    with pipeline._mailbox._changed:
        pipeline.stop()  # as a signal handler does: it runs in the interrupted thread
    assert list(pipeline) == []


def test_a_signal_just_before_the_wait_is_not_slept_through() -> None:
    mailbox = Mailbox(Policy.of("newest"))
    wait = mailbox._changed.wait

    def interrupted(timeout: float | None = None) -> bool:
        mailbox.stop()  # the signal handler, in this very thread, after take() has looked
        return wait(timeout)

    mailbox._changed.wait = interrupted  # type: ignore[method-assign]
    consumer = threading.Thread(target=mailbox.take, daemon=True)
    consumer.start()
    consumer.join(2)
    hung = consumer.is_alive()
    mailbox.close()
    consumer.join(PATIENCE)
    assert not hung


@pytest.mark.parametrize("policy", POLICIES)
def test_closing_twice_is_allowed(stream: Stream, policy: str) -> None:
    pipeline = Pipeline(ScriptedSource(5), stream, policy)
    list(pipeline)
    counts = pipeline.counts
    pipeline.close()
    pipeline.close()
    assert pipeline.counts == counts


def test_closing_before_the_start_closes_the_source(stream: Stream) -> None:
    source = ScriptedSource(5)
    pipeline = Pipeline(source, stream)
    pipeline.close()
    assert source.closed.is_set()
    assert pipeline.counts.produced == 0


def test_closing_from_another_thread_ends_the_iteration(stream: Stream) -> None:
    pipeline = Pipeline(ScriptedSource(1000), stream, "every")
    for _ in pipeline:
        other = threading.Thread(target=pipeline.close)
        other.start()
        other.join(PATIENCE)
        assert not other.is_alive()
    assert pipeline.counts.predicted == 1
    assert finished(pipeline)
    assert_adds_up(pipeline)


def test_closing_leaves_the_stream_open(stream: Stream) -> None:
    list(Pipeline(ScriptedSource(5), stream, "every"))
    assert stream.step(tiny_frames(1, seed=4)[0]).frame_index == 5


def test_the_source_is_closed_only_after_its_thread_has_ended(stream: Stream) -> None:
    source = ScriptedSource(500)
    ended: list[bool] = []
    source.close = lambda: ended.append(source.exhausted.is_set())  # type: ignore[method-assign]
    pipeline = Pipeline(source, stream, "every")
    for _ in pipeline:
        break
    assert ended
    assert all(ended)


@pytest.fixture
def hanging(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Pipeline, ScriptedSource]]:
    """A pipeline that gave up on a source which hangs after its first frame, and hangs still."""
    monkeypatch.setattr(pipeline_module, "JOIN_SECONDS", 0.05)
    back = threading.Event()
    source = ScriptedSource(3, gate=lambda index: back.wait(PATIENCE) if index else None)
    source.hangs_until = back
    pipeline = Pipeline(source, stream)
    for _ in pipeline:
        break
    yield pipeline, source
    back.set()
    assert finished(pipeline)


def test_a_source_that_hangs_is_left_alone(hanging: tuple[Pipeline, ScriptedSource]) -> None:
    pipeline, source = hanging
    assert pipeline._thread.is_alive()
    assert not source.closed.is_set()


def test_a_frame_that_comes_after_the_end_is_accounted_for(hanging: tuple[Pipeline, ScriptedSource]) -> None:
    pipeline, source = hanging
    source.hangs_until.set()
    assert finished(pipeline)
    assert pipeline.counts.produced == 2
    assert_adds_up(pipeline)


def test_a_source_that_hung_is_closed_when_it_comes_back(hanging: tuple[Pipeline, ScriptedSource]) -> None:
    pipeline, source = hanging
    source.hangs_until.set()
    assert finished(pipeline)
    assert source.closed.is_set()


def test_a_pipeline_runs_once_and_says_so(stream: Stream) -> None:
    pipeline = Pipeline(ScriptedSource(3), stream, "every")
    assert len(list(pipeline)) == 3
    with pytest.raises(ClosedError, match="iterated before"):
        list(pipeline)
    assert pipeline.counts.produced == 3


def test_a_closed_pipeline_says_so(stream: Stream) -> None:
    pipeline = Pipeline(ScriptedSource(3), stream, "every")
    pipeline.close()
    with pytest.raises(ClosedError):
        list(pipeline)


def test_an_unknown_policy_is_refused(stream: Stream) -> None:
    with pytest.raises(ConfigError, match="policy 'skip'"):
        Pipeline(ScriptedSource(1), stream, "skip")  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("seed", range(4))
def test_the_account_holds_whatever_the_interleaving(stream: Stream, policy: str, seed: int) -> None:
    generator = np.random.default_rng(seed)
    naps = {int(index): None for index in generator.integers(0, 300, 20)}
    source = ScriptedSource(300, gate=lambda index: time.sleep(0.0005) if index in naps else None)
    pipeline = Pipeline(source, stream, policy)
    indices = []
    for frame, prediction in pipeline:
        assert frame.index == prediction.frame_index
        indices.append(frame.index)
        if generator.random() < 0.05:
            time.sleep(0.0005)
    assert indices == sorted(set(indices))
    assert indices[-1] == 299
    counts = pipeline.counts
    assert (counts.produced, counts.predicted) == (300, len(indices))
    assert_adds_up(pipeline)
    assert policy == "newest" or counts.dropped == 0


def test_a_source_may_be_any_iterable_with_close(stream: Stream) -> None:
    frames: Iterable[Frame] = [Frame(pixels, index, 0) for index, pixels in enumerate(tiny_frames(3, seed=5))]

    class Listed:
        live = False
        closed = 0

        def __iter__(self) -> Iterator[Frame]:
            return iter(frames)

        def close(self) -> None:
            self.closed += 1

    source = Listed()
    assert len(list(Pipeline(source, stream, "every"))) == 3
    assert source.closed


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_while_closing_the_source_does_not_hang_the_consumer(stream: Stream) -> None:
    def failing() -> None:
        raise SourceError("driver gone", expected="a driver", fix="load it")

    source = ScriptedSource(3)
    source.close = failing  # type: ignore[method-assign]
    pipeline = Pipeline(source, stream, "every")
    consumer = threading.Thread(target=drain_quietly, args=(pipeline,), daemon=True)
    consumer.start()
    consumer.join(PATIENCE)
    hung = consumer.is_alive()
    pipeline.stop()
    consumer.join(PATIENCE)
    assert not hung
    assert finished(pipeline)


def drain_quietly(pipeline: Pipeline) -> None:
    with contextlib.suppress(SourceError):
        drain(pipeline, [])


@pytest.mark.parametrize("policy", [*POLICIES, "skip-1"])
def test_frames_that_the_source_lost_are_counted_apart_from_those_dropped_here(policy: str) -> None:
    mailbox = Mailbox(Policy.of(policy))
    pixels = tiny_frames(1, seed=1)[0]
    for source, index in [("a", 5), ("a", 6), ("a", 9), ("b", 50), ("b", 0), ("b", 2)]:
        assert mailbox.put(Frame(pixels, index, 0, source=source))
    mailbox.close()

    counts = mailbox.counts
    assert (counts.produced, counts.dropped, counts.lost) == (6, 6, 2 + 1)


def test_a_poisoned_memory_costs_one_frame_and_the_stream_goes_on(
    tiny_spec: ModelSpec, tiny_script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    seen = 0

    def script(pixels: Any, state: Any) -> Any:
        nonlocal seen
        seen += 1
        outputs, after = tiny_script(pixels, state)
        if seen == WARM_UP_STEPS + 5:
            after = {name: np.full_like(array, np.inf) for name, array in after.items()}
        return outputs, after

    stream, frames = Stream(ScriptedBackend(tiny_spec, script)), list(tiny_frames(9, seed=3))
    pipeline = Pipeline(ArraySource(frames), stream, "every")
    found = {frame.index: prediction for frame, prediction in pipeline}

    assert list(found) == [0, 1, 2, 3, 5, 6, 7, 8]
    assert found[5].reset_reason == "not finite"
    fresh = Stream(ScriptedBackend(tiny_spec, tiny_script))
    assert [found[at].scores.tobytes() for at in (5, 6, 7, 8)] == [
        fresh.step(pixels).scores.tobytes() for pixels in frames[5:]
    ]
    assert_adds_up(pipeline)
    assert pipeline.counts.dropped == 1
    assert sum("NaN or infinity" in record.getMessage() for record in caplog.records) == 1
