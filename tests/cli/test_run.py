"""`run` leaves what it was asked for, accounts for every frame, and refuses in one clear error."""

from __future__ import annotations

import csv
import json
import logging
import os
import signal
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_cnnlstm.cli import course
from edge_cnnlstm.cli.account import remarks
from edge_cnnlstm.cli.run import run
from edge_cnnlstm.errors import ConfigError, DependencyError, SinkError, SourceError
from edge_cnnlstm.report.gather import StreamSummary
from edge_cnnlstm.runtime.account import Settings, account
from edge_cnnlstm.runtime.backends.scripted import Script, ScriptedBackend
from edge_cnnlstm.runtime.mailbox import Counts
from edge_cnnlstm.runtime.realtime import OFF
from edge_cnnlstm.runtime.stream import Stream
from edge_cnnlstm.spec import ModelSpec, StateRules
from tests.runtime.test_sinks import decoded

ROOT = Path(__file__).parent.parent.parent
COUNT = 12
ENGINE = "onnxruntime"


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("video") / "noise.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 30, (32, 24))
    for image in np.random.default_rng(0).integers(0, 256, (COUNT, 24, 32, 3), dtype=np.uint8):
        writer.write(image)
    writer.release()
    return str(path)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_output_tells_of_the_same_run(
    tiny_bundle: Path, video: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new"
    run(
        tiny_bundle,
        video,
        backend=ENGINE,
        json=True,
        predictions=out / "p.jsonl",
        csv=out / "p.csv",
        video=out / "p.mp4",
        summary=out / "s.json",
        report=out / "report",
    )

    printed = capsys.readouterr()
    told = lines(out / "p.jsonl")
    assert [json.loads(line) for line in printed.out.splitlines()] == told
    assert printed.err == ""
    assert [line["frame"] for line in told] == list(range(COUNT))
    with (out / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["frame"], row["digit.label"], row["age_ms"]) for row in rows] == [
        (str(line["frame"]), line["digit"]["label"], str(line["ms"]["age"])) for line in told
    ]
    assert len(decoded(out / "p.mp4")) == COUNT
    assert read(out / "s.json") == read(out / "report" / "run.json")
    assert cv2.imread(str(out / "report" / "run.png")).std() > 5
    assert f"{COUNT} frames in = {COUNT} predicted + 0 dropped" in (out / "report" / "run.html").read_text()


def test_the_account_keeps_what_the_demo_reads_and_says_how_it_came_about(
    tiny_bundle: Path, video: str, tmp_path: Path
) -> None:
    run(tiny_bundle, video, backend=ENGINE, rate=200, policy="skip-2", threads=2, summary=tmp_path / "s.json")

    found = read(tmp_path / "s.json")
    StreamSummary.model_validate_json((tmp_path / "s.json").read_bytes())
    assert (found["schema_version"], found["policy"], found["threads"], found["live"]) == (1, "skip-2", 2, False)
    assert found["deadline_ms"] == 5
    assert found["frames_in"] == COUNT == found["predicted"] + found["dropped"]
    assert found["predicted"] == COUNT / 3
    assert (found["refused"], found["lost"], found["resets"], found["clock_faults"]) == (0, 0, {}, 0)
    # Of those dropped, two come after the last answer.
    assert found["response_frames"] == COUNT - 2 == sum(count for _, count in found["response_histogram_ns"])
    assert found["response_ms"]["p50"] > found["latency_ms"]["age"]["p50"]
    assert found["samples"] == {
        "p99": {"needed": 2010, "reached": False},
        "p99_9": {"needed": 20140, "reached": False},
    }
    assert sum(found["timeline"]["frames"]) == found["predicted"]
    assert sum(found["timeline"]["lost"]) == COUNT - 2 - found["predicted"]
    assert found["first_after_idle_ms"] == {"count": 0, **dict.fromkeys(found["jitter_ms"])}
    assert found["valid"] is True
    assert found["started"].endswith("+00:00")
    assert found["versions"]["onnxruntime"]


