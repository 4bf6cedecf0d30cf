"""Engines as they are commonly used: the session that their documentation shows first, and memory carried by hand."""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.bundle import reference_of
from benchmarks.peers.peer import Material, Peer
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle.format import Bundle
from edge_cnnlstm.bundle.golden import Arrays
from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.spec import ModelSpec

Call = Callable[[dict[str, Any]], dict[str, Any]]
"""A graph's inputs by name in, its outputs by name out."""


class ByHand:
    """An engine's call on arrays by name, with what it returned for the memory given back to it by the next call."""

    def __init__(self, call: Call, spec: ModelSpec) -> None:
        self._call, self._spec = call, spec
        self._frame: dict[str, Any] = {}
        self._found: dict[str, Any] = {}
        self.reset()

    def reset(self) -> None:
        self._memory = {pair.input: pair.zeros() for pair in self._spec.states}

    def lay(self, pixels: Pixels, dt: float = 0.0) -> None:
        self._frame = {self._spec.frame.name: pixels[None]}
        if self._spec.dt is not None:
            seconds = self._spec.dt.zeros()
            seconds[...] = dt
            self._frame[self._spec.dt.name] = seconds

    def run(self) -> None:
        self._found = self._call(self._frame | self._memory)
        self._memory = {pair.input: self._found[pair.output] for pair in self._spec.states}

    def outputs(self) -> Arrays:
        return self._found


def onnxruntime(graph: bytes, _: ModelSpec) -> Call:
    """Return the call of an ONNX Runtime session with default settings."""
    ort: Any = import_module("onnxruntime")
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))


def openvino(graph: bytes, spec: ModelSpec) -> Call:
    """Return the call of a model that OpenVINO compiled for one stream, with the hint that it has for latency."""
    library: Any = import_module("openvino")
    model = library.Core().read_model(io.BytesIO(graph))
    model.reshape(
        {
            port.any_name: [1 if side.is_dynamic else side.get_length() for side in port.partial_shape]
            for port in model.inputs
        }
    )
    compiled = library.Core().compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    wanted = {output.name for output in spec.outputs} | {pair.output for pair in spec.states}
    ports = {name: port for port in compiled.outputs for name in port.names & wanted}

    def call(feeds: dict[str, Any]) -> dict[str, Any]:
        found = compiled(feeds)
        return {name: found[port].copy() for name, port in ports.items()}

    return call


ENGINES = {"onnxruntime": onnxruntime, "openvino": openvino}
SETTINGS = {
    "onnxruntime": "InferenceSession(graph), session.run with arrays; threads and spinning as they are by default",
    "openvino": 'compile_model(graph, "CPU", PERFORMANCE_HINT=LATENCY), compiled(arrays); the rest by default',
}


def _peer(family: str, precision: str) -> Peer:
    def prepare(material: Material, folder: Path) -> Path:
        path = folder / "graph.onnx"
        path.write_bytes(_graph(bundle_format.read(material.bundle), precision))
        return path

    def open_it(path: Path, material: Material) -> ByHand:
        spec = bundle_format.read(material.bundle).manifest.model
        return ByHand(ENGINES[family](path.read_bytes(), spec), spec)

    return Peer(f"{family} {precision}, as used", family, precision, SETTINGS[family], (family,), prepare, open_it)


def _graph(bundle: Bundle, precision: str) -> bytes:
    """Return the bundle's portable FP32 graph, or the one that it has quantized for processors."""
    if precision == "fp32":
        return bundle.graph(reference_of(bundle))
    for graph in bundle.manifest.graphs:
        if graph.dialect == "onnxruntime":
            return bundle.graph(graph.name)
    raise ConfigError(
        f"a bundle with graphs {[graph.name for graph in bundle.manifest.graphs]}",
        expected="one quantized for processors",
        fix="export the bundle with that dialect",
    )


AS_USED = tuple(_peer(family, precision) for family in ENGINES for precision in ("fp32", "int8"))
