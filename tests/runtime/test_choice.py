"""`auto` takes the faster engine, measured once; whatever goes wrong with measuring, a stream opens all the same."""

from __future__ import annotations

import gc
import json
import logging
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import edge_cnnlstm
from edge_cnnlstm.bundle.manifest import Graph, Manifest
from edge_cnnlstm.runtime import choice, trial
from edge_cnnlstm.runtime.optional import is_installed
from tests.conftest import tiny_frames

DIGEST = "d" * 64
ENGINES = ("onnxruntime", "openvino")


class Trials:
    """Stands in for the Python that runs trials: a shell script that answers for each engine, and notes who asked."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._program, self._log = folder / "python", folder / "trials"
        patch.setattr(sys, "executable", str(self._program))
        self.answer(onnxruntime="echo 100.0", openvino="echo 50.0")

    def answer(self, **commands: str) -> None:
        cases = "\n".join(f"{engine}) {command} ;;" for engine, command in commands.items())
        self._program.write_text(f'#!/bin/sh\necho "$5" >> {self._log}\ncase $5 in\n{cases}\nesac\n')
        self._program.chmod(stat.S_IRWXU)

    @property
    def made(self) -> list[str]:
        return self._log.read_text().split() if self._log.exists() else []


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edge-cnnlstm" / "fastest.json"


@pytest.fixture
def trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Trials:
    """Both engines are installed, and OpenVINO is the faster."""
    monkeypatch.setattr(choice, "is_installed", lambda _: True)
    return Trials(tmp_path, monkeypatch)


@pytest.fixture
def graph(tiny_manifest: Manifest) -> Graph:
    return tiny_manifest.graphs[0]


@pytest.fixture
def fastest(graph: Graph) -> Callable[..., str]:
    def of(digest: str = DIGEST, *, threads: int = 1, streams: int = 1, graph: Graph = graph) -> str:
        return choice.fastest(Path("tiny.edge"), graph, digest, threads=threads, streams=streams)

    return of


@pytest.mark.parametrize("faster", ENGINES)
def test_the_faster_one_is_taken_and_remembered(trials: Trials, fastest: Callable[..., str], faster: str) -> None:
    trials.answer(**{engine: f"echo {20.5 if engine == faster else 30.5}" for engine in ENGINES})
    assert fastest() == faster
    assert trials.made == [*ENGINES, *ENGINES]
    trials.answer(**dict.fromkeys(ENGINES, "exit 1"))
    assert fastest() == faster
    assert len(trials.made) == 4


@pytest.mark.parametrize(("first", "second"), [(40.0, 900.0), (900.0, 40.0)])
def test_each_engine_is_judged_by_the_better_of_its_turns(
    trials: Trials, fastest: Callable[..., str], tmp_path: Path, first: float, second: float
) -> None:
    noisy = f"if [ -e {tmp_path}/again ]; then echo {second}; else touch {tmp_path}/again; echo {first}; fi"
    trials.answer(onnxruntime=noisy, openvino="echo 50.0")
    assert fastest() == "onnxruntime"


@pytest.mark.parametrize("change", ["digest", "threads", "streams", "cpu", "version"])
def test_it_is_measured_anew_for_another(
    trials: Trials, fastest: Callable[..., str], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    fastest()
    measured = len(trials.made)
    if change == "cpu":
        monkeypatch.setattr(choice, "cpu_model", lambda: "another processor")
    if change == "version":
        versions = choice.versions
        monkeypatch.setattr(choice, "versions", lambda *names: versions(*names) | {"openvino": "1.0"})
    options = {"threads": {"threads": 2}, "streams": {"streams": 2}, "digest": {"digest": "e" * 64}}.get(change, {})
    fastest(**options)
    assert len(trials.made) == 2 * measured
    fastest(**options)
    assert len(trials.made) == 2 * measured
    monkeypatch.undo()


def test_what_was_measured_of_one_graph_survives_the_measuring_of_another(
    trials: Trials, fastest: Callable[..., str], cache: Path
) -> None:
    fastest("a" * 64)
    fastest("b" * 64)
    assert [key[:1] for key in json.loads(cache.read_text())] == ["a", "b"]
    assert [path.name for path in cache.parent.iterdir()] == ["fastest.json"]


@pytest.mark.parametrize("missing", ENGINES)
def test_where_only_one_engine_is_installed_nothing_is_measured(
    trials: Trials, fastest: Callable[..., str], monkeypatch: pytest.MonkeyPatch, cache: Path, missing: str
) -> None:
    monkeypatch.setattr(choice, "is_installed", lambda name: name != missing)
    assert fastest() == next(name for name in ENGINES if name != missing)
    assert not trials.made
    assert not cache.exists()


def test_tensorrts_dialect_is_not_measured(trials: Trials, fastest: Callable[..., str], graph: Graph) -> None:
    assert fastest(graph=replace(graph, dialect="tensorrt")) == "onnxruntime"
    assert not trials.made


FAILURES = {
    "a crash": ("kill -SEGV $$", "exit status -11"),
    "an abort": ("echo oh no >&2; kill -ABRT $$", "exit status -6) oh no"),
    "an error": ("echo Traceback >&2; echo no such operator >&2; exit 1", "exit status 1) no such operator"),
    "a hang": ("exec sleep 60", "timed out"),
    "nothing said": ("true", "could not be tried"),
    "garbage": ("echo fast as lightning", "could not be tried"),
    "bytes that are no text": (r"printf '\377\376'", "could not be tried"),
    "no number": ("echo nan", "could not be tried"),
    "no time at all": ("echo 0.0", "could not be tried"),
    "a negative time": ("echo -3.5", "could not be tried"),
    "for ever": ("echo inf", "could not be tried"),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("failing", ENGINES)
def test_an_engine_that_cannot_be_measured_is_left_out_with_one_line(
    trials: Trials,
    fastest: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failure: str,
    failing: str,
) -> None:
    command, said = FAILURES[failure]
    if failure == "a hang":
        monkeypatch.setattr(choice, "PATIENCE_S", 0.3)
    other = next(name for name in ENGINES if name != failing)
    trials.answer(**{failing: command, other: "echo 100.0"})
    with caplog.at_level(logging.WARNING):
        assert fastest() == other
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert failing in caplog.text
    assert said in caplog.text
    assert trials.made.count(failing) == 1


def test_an_engine_that_fails_its_second_turn_is_left_out(
    trials: Trials, fastest: Callable[..., str], tmp_path: Path
) -> None:
    once = f"if [ -e {tmp_path}/again ]; then exit 1; else touch {tmp_path}/again; echo 1.0; fi"
    trials.answer(onnxruntime="echo 100.0", openvino=once)
    assert fastest() == "onnxruntime"


def test_where_no_engine_can_be_measured_it_is_the_one_that_is_always_there(
    trials: Trials, fastest: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    trials.answer(onnxruntime="exit 1", openvino="exit 1")
    assert fastest() == "onnxruntime"
    assert len(caplog.records) == 2
    trials.answer(onnxruntime="echo 2.0", openvino="echo 1.0")
    assert fastest() == "openvino"


def test_where_there_is_no_python_to_try_with_nothing_is_raised(
    trials: Trials, fastest: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere"))
    assert fastest() == "onnxruntime"


SPOILT = [
    b"",
    b"{",
    b"\xff\xfe",
    b"null",
    b"[]",
    b"7",
    b"[" * 100_000,
    b'{"KEY": null}',
    b'{"KEY": {}}',
    b'{"KEY": []}',
    b'{"KEY": "openvino"}',
    b'{"KEY": {"abacus": 1.0}}',
    b'{"KEY": {"onnxruntime": "fast", "openvino": 1.0}}',
    b'{"KEY": {"onnxruntime": null}}',
    b'{"KEY": {"onnxruntime": NaN, "openvino": 1.0}}',
    b'{"KEY": {"onnxruntime": -1.0, "openvino": 1.0}}',
]


@pytest.mark.parametrize("content", SPOILT, ids=lambda content: content[:50].decode(errors="replace"))
def test_a_cache_that_cannot_be_used_is_measured_and_written_anew(
    trials: Trials, fastest: Callable[..., str], cache: Path, content: bytes
) -> None:
    assert fastest() == "openvino"
    (key,) = json.loads(cache.read_text())
    cache.write_bytes(content.replace(b"KEY", key.encode()))
    assert fastest() == "openvino"
    assert len(trials.made) == 8
    assert json.loads(cache.read_text())[key] == {"onnxruntime": 100.0, "openvino": 50.0}
    fastest()
    assert len(trials.made) == 8


@pytest.mark.parametrize("kind", ["a file for a folder", "a folder for the file", "no home"])
def test_a_cache_that_cannot_be_written_is_done_without(
    trials: Trials,
    fastest: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    cache: Path,
    kind: str,
) -> None:
    # Not by permissions: root may do anything.
    if kind == "a file for a folder":
        cache.parent.parent.write_text("")
    elif kind == "a folder for the file":
        cache.mkdir(parents=True)
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")

        def homeless() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", homeless)
    with caplog.at_level(logging.INFO, logger="edge_cnnlstm"):
        assert fastest() == "openvino"
        assert fastest() == "openvino"
    assert len(trials.made) == 8
    assert caplog.text.count("could not remember") == 2
    assert not list(cache.parent.glob(".*"))


def test_the_users_cache_folder_is_used_unless_another_is_named(
    trials: Trials, fastest: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    fastest()
    assert (tmp_path / "home" / ".cache" / "edge-cnnlstm" / "fastest.json").is_file()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_trial_prints_the_microseconds_of_a_step(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    pytest.importorskip(engine)
    monkeypatch.setattr(trial, "STEPS", 20)
    try:
        trial.main(str(tiny_bundle), "tiny", engine, "1", "1")
    finally:
        gc.enable()
    assert float(capsys.readouterr().out) > 0


@pytest.mark.slow
def test_a_bundle_opens_with_what_was_measured_on_this_machine(
    tiny_bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    with edge_cnnlstm.open(tiny_bundle) as stream:
        (speeds,) = json.loads(cache.read_text()).values()
        assert speeds.keys() == set(ENGINES)
        assert stream.backend.name == min(speeds, key=speeds.__getitem__)
        assert stream.step(tiny_frames(1, seed=1)[0]).reset_reason == "start"

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(choice, "_measure", never)
    with edge_cnnlstm.open(tiny_bundle) as again:
        assert again.backend.name == stream.backend.name


def test_what_is_installed_is_known_without_importing_it() -> None:
    assert is_installed("numpy")
    assert not is_installed("no_such_engine")
