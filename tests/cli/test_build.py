from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle.manifest import Graph, Manifest
from edge_cnnlstm.cli.__main__ import app
from edge_cnnlstm.errors import BackendError, ConfigError, DependencyError, EdgeError
from edge_cnnlstm.gpu import audit, context, tensorrt
from edge_cnnlstm.gpu.context import Device

ROOT = Path(__file__).parents[2]
EXAMINE = audit.examine
ORIN = Device("Orin", "8.7", "12.6", 8 << 30, integrated=True, maps_host_memory=True, multiprocessors=8)

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is built for Linux only")


@pytest.fixture
def three(tmp_path: Path, tiny_manifest: Manifest, tiny_members: dict[str, bytes]) -> Path:
    """A bundle with a graph that TensorRT refuses, one that it takes, and one that is not for it."""
    path = tmp_path / "three.edge"
    graphs = (
        Graph("broken", "graphs/broken.onnx", "tensorrt", "int8", tolerance=0.1),
        *tiny_manifest.graphs,
        Graph("foreign", "graphs/foreign.onnx", "onnxruntime", "int8", tolerance=0.1),
    )
    members = {**tiny_members, "graphs/broken.onnx": b"broken", "graphs/foreign.onnx": b"foreign"}
    bundle_format.write(path, replace(tiny_manifest, graphs=graphs), members)
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    return tmp_path / "cache" / "plans"


@pytest.fixture
def orin(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Path:
    """A GPU by name only, for which TensorRT-RTX builds: nothing runs on it. The folder is where its plans are kept."""
    monkeypatch.setattr(context, "describe", lambda: ORIN)
    load = tensorrt.load
    monkeypatch.setattr(tensorrt, "load", lambda _=False: load(True))
    monkeypatch.setattr(audit, "examine", lambda *_: ([], []))
    return cache


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    context.gpu.cache_clear()
    yield
    context.gpu.cache_clear()


def edge(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, words)], env={"COLUMNS": "200"})


def error_of(result: Result) -> EdgeError:
    assert isinstance(result.exception, EdgeError), (result.exception, result.output)
    return result.exception


def test_built_ahead_of_time_it_says_what_that_proves_and_keeps_nothing(
    tiny_bundle: Path, cache: Path, no_gpu: None
) -> None:
    built = edge("build", tiny_bundle, "--ahead-of-time")

    assert built.exit_code == 0, built.output
    first, rest = built.stdout.split("\n", 1)
    assert re.fullmatch(r"tensorrt_rtx [\d.]+ built tiny: [\d,]{6,} bytes in \d+\.\d\d s", first)
    assert "parser and builder take what is listed" in rest
    assert "not plans for a device" in rest
    assert built.stderr == ""
    assert not cache.parent.exists()


def test_the_command_itself_speaks_on_stdout_and_ends_with_its_exit_status(three: Path, tmp_path: Path) -> None:
    plan = tmp_path / "new" / "tiny.plan"
    words = ["build", three, "--ahead-of-time"]
    sound, refused = (
        subprocess.run(
            [sys.executable, "-m", "edge_cnnlstm.cli", *map(str, words + more)],
            capture_output=True, text=True, cwd=ROOT, env=os.environ | {"COLUMNS": "200"}, check=False, timeout=120,
        )
        for more in (["--graph", "tiny", "-o", plan], ["--graph", "broken"])
    )  # fmt: skip

    assert sound.returncode == 0, sound.stderr
    assert f"s, in {plan}\n" in sound.stdout
    assert f"tiny: {plan.stat().st_size:,} bytes" in sound.stdout
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert "error: graph 'broken'" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_graph_that_fails_is_named_and_the_others_are_still_built(three: Path) -> None:
    built = edge("build", three, "--ahead-of-time")

    assert built.exit_code == 1
    assert "graph 'broken': the parser of tensorrt_rtx" in built.stderr
    assert " built tiny: " in built.stdout
    assert "foreign" not in built.output
    assert isinstance(built.exception, SystemExit)


