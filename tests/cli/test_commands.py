from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.cli import console
from edge_cnnlstm.cli.__main__ import app
from edge_cnnlstm.cli.console import write_json
from edge_cnnlstm.spec import StateRules

ROOT = Path(__file__).parent.parent.parent
QUICK = ("--set", "data.clips=32", "--set", "data.held_out=4", "--set", "fit.stages=[{epochs=1, frames=3, batch=4}]")

Refusal = Callable[..., str]


def edge(*arguments: str | Path, module: str = "edge_cnnlstm.cli") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200"},
        check=False,
        timeout=240,
    )


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refusal:
    """Return what gives a command to this process, which has its imports behind it, and returns what stderr hears."""

    def refused(*arguments: str | Path, app: typer.Typer = app) -> str:
        monkeypatch.chdir(ROOT)
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "argv", ["edge-cnnlstm", *map(str, arguments)])
        monkeypatch.setattr(logging.getLogger("edge_cnnlstm"), "handlers", [])
        with pytest.raises(SystemExit) as ended:
            console.run(app)
        assert ended.value.code == 1
        return capsys.readouterr().err

    return refused


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "unseen.mp4"
    made = edge("sample-video", path, "--scenes", "1")
    assert made.returncode == 0, made.stderr
    return path


def test_help_shows_every_command() -> None:
    shown = edge("--help")

    assert shown.returncode == 0
    for command in ("train", "evaluate", "inspect", "verify", "build", "run", "sample-video", "report"):
        assert command in shown.stdout
        assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0


def test_train_and_evaluate_leave_a_checkpoint_and_its_scores(tmp_path: Path) -> None:
    trained = edge("train", "occluded-digits", *QUICK, "--set", "model.layers=2", "-o", tmp_path / "checkpoint")
    assert trained.returncode == 0, trained.stderr
    training = json.loads((tmp_path / "checkpoint" / "training.json").read_text())
    assert len(training["history"]) == 1
    assert training["seconds"] > 0
    assert "layers = 2" in (tmp_path / "checkpoint" / "training.toml").read_text()

    evaluated = edge("evaluate", tmp_path / "checkpoint", "--clips", "3", "--output", tmp_path / "evaluation.json")

    assert evaluated.returncode == 0, evaluated.stderr
    scored = json.loads((tmp_path / "evaluation.json").read_text())["networks"]["checkpoint"]
    assert scored["clips"] == 3
    assert 0 <= scored["scores"]["digit.accuracy.visible"] <= 1
    assert "accuracy" in evaluated.stdout


def test_inspect_and_verify_accept_a_sound_bundle(exported: Path) -> None:
    inspected, verified = edge("inspect", exported), edge("verify", exported)

    assert inspected.returncode == verified.returncode == 0
    for word in ("int8_onnxruntime", "int8_tensorrt", "fp32", "h → h_next", "c → c_next", "crop"):
        assert word in inspected.stdout
    assert "forgets after 1000 ms between frames, another source" in inspected.stdout
    assert "every graph proven over 64 frames" in verified.stdout


def test_inspect_shows_the_time_that_a_network_asks_for_and_the_rules_of_its_memory(
    tmp_path: Path, tiny_dt_bundle: Path
) -> None:
    bundle = bundle_format.read(tiny_dt_bundle)
    rules = StateRules(gap_ms=None, idle_ms=2500, source_change=False, seek=False, not_finite=False)
    changed = replace(bundle.manifest, model=replace(bundle.manifest.model, rules=rules))
    bundle_format.write(tmp_path / "told.edge", changed, bundle.members)

    shown = edge("inspect", tmp_path / "told.edge").stdout

    assert "time    float32 [1, 1] seconds since the last frame" in shown
    assert "forgets after 2500 ms without one\n" in shown
    assert edge("verify", tmp_path / "told.edge").returncode == 0


def test_results_have_a_list_of_numbers_on_one_line(tmp_path: Path) -> None:
    document = {"samples": [[1, -2.5e-3], []], "words": ["[\n 1\n]", "[ 1 ]"], "none": [1, None], "deep": [{"a": [3]}]}

    write_json(tmp_path / "results.json", document)

    text = (tmp_path / "results.json").read_text()
    assert json.loads(text) == document
    assert "[1, -0.0025]" in text
    assert '"a": [3]' in text


@pytest.mark.parametrize("position", [0, 40, 5_000, 200_000, -1, -30])
def test_verify_refuses_a_changed_byte(exported: Path, tmp_path: Path, position: int, refusal: Refusal) -> None:
    data = bytearray(exported.read_bytes())
    data[position] ^= 0x10
    damaged = tmp_path / "damaged.edge"
    damaged.write_bytes(data)

    heard = refusal("verify", damaged)

    assert "error:" in heard
    assert "expected:" in heard


def test_the_export_left_its_measurements_beside_the_bundle(exported: Path) -> None:
    report = json.loads(exported.with_suffix(".export_report.json").read_text())
    page = exported.with_suffix(".export_report.html").read_text(encoding="utf-8")

    shipped = {"fp32", "fp16_tensorrt", *(choice["name"] for choice in report["choice"].values())}
    assert set(report["parity"]["graphs"]) == set(report["graphs"]) >= shipped
    assert any(name.endswith("_onnxruntime") for name in report["graphs"])
    assert report["parity"]["graphs"]["fp32"]["largest"] < 1e-3
    assert report["graphs"]["fp32"]["agreement"] == {"fp32": 1.0}
    assert all(built["plan_bytes"] > 100_000 for built in report["tensorrt"].values())
    assert all(name in page for name in report["graphs"])
    assert report["bundle"]["bytes"] == exported.stat().st_size
    assert not list(exported.parent.glob(".*unproven*"))


