from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import edge_cnnlstm
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle.manifest import Candidate as Compared
from edge_cnnlstm.bundle.manifest import Graph, Manifest, Member, Plan
from edge_cnnlstm.runtime import choice, trial
from edge_cnnlstm.runtime.choice import fastest
from edge_cnnlstm.runtime.selection import sound_graphs

FLOAT = Graph("fp32", "graphs/fp32.onnx", "portable", "fp32", 1e-5)
INTEGER = Graph("int8", "graphs/int8.onnx", "onnxruntime", "int8", 1e-2)
TENSORRT = Graph("trt", "graphs/trt.onnx", "tensorrt", "int8", 1e-2)
Trial = Callable[[list[str]], Any]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(choice, "is_installed", lambda _: True)
    return tmp_path / "cache" / "edge-cnnlstm" / "fastest.json"


@pytest.fixture
def manifest(tiny_manifest: Manifest) -> Manifest:
    graphs = (FLOAT, INTEGER, TENSORRT)
    return replace(
        tiny_manifest, graphs=graphs, members={graph.file: Member.of(graph.name.encode()) for graph in graphs}
    )


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What was tried, (backend, graph); OpenVINO on integers is the fastest."""
    speeds = {
        ("onnxruntime", "fp32"): 30,
        ("openvino", "fp32"): 40,
        ("onnxruntime", "int8"): 20,
        ("openvino", "int8"): 9,
    }
    return trials(
        monkeypatch, lambda words: SimpleNamespace(stdout=f"engine says hello\n{speeds[words[5], words[4]]}\n")
    )


def trials(monkeypatch: pytest.MonkeyPatch, run: Trial) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []

    def recorded(words: list[str], **_: object) -> Any:
        found.append((words[5], words[4]))
        return run(words)

    monkeypatch.setattr(choice.subprocess, "run", recorded)
    return found


def chosen(manifest: Manifest, *graphs: Graph, threads: int = 1, streams: int = 1) -> tuple[str, str]:
    found = fastest(Path("m.edge"), manifest, graphs or (FLOAT, INTEGER), threads=threads, streams=streams)
    return found.backend, found.graph.name


def test_the_fastest_engine_and_graph_win_and_are_remembered(manifest: Manifest, tried: list[tuple[str, str]]) -> None:
    assert chosen(manifest) == ("openvino", "int8")
    assert len(tried) == 4 * choice.TURNS
    assert chosen(manifest) == ("openvino", "int8")
    assert len(tried) == 4 * choice.TURNS


@pytest.mark.parametrize("change", ["threads", "streams", "digest", "graphs", "cpu", "version"])
def test_anything_that_may_change_the_answer_measures_anew(
    manifest: Manifest, tried: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    chosen(manifest)
    before, options, graphs = len(tried), dict[str, int](), (FLOAT, INTEGER)
    if change in ("threads", "streams"):
        options[change] = 2
    elif change == "digest":
        manifest = replace(manifest, members=manifest.members | {INTEGER.file: Member.of(b"another")})
    elif change == "graphs":
        graphs = (INTEGER,)  # type: ignore[assignment]
    elif change == "cpu":
        monkeypatch.setattr(choice, "cpu_model", lambda: "another")
    else:
        monkeypatch.setattr(choice, "versions", lambda *_: {"onnxruntime": "99"})
    chosen(manifest, *graphs, **options)
    assert len(tried) > before


def test_noise_only_adds_so_each_engines_best_turn_counts(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([50, 10, 8, 60])  # in turn: onnxruntime, openvino, onnxruntime, openvino
    trials(monkeypatch, lambda _: SimpleNamespace(stdout=f"{next(answers)}\n"))
    assert chosen(manifest, FLOAT) == ("onnxruntime", "fp32")


@pytest.mark.parametrize(
    "fault",
    [
        subprocess.CalledProcessError(-signal.SIGSEGV, "trial", stderr=""),
        subprocess.CalledProcessError(1, "trial", stderr="BackendError: refused"),
        subprocess.TimeoutExpired("trial", 120),
        OSError("no such program"),
        SimpleNamespace(stdout=""),
        SimpleNamespace(stdout="nonsense\n"),
        *(SimpleNamespace(stdout=f"{speed}\n") for speed in ("0", "-3", "inf", "nan")),
    ],
    ids=["crash", "refusal", "hang", "no python", "silence", "nonsense", "no time", "less", "for ever", "no number"],
)
def test_an_engine_that_fails_its_trial_is_left_out_with_one_line(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: object
) -> None:
    def run(words: list[str]) -> Any:
        if words[5] == "onnxruntime":
            return SimpleNamespace(stdout="77\n")
        if isinstance(fault, Exception):
            raise fault
        return fault

    trials(monkeypatch, run)
    with caplog.at_level(logging.WARNING):
        assert chosen(manifest, FLOAT) == ("onnxruntime", "fp32")
    assert [record.getMessage().split()[0] for record in caplog.records] == ["openvino"]


def test_where_nothing_runs_the_first_is_returned_and_nothing_remembered(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    trials(monkeypatch, lambda _: SimpleNamespace(stdout=""))
    assert chosen(manifest) == ("onnxruntime", "fp32")
    assert not cache.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"x": 1}', "null", "\x00"])
def test_a_damaged_memory_is_measured_over(
    manifest: Manifest, tried: list[tuple[str, str]], cache: Path, content: str
) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text(content)
    assert chosen(manifest) == ("openvino", "int8")
    assert tried
    assert len(json.loads(cache.read_text())) >= 1


@pytest.mark.parametrize("speeds", [{}, [], None, {"openvino fp32": "fast"}, {"openvino fp32": 0.0}, {"else": 1.0}, 3])
def test_a_memory_that_makes_no_sense_is_measured_over(
    manifest: Manifest, tried: list[tuple[str, str]], cache: Path, speeds: object
) -> None:
    chosen(manifest)
    (key,) = json.loads(cache.read_text())
    cache.write_text(json.dumps({key: speeds}))
    tried.clear()
    assert chosen(manifest) == ("openvino", "int8")
    assert tried


def test_a_cache_that_cannot_be_written_costs_the_measurement_and_no_more(
    manifest: Manifest, tried: list[tuple[str, str]], tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert chosen(manifest) == ("openvino", "int8")
    assert chosen(manifest) == ("openvino", "int8")
    assert len(tried) == 8 * choice.TURNS


def test_nothing_is_measured_where_there_is_no_choice(
    manifest: Manifest, tried: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chosen(manifest, TENSORRT) == ("onnxruntime", "trt")
    monkeypatch.setattr(choice, "is_installed", lambda name: name == "openvino")
    assert chosen(manifest, FLOAT) == ("openvino", "fp32")
    monkeypatch.setattr(choice, "is_installed", lambda _: False)
    assert chosen(manifest, FLOAT) == ("onnxruntime", "fp32")
    assert not tried


def test_only_graphs_that_keep_the_accuracy_are_candidates(manifest: Manifest) -> None:
    def compared(name: str, lost: float) -> Compared:
        return Compared(name, "any", {}, lost, 1, None, None)

    lossy = replace(INTEGER, name="lossy")
    plan = Plan(0.005, (compared("int8", 0.004), compared("lossy", 0.006), compared("trt", 0)), {}, {}, "", "")
    graphs = (FLOAT, lossy, TENSORRT, INTEGER)
    assert sound_graphs(replace(manifest, graphs=graphs, plan=plan)) == [FLOAT, INTEGER]
    assert sound_graphs(replace(manifest, graphs=graphs, plan=None)) == [FLOAT]


def test_a_trial_says_how_long_a_step_takes(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial.main(str(tiny_bundle), "tiny", "onnxruntime", "1", "2")
    assert 0 < float(capsys.readouterr().out) < 1e6


def test_opening_for_the_first_time_measures_in_processes_of_its_own(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    pytest.importorskip("openvino")
    with edge_cnnlstm.open(tiny_bundle) as stream:
        (speeds,) = json.loads(cache.read_text()).values()
        assert set(speeds) == {"onnxruntime tiny", "openvino tiny"}
        assert min(speeds, key=speeds.__getitem__) == f"{stream.backend.name} tiny"
    assert stream.digest == bundle_format.read(tiny_bundle).manifest.members["graphs/tiny.onnx"].sha256


def test_no_folder_on_the_way_is_left_open_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / "cache"))
    before = os.umask(0o002)
    try:
        choice._remember("key", {"onnxruntime tiny": 1.0})
    finally:
        os.umask(before)
    made = tmp_path / "home", tmp_path / "home" / "cache", tmp_path / "home" / "cache" / "edge-cnnlstm"
    assert [oct(folder.stat().st_mode & 0o777) for folder in made] == ["0o700"] * 3
