"""Which engine is taken, and what is said of those that are not; TensorRT itself is played by ONNX Runtime here."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edge_cnnlstm
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle import golden
from edge_cnnlstm.bundle.format import Bundle
from edge_cnnlstm.bundle.golden import Golden
from edge_cnnlstm.bundle.manifest import Graph, Manifest, Plan
from edge_cnnlstm.errors import (
    BackendError,
    ConfigError,
    DependencyError,
    DeviceMemoryError,
    EdgeError,
    ExportError,
    PlanError,
)
from edge_cnnlstm.gpu import plans
from edge_cnnlstm.gpu.plans import StoredPlan
from edge_cnnlstm.runtime import selection
from edge_cnnlstm.runtime.backends import trt
from edge_cnnlstm.runtime.backends.base import Arrays
from edge_cnnlstm.runtime.backends.ort import OnnxRuntimeBackend
from edge_cnnlstm.runtime.selection import tensorrt_graphs
from edge_cnnlstm.runtime.wiring import Wiring

INT8, MIXED, FP16 = (
    Graph(name, f"graphs/{name}.onnx", "tensorrt", name, tolerance=1e-4) for name in ("int8", "mixed", "fp16")
)
FP32 = Graph("fp32", "graphs/fp32.onnx", "portable", "fp32", tolerance=1e-4)
FOR_CPU = Graph("cpu", "graphs/cpu.onnx", "onnxruntime", "int8", tolerance=1e-4)
SIZES = {"int8": 10, "mixed": 20, "fp16": 30, "fp32": 40, "cpu": 11}
WORDS = "the parser refused it"
REFUSED = ExportError(WORDS, expected="a graph", fix="export again")
TOO_LARGE = DeviceMemoryError("no 7 bytes", expected="memory", fix="close others")


class Straying(OnnxRuntimeBackend):
    """Computes something else than what was trained."""

    def infer(self) -> Arrays:
        return {name: array + np.float32(1) for name, array in super().infer().items()}


@dataclass
class Gpu:
    """A machine where TensorRT is; what becomes of a graph in it is an error, or a class of engines."""

    fate: dict[str, EdgeError | type[OnnxRuntimeBackend]] = field(default_factory=dict)
    tried: list[str] = field(default_factory=list)
    engines: list[Any] = field(default_factory=list)

    def open(self, bundle: Bundle, graph: Graph, streams: int, wiring: Wiring, *, progress: Any) -> OnnxRuntimeBackend:
        self.tried.append(graph.name)
        fate = self.fate.get(graph.name, OnnxRuntimeBackend)
        if isinstance(fate, EdgeError):
            raise fate
        engine = fate(bundle.graph(graph.name), bundle.manifest.model.batched(streams))
        engine.name = "tensorrt"
        self.engines.append(engine)
        return engine


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Gpu:
    found = Gpu()
    monkeypatch.setattr(trt, "missing_for_tensorrt", lambda: None)
    monkeypatch.setattr(trt, "open_tensorrt", found.open)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(selection.choice, "is_installed", lambda engine: engine == "onnxruntime")
    return found


Bundled = Callable[..., Path]


@pytest.fixture
def bundled(tmp_path: Path, tiny_manifest: Manifest, tiny_onnx: bytes, tiny_golden: Golden) -> Bundled:
    """Writes a bundle of these graphs, the tiny network all of them, in files as large as their precision."""

    def write(*graphs: Graph) -> Path:
        model = onnx.load_from_string(tiny_onnx)
        members = {}
        for graph in graphs:
            model.doc_string = "x" * SIZES[graph.name]
            members[graph.file] = model.SerializeToString()
        expected = {graph.name: tiny_golden.expected["tiny"] for graph in graphs}
        members["golden.npz"] = golden.dump(replace(tiny_golden, expected=expected))
        members["labels.txt"] = b"zero\none\ntwo\n"
        bundle_format.write(tmp_path / "several.edge", replace(tiny_manifest, graphs=graphs), members)
        return tmp_path / "several.edge"

    return write


@pytest.mark.parametrize("backend", ["auto", "tensorrt"])
def test_where_tensorrt_is_it_runs_the_most_quantized_graph(gpu: Gpu, bundled: Bundled, backend: str) -> None:
    with edge_cnnlstm.open(bundled(FP32, INT8, FP16, FOR_CPU), backend=backend) as stream:
        assert (stream.backend.name, stream.graph, stream.passed_over) == ("tensorrt", "int8", ())


@pytest.mark.parametrize("fate", [REFUSED, TOO_LARGE, Straying])
def test_a_graph_that_fails_gives_way_to_one_that_is_quantized_less_and_each_is_told(
    gpu: Gpu, bundled: Bundled, caplog: pytest.LogCaptureFixture, fate: Any
) -> None:
    gpu.fate = {"int8": fate, "mixed": fate, "fp16": fate}

    with edge_cnnlstm.open(bundled(INT8, FP16, FP32, MIXED)) as stream:
        assert (stream.backend.name, stream.graph) == ("tensorrt", "fp32")
        assert gpu.tried == ["int8", "mixed", "fp16", "fp32"]
        assert [line.split()[0] for line in stream.passed_over] == gpu.tried[:-1]
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [line.split("'")[1] for line in warned] == gpu.tried[:-1]
    assert all("expected" in line for line in warned)


def test_engines_that_strayed_are_closed(gpu: Gpu, bundled: Bundled) -> None:
    gpu.fate = {"int8": Straying}
    edge_cnnlstm.open(bundled(INT8, FP32)).close()
    assert [engine._session for engine in gpu.engines] == [None, None]


@pytest.mark.parametrize("backend", ["auto", "tensorrt"])
def test_the_processor_is_the_last_resort(gpu: Gpu, bundled: Bundled, backend: str) -> None:
    gpu.fate = dict.fromkeys(("int8", "fp16", "fp32"), REFUSED)
    with edge_cnnlstm.open(bundled(INT8, FP16, FP32), backend=backend) as stream:
        assert (stream.backend.name, stream.graph) == ("onnxruntime", "fp32")
        assert len(stream.passed_over) == 3
        assert all(WORDS in line for line in stream.passed_over)


@pytest.mark.parametrize("backend", ["auto", "tensorrt"])
def test_strict_refuses_instead(gpu: Gpu, bundled: Bundled, backend: str) -> None:
    gpu.fate = {"int8": REFUSED}
    with pytest.raises(ExportError, match=WORDS):
        edge_cnnlstm.open(bundled(INT8, FP32), backend=backend, strict=True)
    assert gpu.tried == ["int8"]


def test_a_graph_that_was_named_is_the_only_one_tried(gpu: Gpu, bundled: Bundled) -> None:
    gpu.fate = {"int8": Straying}
    with pytest.raises(BackendError, match="strays"):
        edge_cnnlstm.open(bundled(INT8, FP16, FP32), backend="tensorrt", graph="int8")
    assert gpu.tried == ["int8"]


def test_a_graph_that_was_named_falls_back_to_the_processor_under_auto(gpu: Gpu, bundled: Bundled) -> None:
    gpu.fate = {"fp32": REFUSED}
    with edge_cnnlstm.open(bundled(INT8, FP32), graph="fp32") as stream:
        assert (stream.backend.name, stream.graph, gpu.tried) == ("onnxruntime", "fp32", ["fp32"])


def test_a_graph_for_processors_is_not_tried_in_tensorrt_unless_both_are_asked_for(gpu: Gpu, bundled: Bundled) -> None:
    path = bundled(INT8, FOR_CPU, FP32)
    gpu.fate = {"cpu": REFUSED}
    with edge_cnnlstm.open(path, graph="cpu") as stream:
        assert (stream.backend.name, gpu.tried) == ("onnxruntime", [])
    with pytest.raises(ExportError):
        edge_cnnlstm.open(path, backend="tensorrt", graph="cpu")


def test_a_bundle_without_a_graph_for_tensorrt_says_so_when_asked_for_one(gpu: Gpu, bundled: Bundled) -> None:
    path = bundled(FOR_CPU)
    with edge_cnnlstm.open(path) as stream:
        assert stream.backend.name == "onnxruntime"
    with pytest.raises(ConfigError, match="in a dialect that tensorrt runs"):
        edge_cnnlstm.open(path, backend="tensorrt")


def test_the_choice_of_the_export_comes_first_and_nothing_more_quantized_after_it(tiny_manifest: Manifest) -> None:
    def manifest(chosen: str | None, *graphs: Graph) -> Manifest:
        members = {graph.file: replace(bundle_format.Member.of(b""), size=SIZES[graph.name]) for graph in graphs}
        plan = None if chosen is None else Plan(0.01, (), {"tensorrt": chosen}, {}, "here", "a board")
        return replace(tiny_manifest, graphs=graphs, members=members, plan=plan)

    def names(*arguments: Any) -> list[str]:
        return [graph.name for graph in tensorrt_graphs(manifest(*arguments))]

    assert names("mixed", FP32, INT8, MIXED, FP16, FOR_CPU) == ["mixed", "fp16", "fp32"]
    assert names("int8", FP32, INT8, MIXED, FP16) == ["int8", "mixed", "fp16", "fp32"]
    assert names(None, FP32, FP16, INT8) == ["fp16", "fp32"]
    assert names("fp32", FP32) == ["fp32"]
    assert names(None, FOR_CPU) == []


def test_without_a_gpu_auto_takes_the_processor_and_says_why(
    bundled: Bundled, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    missing = DependencyError("cannot import PyCUDA", expected="PyCUDA", fix="install it")
    monkeypatch.setattr(trt, "missing_for_tensorrt", lambda: missing)
    with edge_cnnlstm.open(bundled(INT8, FP32)) as stream:
        assert stream.backend.name in ("onnxruntime", "openvino")
        assert stream.passed_over == ("TensorRT: cannot import PyCUDA",)
    with pytest.raises(DependencyError, match="install it"):
        edge_cnnlstm.open(bundled(INT8, FP32), strict=True)


def test_a_cache_that_others_can_write_costs_tensorrt_and_not_the_stream(gpu: Gpu, bundled: Bundled) -> None:
    refused = ConfigError("others can write the cache", expected="nobody else", fix="chmod go-w it")
    gpu.fate = {"int8": refused, "fp32": refused}
    with edge_cnnlstm.open(bundled(INT8, FP32)) as stream:
        assert stream.backend.name == "onnxruntime"
        assert "others can write the cache" in stream.passed_over[0]
    with pytest.raises(ConfigError, match="chmod"):
        edge_cnnlstm.open(bundled(INT8, FP32), strict=True)


def test_a_transfer_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigError, match=r"transfer 'beamed'\n  expected: one of auto, mapped, copied"):
        Wiring("beamed")  # type: ignore[arg-type]  # what a command line may hand over


def test_without_a_gpu_tensorrt_says_what_is_missing_and_how_to_get_it(bundled: Bundled) -> None:
    if trt.missing_for_tensorrt() is None:
        pytest.skip("a GPU and TensorRT are here")
    with pytest.raises(DependencyError, match=r"(?s)cannot import|CUDA finds no GPU.*to fix: .*pip install|nvidia-smi"):
        edge_cnnlstm.open(bundled(INT8, FP32), backend="tensorrt")


@pytest.mark.parametrize("built_just_now", [False, True])
def test_a_kept_plan_that_no_longer_loads_is_built_anew_once(
    bundled: Bundled, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, built_just_now: bool
) -> None:
    bundle, asked = bundle_format.read(bundled(INT8)), list[bool]()

    def plan_on_device(*_: object, again: bool = False) -> StoredPlan:
        asked.append(again)
        plan = plans.Plan(b"new" if again else b"old", 1.0, "tensorrt 10.3.0", 3, {}, None)
        return StoredPlan(plan, None, "it is to be built again" if again or built_just_now else None)

    def backend(load: Any, *_: object, check: object) -> bytes:
        data: bytes = load.args[0]
        if data == b"old":
            raise PlanError("another version", expected="this one", fix="build again")
        return data

    monkeypatch.setattr(trt, "plan_on_device", plan_on_device)
    monkeypatch.setattr(trt, "TensorRtBackend", backend)
    monkeypatch.setattr(trt.tensorrt, "load", lambda: None)

    if built_just_now:
        with pytest.raises(PlanError):
            trt.open_tensorrt(bundle, INT8, 1)
        assert asked == [False]
    else:
        assert trt.open_tensorrt(bundle, INT8, 1) == b"new"
        assert asked == [False, True]
        assert "graph 'int8': the plan that was kept serves no more: another version" in caplog.text


def test_a_group_is_opened_for_all_its_streams_at_once(gpu: Gpu, bundled: Bundled) -> None:
    with edge_cnnlstm.open_group(bundled(INT8, FP32), slots=3) as group:
        assert (group.backend.name, group.spec.batch) == ("tensorrt", 3)
    gpu.fate = {"int8": REFUSED}
    with pytest.raises(ExportError):
        edge_cnnlstm.open_group(bundled(INT8, FP32), slots=3, strict=True)