def test_run_streams_a_video_as_json_lines_and_nothing_else(exported: Path, video: Path, tmp_path: Path) -> None:
    ran = edge("run", exported, "--source", video, "--json", "--summary", tmp_path / "stream.json")

    assert ran.returncode == 0, ran.stderr
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    summary = json.loads((tmp_path / "stream.json").read_text())
    assert [line["frame"] for line in lines] == list(range(48))
    assert [line["first_after_reset"] for line in lines] == [True] + [False] * 47
    assert all(line["digit"]["label"] in "0123456789" for line in lines)
    assert all(len(line["target"]["box"]) == 4 for line in lines)
    assert summary["frames_in"] == summary["predicted"] == 48
    assert summary["dropped"] == 0


def test_run_paces_and_accounts_for_every_frame(exported: Path, video: Path, tmp_path: Path) -> None:
    ran = edge("run", exported, "--source", video, "--rate", "200", "--summary", tmp_path / "stream.json")

    assert ran.returncode == 0, ran.stderr
    summary = json.loads((tmp_path / "stream.json").read_text())
    assert summary["deadline_ms"] == pytest.approx(5)
    assert summary["frames_in"] == summary["predicted"] + summary["dropped"] == 48
    assert set(summary["latency_ms"]) == {"wait", "fit", "infer", "decode", "age"}
    assert "frames in" in ran.stderr
    assert ran.stdout == ""


def test_every_graph_of_the_bundle_runs_and_agrees_on_most_frames(exported: Path, video: Path) -> None:
    labels = []
    for graph in ("fp32", "int8_onnxruntime", "int8_tensorrt"):
        ran = edge("run", exported, "--source", video, "--json", "--graph", graph)
        assert ran.returncode == 0, ran.stderr
        labels.append([json.loads(line)["digit"]["label"] for line in ran.stdout.splitlines()])

    for other in labels[1:]:
        assert sum(a == b for a, b in zip(labels[0], other, strict=True)) >= 40


def test_a_terminated_run_finishes_its_line_and_its_summary(exported: Path, video: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edge_cnnlstm.cli", "run", exported, "--source", video, "--rate", "5", "--json"]
    with subprocess.Popen(
        [*map(str, command), "--summary", str(tmp_path / "stream.json")], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()

    assert process.returncode == 0
    lines = [json.loads(line) for line in (first + rest).splitlines()]
    summary = json.loads((tmp_path / "stream.json").read_text())
    assert summary["predicted"] == len(lines) < 48
    assert summary["frames_in"] == summary["predicted"] + summary["dropped"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["verify", "missing.edge"], "cannot read missing.edge"),
        (["inspect", "pyproject.toml"], "damaged or changed"),
        (["run", "BUNDLE", "--source", "missing.mp4"], "no source missing.mp4"),
        (["run", "BUNDLE", "--source", "pyproject.toml"], "cannot open"),
        (["run", "BUNDLE", "--source", "VIDEO", "--backend", "tensorflow"], "backend 'tensorflow'"),
        (["run", "BUNDLE", "--source", "VIDEO", "--graph", "int4"], "no graph 'int4'"),
        (["run", "BUNDLE", "--source", "VIDEO", "--policy", "oldest"], "policy 'oldest'"),
        (["run", "BUNDLE", "--source", "VIDEO", "--rate", "0"], "0.0 frames a second"),
        (["run", "BUNDLE", "--source", "VIDEO", "--summary", "/dev/null/stream.json"], "cannot use /dev/null"),
        (["run", "BUNDLE", "--source", "VIDEO", "--predictions", "/dev/null/p.jsonl"], "cannot use /dev/null"),
        (["train", "occluded-digits", "--output", "/dev/null/checkpoint"], "cannot use /dev/null"),
        (["train", "occluded-digits", "--set", "model.preset=nanoo", "--output", "never"], "did you mean 'nano'"),
        (["train", "occluded-digit", "--output", "never"], "did you mean 'occluded-digits'"),
        (["train", "occluded-digits"], "no output folder"),
        (["train", "occluded-digits", "--resume", "never"], "--resume FOLDER alone"),
        (["train", "--resume", "missing"], "no file missing/training.toml"),
        (["evaluate", "missing"], "no file missing/config.json"),
    ],
)
def test_bad_input_gets_one_clear_error(
    arguments: list[str], said: str, exported: Path, video: Path, refusal: Refusal
) -> None:
    stand_ins = {"BUNDLE": str(exported), "VIDEO": str(video)}

    heard = refusal(*(stand_ins.get(argument, argument) for argument in arguments))

    assert said in heard
    assert "expected:" in heard
    assert "to fix:" in heard


def test_an_error_ends_the_process_with_its_message_and_exit_code_1() -> None:
    result = edge("verify", "missing.edge")

    assert result.returncode == 1
    assert "cannot read missing.edge" in result.stderr
    assert "Traceback" not in result.stderr


def test_export_refuses_too_few_clips_to_calibrate_on_and_leaves_nothing(
    tmp_path: Path, refusal: Refusal, caplog: pytest.LogCaptureFixture
) -> None:
    from edge_cnnlstm.training import run
    from edge_cnnlstm.training.recipe import load_recipe
    from export.__main__ import app

    caplog.set_level(logging.WARNING, "edge_cnnlstm.gpu")  # and back again: the command turns it down for good
    run.train(load_recipe("occluded-digits", [*QUICK[1::2], "model.layers=0"]), tmp_path / "flat", progress=False)

    heard = refusal(tmp_path / "flat", "-o", tmp_path / "out.edge", app=app)

    assert "one rollout: 10 × the longest clip" in heard
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flat"]