def test_more_streams_make_another_plan(tiny_bundle: Path, tmp_path: Path) -> None:
    one, eight = tmp_path / "one.plan", tmp_path / "eight.plan"
    assert edge("build", tiny_bundle, "--ahead-of-time", "-o", one).exit_code == 0
    assert edge("build", tiny_bundle, "--ahead-of-time", "-o", eight, "--streams", "8").exit_code == 0

    assert one.read_bytes() != eight.read_bytes()


def test_on_the_device_the_first_build_is_kept_and_the_next_takes_it(tiny_bundle: Path, orin: Path) -> None:
    first, second = edge("build", tiny_bundle), edge("build", tiny_bundle)

    (file,) = orin.glob("*.plan")
    assert first.exit_code == second.exit_code == 0, first.output + second.output
    assert first.stdout.endswith(f"s, never built here, in {file}\n")
    assert second.stdout.endswith(f"s, from the cache, in {file}\n")
    before = file.stat().st_ino
    again = edge("build", tiny_bundle, "--again")
    assert again.stdout.endswith(f"s, it is to be built again, in {file}\n")
    assert file.stat().st_ino != before
    assert first.stdout.partition(" s, ")[0] == second.stdout.partition(" s, ")[0]

    other = edge("build", tiny_bundle, "--optimization-level", "0")

    assert "built before with workspace" in other.stdout
    assert len(list(orin.glob("*.plan"))) == 2


def test_with_an_output_the_cache_is_left_alone(tiny_bundle: Path, orin: Path, tmp_path: Path) -> None:
    assert edge("build", tiny_bundle, "-o", tmp_path / "tiny.plan").exit_code == 0

    assert (tmp_path / "tiny.plan").stat().st_size > 1000
    assert not orin.exists()


def test_a_plan_that_could_not_be_kept_is_not_what_was_asked_for(tiny_bundle: Path, orin: Path) -> None:
    orin.mkdir(0o700, parents=True)
    (orin / ".lock").mkdir()

    built = edge("build", tiny_bundle)

    assert built.exit_code == 1
    assert built.stdout.endswith("s, never built here, kept nowhere\n")


def test_a_cache_that_others_can_write_is_refused(tiny_bundle: Path, orin: Path) -> None:
    orin.mkdir(parents=True)
    orin.chmod(0o777)

    built = edge("build", tiny_bundle)

    assert built.exit_code == 1
    assert f"chmod go-w {orin}" in built.stderr
    assert not list(orin.iterdir())


@pytest.mark.parametrize("command", [["build"], ["inspect", "--engine"], ["build", "-o", "never.plan"]])
def test_without_a_gpu_it_says_what_is_missing(tiny_bundle: Path, no_gpu: None, command: list[str]) -> None:
    refused = error_of(edge(*command, tiny_bundle))

    assert isinstance(refused, DependencyError)
    assert "PyCUDA" in refused.found
    assert "pip install" in refused.fix
    assert not Path("never.plan").exists()


