"""What goes wrong on a robot: clocks that jump, engines that fail, consumers that are slow, a system that says stop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_cnnlstm.errors import BackendError
from edge_cnnlstm.runtime.backends.scripted import Script
from edge_cnnlstm.runtime.frame import Frame
from edge_cnnlstm.runtime.group import StreamGroup
from edge_cnnlstm.runtime.latency import LatencyRecorder
from edge_cnnlstm.runtime.mailbox import Counts
from edge_cnnlstm.runtime.pipeline import Pipeline
from edge_cnnlstm.runtime.prediction import Prediction
from edge_cnnlstm.runtime.sinks.base import Callback
from edge_cnnlstm.runtime.stream import WARM_UP_STEPS, Stream
from edge_cnnlstm.spec import ModelSpec, StateRules
from tests.conftest import ROOT, tiny_frames
from tests.runtime.backend_contract import assert_same
from tests.runtime.doubles import PATIENCE, PERIOD, Clock, CountingBackend, film, told
from tests.runtime.test_mailbox import Listed, settled

HOUR_S, YEAR_S = 3600, 365 * 86400
JUMPS = [sign * step for sign in (1, -1) for step in (HOUR_S, 10 * YEAR_S)] * 25
"""Seconds by which a wall clock jumps: 100 times."""


def assert_no_time_is_negative(predictions: list[Prediction], latency: LatencyRecorder) -> None:
    for prediction in predictions:
        assert min(prediction.timings) >= 0, prediction.timings
        assert prediction.timings.age == sum(prediction.timings[:4])
    histograms = [*latency.stages.values(), latency.response, latency.jitter, latency.first_after_idle]
    for histogram in histograms:
        assert histogram.total >= 0
        assert histogram.count == sum(count for _, count in histogram.buckets())
        assert all(edge >= 0 for edge, _ in histogram.buckets())
    for summary in latency.summary().values():
        assert min(summary.p50 or 0, summary.p99_9 or 0, summary.max or 0, summary.mean or 0) >= 0
    document = latency.timeline.document()
    assert sum(document["frames"]) == len(predictions)
    for name in ("mean_age_ms", "max_age_ms", "late", "lost", "start_s"):
        assert min(document[name]) >= 0, name


def test_100_jumps_of_the_wall_clock_are_not_noticed(
    monkeypatch: pytest.MonkeyPatch, scripted: Stream, twin: Stream
) -> None:
    predictions = []
    wall = time.time()
    for jump, frame in zip(JUMPS, film(tiny_frames(100, seed=1)), strict=True):
        wall += jump
        monkeypatch.setattr(time, "time", lambda now=wall: now)
        monkeypatch.setattr(time, "time_ns", lambda now=wall: round(now * 1e9))
        predictions.append(scripted.step(frame))
    monkeypatch.undo()
    assert [told(prediction) for prediction in predictions] == [
        told(twin.step(frame)) for frame in film(tiny_frames(100, seed=1))
    ]
    assert_no_time_is_negative(predictions, scripted.latency)
    assert scripted.latency.clock_faults == 0
    assert not scripted.resets


def _wall(_: int, jump: int) -> int:
    return 1_764_000_000 * 10**9 + jump * 10**9


def _offset(now: int, jump: int) -> int:
    return now + jump * 10**9


@pytest.mark.parametrize("source_clock", [_wall, _offset])
@pytest.mark.parametrize("rules", [StateRules(), StateRules(gap_ms=None, seek=False)])
@pytest.mark.parametrize("kind", ["stream", "group"])
def test_100_jumps_of_the_clock_that_stamps_the_frames_make_no_time_negative(
    clock: Clock,
    tiny_spec: ModelSpec,
    tiny_script: Script,
    source_clock: Callable[[int, int], int],
    rules: StateRules,
    kind: str,
) -> None:
    step: Callable[[Frame], Prediction]
    if kind == "stream":
        stream = Stream(CountingBackend(tiny_spec, tiny_script), rules=rules, deadline_ms=33.0)
        latency, resets, step = stream.latency, stream.resets, stream.step
    else:
        group = StreamGroup(CountingBackend(tiny_spec.batched(2), tiny_script), rules=rules, deadline_ms=33.0)
        member = group.join()
        latency, resets = member.latency, member.resets
        step = lambda frame: group.step({member: frame})[member]  # type: ignore[assignment,return-value]  # noqa: E731
    predictions, future = [], 0
    for at, (jump, pixels) in enumerate(zip(JUMPS, tiny_frames(100, seed=1), strict=True)):
        captured = source_clock(clock.now, jump)
        future += captured > clock.now
        # Some were lost, and how long fitting took comes from that clock too.
        predictions.append(step(Frame(pixels, 2 * at, captured, fit_ns=jump * 10**9)))
        clock.now += PERIOD
    assert_no_time_is_negative(predictions, latency)
    assert latency.clock_faults == future == (100 if source_clock is _wall else 50)
    assert latency.lost == 99 - resets["seek"]
    assert latency.stages["age"].count == 100


def test_every_one_of_the_first_70_calls_of_the_engine_may_fail_and_only_its_frame_is_lost(
    tiny_spec: ModelSpec, tiny_script: Script
) -> None:
    frames = film(tiny_frames(60, seed=2))
    for call in range(WARM_UP_STEPS + len(frames)):
        backend = CountingBackend(tiny_spec, tiny_script, fail_at=frozenset({call}))
        if call < WARM_UP_STEPS:
            with pytest.raises(BackendError, match=f"step {call} fails"):
                Stream(backend)
            assert backend.closed == 1
            continue
        stream, spared = Stream(backend), Stream(CountingBackend(tiny_spec, tiny_script))
        for at, frame in enumerate(frames):
            if WARM_UP_STEPS + at == call:
                before = stream.snapshot()
                with pytest.raises(BackendError, match=f"step {call} fails"):
                    stream.step(frame)
                assert_same(stream.snapshot(), before)
            else:
                assert told(stream.step(frame)) == told(spared.step(frame))
        assert_same(stream.snapshot(), spared.snapshot())
        assert stream.latency.stages["age"].count == 59
        assert stream.resets == spared.resets == {}


def test_a_failing_engine_ends_the_pipeline_and_the_stream_serves_the_next_one(
    tiny_spec: ModelSpec, tiny_script: Script, twin: Stream
) -> None:
    stream = Stream(CountingBackend(tiny_spec, tiny_script, fail_at=frozenset({WARM_UP_STEPS + 7})))
    frames = film(tiny_frames(20, seed=3))
    first = Pipeline(Listed(frames), stream, "every")
    found: list[tuple[object, ...]] = []
    with pytest.raises(BackendError):
        first.run(Callback(lambda _, prediction: found.append(told(prediction))))
    assert settled(first).predicted == len(found) == 7
    second = Pipeline(Listed(frames[8:]), stream, "every")
    assert second.run(Callback(lambda _, prediction: found.append(told(prediction)))) == Counts(12, 12, 0)
    assert found == [told(twin.step(frame)) for frame in frames if frame.index != 7]


@pytest.mark.parametrize("policy", ["newest", "every"])
@pytest.mark.parametrize(("share", "come"), [("a tenth", 10), ("half", 2), ("all", 1)])
def test_a_consumer_at_a_tenth_half_or_all_of_the_sources_rate_is_accounted_for_exactly(
    scripted: Stream, policy: str, share: str, come: int
) -> None:
    turns, total = 12, 1 + 12 * come
    due = threading.Semaphore(1)
    pipeline = Pipeline(
        Listed(film(tiny_frames(total, seed=4)), lambda _: due.acquire(timeout=PATIENCE)), scripted, policy
    )
    mailbox = pipeline._mailbox
    found: list[int] = []
    for frame, _ in pipeline:
        found.append(frame.index)
        due.release(come)
        produced = min(total, 1 + come * len(found))
        if policy == "newest":
            with mailbox._changed:
                assert mailbox._changed.wait_for(lambda produced=produced: mailbox._produced == produced, PATIENCE)
    counts = settled(pipeline)
    if policy == "newest":
        assert found == [come * turn for turn in range(turns + 1)]
        assert counts == Counts(total, turns + 1, (come - 1) * turns)
        assert scripted.latency.lost == counts.dropped
    else:
        assert found == list(range(total))
        assert counts == Counts(total, total, 0)


MIDWAY = 7
"""The frame, counted from 0, in whose midst the system says stop."""


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_run_that_is_stopped_amid_a_frame_finishes_it_and_leaves_whole_lines_and_a_summary(
    tiny_bundle: Path, tmp_path: Path, number: str
) -> None:
    import cv2

    (tmp_path / "frames").mkdir()
    for index, pixels in enumerate(tiny_frames(60, seed=5)):
        cv2.imwrite(str(tmp_path / "frames" / f"{index:03}.png"), pixels)
    # Python runs this before the command line, which stays the real one.
    (tmp_path / "sitecustomize.py").write_text(
        textwrap.dedent(f"""
            import os, signal
            from edge_cnnlstm.runtime.backends.ort import OnnxRuntimeBackend
            from edge_cnnlstm.runtime.stream import Stream
            infer, step, frames = OnnxRuntimeBackend.infer, Stream.step, []

            def noting(self, frame):
                frames.append(frame)
                return step(self, frame)

            def interrupted(self):
                if len(frames) == {MIDWAY + 1}:
                    os.kill(os.getpid(), signal.{number})
                return infer(self)

            Stream.step, OnnxRuntimeBackend.infer = noting, interrupted
        """)
    )
    words = ["run", str(tiny_bundle), "--source", str(tmp_path / "frames"), "--backend", "onnxruntime", "--json"]
    kept = ["--predictions", str(tmp_path / "kept.jsonl"), "--summary", str(tmp_path / "summary.json")]
    ran = subprocess.run(
        [sys.executable, "-m", "edge_cnnlstm.cli", *words, *kept],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [line["frame"] for line in lines] == list(range(MIDWAY + 1))
    assert ran.stdout.endswith("}\n")
    assert (tmp_path / "kept.jsonl").read_text() == ran.stdout
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["predicted"] == MIDWAY + 1
    assert summary["frames_in"] == summary["predicted"] + summary["dropped"]