def test_a_run_stops_after_so_many_frames_and_drops_none_of_them(tiny_bundle: Path, video: str, tmp_path: Path) -> None:
    run(tiny_bundle, video, backend=ENGINE, frames=5, predictions=tmp_path / "p.jsonl", summary=tmp_path / "s.json")

    found = read(tmp_path / "s.json")
    assert (found["frames_in"], found["predicted"], found["dropped"]) == (5, 5, 0)
    assert len(lines(tmp_path / "p.jsonl")) == 5


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, StateRules()),
        ({"gap_ms": 0.0}, StateRules(gap_ms=None)),
        ({"gap_ms": 2.5, "idle_ms": 70.0}, StateRules(gap_ms=2.5, idle_ms=70.0)),
        ({"idle_ms": 0.0}, StateRules(idle_ms=None)),
    ],
)
def test_rules_of_the_bundle_hold_where_none_is_given(
    tiny_bundle: Path, video: str, tmp_path: Path, given: dict[str, float], expected: StateRules
) -> None:
    run(tiny_bundle, video, backend=ENGINE, rate=200, frames=4, summary=tmp_path / "s.json", **given)

    found = read(tmp_path / "s.json")
    assert StateRules(**found["rules"]) == expected
    # Frames due every 5 ms are further apart than 2.5.
    assert found["resets"] == ({"gap": found["predicted"] - 1} if given.get("gap_ms") == 2.5 else {})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"deadline_ms": 0.0}, "a deadline of 0.0 ms"),
        ({"deadline_ms": -1.0}, "a deadline of -1.0 ms"),
        ({"gap_ms": -1.0}, "--gap-ms -1"),
        ({"idle_ms": float("nan")}, "--idle-ms nan"),
        ({"policy": "skip-0"}, "policy 'skip-0'"),
        ({"policy": "foo"}, "policy 'foo'"),
        ({"policy": ""}, "policy ''"),
        ({"frames": 0}, "0 frames"),
        ({"threads": 0}, "0 threads"),
        ({"backend": "tensorflow"}, "backend 'tensorflow'"),
    ],
)
def test_a_bad_option_is_one_error_of_one_line_and_writes_nothing(
    tiny_bundle: Path, video: str, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        run(tiny_bundle, video, rate=50, csv=tmp_path / "p.csv", **{"backend": ENGINE} | options)

    assert raised.value.found == said
    assert len(str(raised.value).splitlines()) == 3
    assert not list(tmp_path.iterdir())


def test_the_command_line_takes_a_negative_number_as_a_value(tiny_bundle: Path, video: str) -> None:
    command = [sys.executable, "-m", "edge_cnnlstm.cli", "run", str(tiny_bundle), "--source", video, "--gap-ms", "-1"]
    refused = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60)

    assert refused.returncode == 1
    assert refused.stderr.splitlines()[0] == "error: --gap-ms -1"
    assert len(refused.stderr.splitlines()) == 3