def test_without_tensorrt_it_says_how_to_get_it(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "describe", lambda: ORIN)
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)

    for more in ([], ["--ahead-of-time"]):
        refused = error_of(edge("build", tiny_bundle, *more))
        assert isinstance(refused, DependencyError)
        assert "pip install" in refused.fix


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["build", "THREE", "--ahead-of-time", "-o", "never.plan"], "one output for 2 graphs: broken, tiny"),
        (["build", "THREE", "--ahead-of-time", "--graph", "int4"], "no graph 'int4'"),
        (["build", "TINY", "--ahead-of-time", "-o", "/dev/null"], "/dev/null is no plain file"),
        (["build", "TINY", "--ahead-of-time", "-o", "FOLDER"], "is no plain file"),
        (["build", "TINY", "--ahead-of-time", "--streams", "0"], "batch 0"),
        (["build", "TINY", "--ahead-of-time", "--optimization-level", "6"], "optimization level 6"),
        (["inspect", "TINY", "--graph", "tiny"], "--graph without --engine"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_built(
    words: list[str], said: str, three: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stand_ins = {"THREE": three, "TINY": tiny_bundle, "FOLDER": tmp_path}

    assert said in error_of(edge(*(stand_ins.get(word, word) for word in words))).found

    assert [path.name for path in tmp_path.iterdir()] == ["three.edge"]


def test_a_bundle_without_a_graph_for_tensorrt_is_named(
    tmp_path: Path, tiny_manifest: Manifest, tiny_members: dict[str, bytes]
) -> None:
    graphs = tuple(replace(graph, dialect="onnxruntime") for graph in tiny_manifest.graphs)
    bundle_format.write(tmp_path / "cpu.edge", replace(tiny_manifest, graphs=graphs), tiny_members)

    refused = error_of(edge("build", tmp_path / "cpu.edge", "--ahead-of-time"))

    assert isinstance(refused, ConfigError)
    assert "dialect that tensorrt runs" in refused.expected


@pytest.mark.parametrize("why", ["refused", "no room"])
def test_the_plan_that_was_there_stays_when_a_new_one_fails(
    three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    plan = tmp_path / "old.plan"
    plan.write_bytes(b"old")

    def full(*_: Any) -> int:
        raise OSError(28, os.strerror(28))

    if why == "no room":
        monkeypatch.setattr(os, "fsync", full)
    graph = "broken" if why == "refused" else "tiny"
    built = edge("build", three, "--ahead-of-time", "--graph", graph, "-o", plan)

    assert built.exit_code == 1
    assert (f"cannot use {plan}: No space" in built.stderr) == (why == "no room")
    assert plan.read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {"three.edge", "old.plan"}


DOCUMENT = """{"Layers": [
 {"Name": "gates", "LayerType": "gemm", "TacticName": "sm80_xmma_gemm_f16f16_f16f16_f16",
  "Inputs": [{"Name": "seen", "Dimensions": [1, 28], "Format/Datatype": "Row major Half"}],
  "Outputs": [{"Name": "sums", "Dimensions": [1, 12], "Format/Datatype": "Row major Half"}],
  "Weights": {"Type": "Half", "Count": 336}},
 {"Name": "[reformat]", "LayerType": "Reformat"}
]}"""


def test_inspect_shows_the_engines_layers_and_those_that_run_in_another_precision(
    tiny_bundle: Path, orin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # There is no engine without a GPU: the layers are read from a document like those that TensorRT prints.
    class Session:
        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

        def close(self) -> None: ...

    monkeypatch.setattr(audit, "examine", EXAMINE)
    monkeypatch.setattr(audit, "Session", Session)
    monkeypatch.setattr(audit, "deserialize", lambda *_: None)
    monkeypatch.setattr(audit, "layers", lambda _: audit.parse(DOCUMENT))

    shown = edge("inspect", tiny_bundle, "--engine")

    assert shown.exit_code == 0, shown.output
    rows = [re.findall(r"[^│\s](?:[^│]*[^│\s])?", line) for line in shown.stdout.splitlines() if line.startswith("│")]
    assert rows == [
        ["gates", "gemm", "fp16", "sm80_xmma_gemm_f16f16_f16f16_f16", "752", "672"],
        ["[reformat]", "Reformat", "unknown", "–", "–", "–"],
    ]
    assert "planned fp32, not found in the engine" in shown.stdout
    assert re.search(r"runs tiny in 2 layers; (\d+) of \1 that multiply not as planned", shown.stdout)
    assert len(list(orin.glob("*.plan"))) == 1
    # And so does the build itself, without failing for it.
    built = edge("build", tiny_bundle, "--again")
    assert built.exit_code == 0
    assert "planned fp32, not found in the engine" in built.stderr


def test_an_engine_that_cannot_be_looked_at_was_built_all_the_same(
    tiny_bundle: Path, orin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def examine(*_: object) -> None:
        raise BackendError("its inspector printed nonsense", expected="JSON", fix="report this")

    monkeypatch.setattr(audit, "examine", examine)
    built = edge("build", tiny_bundle)

    assert built.exit_code == 0, built.output
    assert "what it runs in was not looked at: its inspector printed nonsense" in built.stderr