def test_a_terminated_run_finishes_every_file(tiny_bundle: Path, video: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edge_cnnlstm.cli", "run", tiny_bundle, "--source", video, "--backend", ENGINE]
    command += ["--rate", "2", "--json", "--predictions", tmp_path / "p.jsonl", "--csv", tmp_path / "p.csv"]
    command += ["--video", tmp_path / "p.mp4", "--summary", tmp_path / "s.json", "--report", tmp_path / "report"]
    with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()

    assert process.returncode == 0
    told = [json.loads(line) for line in (first + rest).splitlines()]
    found = read(tmp_path / "s.json")
    assert 1 <= len(told) == found["predicted"] < COUNT
    assert lines(tmp_path / "p.jsonl") == told
    assert len((tmp_path / "p.csv").read_text().splitlines()) == len(told) + 1
    assert len(decoded(tmp_path / "p.mp4")) == len(told)
    assert found["frames_in"] == found["predicted"] + found["dropped"]
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["run.html", "run.json", "run.png"]


def test_a_full_disk_ends_the_run_with_its_name_and_costs_nothing_else(
    tiny_bundle: Path, video: str, tmp_path: Path
) -> None:
    full = tmp_path / "p.csv"
    full.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as raised:
        run(tiny_bundle, video, backend=ENGINE, csv=full, predictions=tmp_path / "p.jsonl", summary=tmp_path / "s.json")

    assert raised.value.filename == str(full)
    found = read(tmp_path / "s.json")
    assert found["predicted"] == len(lines(tmp_path / "p.jsonl")) == 1
    assert "No space left on device" in found["error"]
    assert found["frames_in"] == found["predicted"] + found["dropped"]


def test_what_fails_before_the_first_frame_leaves_no_account(tiny_bundle: Path, video: str, tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"ending in \.mp4"):
        run(tiny_bundle, video, backend=ENGINE, video=tmp_path / "p.avi", summary=tmp_path / "s.json")
    with pytest.raises(SourceError, match="no source"):
        run(tiny_bundle, "missing.mp4", backend=ENGINE, summary=tmp_path / "s.json")
    assert not list(tmp_path.iterdir())


def test_without_what_draws_it_says_so_before_the_first_frame(
    tiny_bundle: Path, video: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "edge_cnnlstm.report.streaming", raising=False)
    monkeypatch.setitem(sys.modules, "edge_cnnlstm.report.streaming_plots", None)
    with pytest.raises(DependencyError, match=r"pip install 'edge-cnnlstm\[report\]'"):
        run(tiny_bundle, video, backend=ENGINE, csv=tmp_path / "p.csv", report=tmp_path / "report")
    assert not (tmp_path / "p.csv").exists()


def test_realtime_says_what_it_costs_and_the_account_what_was_permitted(
    tiny_bundle: Path,
    video: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("not for you")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with caplog.at_level(logging.WARNING, "edge_cnnlstm"):
        run(tiny_bundle, video, backend=ENGINE, rate=500, realtime=True, summary=tmp_path / "s.json")

    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("realtime:")]
    for said in ("four more steps a frame", "300 µs", "garbage", "SCHED_FIFO 50"):
        assert said in line
    assert any("SCHED_FIFO" in record.getMessage() for record in caplog.records)
    expected = {"keep_warm": True, "spin_us": 300, "freeze_collector": True, "priority": None, "cpus": None}
    assert read(tmp_path / "s.json")["realtime"] == expected


class Throttled:
    """Stands in for telemetry that saw the machine throttle."""

    def __enter__(self) -> Throttled:  # noqa: PYI034 - Python 3.10 has no Self
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def document(self) -> dict[str, Any]:
        return {"verdict": {"valid": False, "reasons": ["oc3 rose by [2]"]}, "series": {}, "times_s": []}


def test_a_run_that_throttled_is_called_invalid(
    tiny_bundle: Path,
    video: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(course, "Telemetry", Throttled)
    run(tiny_bundle, video, backend=ENGINE, summary=tmp_path / "s.json")

    found = read(tmp_path / "s.json")
    assert (found["valid"], found["invalid_because"]) == (False, ["oc3 rose by [2]"])
    assert found["telemetry"] == Throttled().document()
    assert "INVALID: oc3 rose by [2]" in capsys.readouterr().err


def test_the_machine_is_watched_beside_the_stream(tiny_bundle: Path, video: str, tmp_path: Path) -> None:
    run(tiny_bundle, video, backend=ENGINE, summary=tmp_path / "s.json")

    telemetry = read(tmp_path / "s.json")["telemetry"]
    assert telemetry["samples_taken"] >= (1 if telemetry["sources"] else 0)
    assert telemetry["verdict"]["reasons"] == []


def made_up(tiny_spec: ModelSpec, tiny_script: Script, counts: Counts, source: str = "x") -> dict[str, Any]:
    stream = Stream(ScriptedBackend(tiny_spec, tiny_script), deadline_ms=5)
    stream.reset("[gap]")
    stream.latency.clock_faults = 3
    settings = Settings("tiny.edge", source, True, None, "newest", 1, OFF)
    return account(stream, counts, settings, started=datetime.now(timezone.utc), telemetry=None)


def test_the_terminal_accounts_for_refused_and_lost_frames(tiny_spec: ModelSpec, tiny_script: Script) -> None:
    said = list(remarks(made_up(tiny_spec, tiny_script, Counts(10, 4, 6, refused=5, lost=7))))

    assert said[0] == "10 frames in = 4 predicted + 6 dropped, 5 of these refused; 7 more were lost by the camera"
    assert said[1] == "0 later than 5.0 ms"
    assert r"memory emptied: \[gap] 1" in said
    assert any("in the future" in line and "3" in line for line in said)
    assert any("2,010" in line for line in said)


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("rtsp://user:p%40ss@10.0.0.2:554/stream", "rtsp://…@10.0.0.2:554/stream"),
        ("rtsp://10.0.0.2/a@b", "rtsp://10.0.0.2/a@b"),
        ("clips/a@b.mp4", "clips/a@b.mp4"),
    ],
)
def test_the_account_keeps_passwords_to_itself(
    tiny_spec: ModelSpec, tiny_script: Script, source: str, shown: str
) -> None:
    assert made_up(tiny_spec, tiny_script, Counts(0, 0, 0), source)["source"] == shown
