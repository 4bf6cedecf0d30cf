"""Which engine and which of a bundle's graphs run here: tried in order, and proven before they serve a frame."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle.format import Bundle
from edge_cnnlstm.bundle.manifest import Graph, Manifest
from edge_cnnlstm.errors import BackendError, ConfigError, ExportError
from edge_cnnlstm.runtime import choice
from edge_cnnlstm.runtime.backends.base import Backend
from edge_cnnlstm.runtime.proof import prove
from edge_cnnlstm.runtime.wiring import AS_FOUND, Wiring

if TYPE_CHECKING:
    from edge_cnnlstm.gpu.progress import Progress

log = logging.getLogger(__name__)

DIALECTS = {
    "onnxruntime": ("onnxruntime", "portable"),
    "openvino": ("onnxruntime", "portable"),
    "tensorrt": ("tensorrt", "portable"),
    "onnxruntime-cuda": ("portable",),
    "onnxruntime-tensorrt": ("tensorrt", "portable"),
}
"""The dialects that each backend runs in earnest."""
BACKENDS = ("auto", *DIALECTS)


@dataclass(frozen=True, slots=True)
class Proven:
    """An engine that reproduced the golden rollout; name and SHA-256 of its graph; what was not taken, and why."""

    engine: Backend
    graph: str
    digest: str
    passed_over: tuple[str, ...]


def proven_engine(
    path: Path | str,
    backend: str,
    graph: str | None,
    *,
    threads: int,
    streams: int,
    strict: bool,
    wiring: Wiring = AS_FOUND,
    progress: Progress | None = None,
) -> Proven:
    """Return the first engine that loads and reproduces the golden rollout; arguments and errors as `open_stream` has.

    The caller closes the engine.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"backend {backend!r}", expected=f"one of {', '.join(BACKENDS)}", fix="choose one of these")
    if not isinstance(threads, int) or threads < 1:
        raise ConfigError(f"{threads!r} threads", expected="a whole number of at least 1", fix="change threads")
    bundle = bundle_format.read(path)
    manifest, passed_over = bundle.manifest, list[str]()
    load = partial(load_engine, bundle, threads=threads, streams=streams, wiring=wiring, progress=progress)
    named = manifest.graph(graph) if graph else None
    for each in _for_tensorrt(manifest, backend, named, passed_over, strict=strict):
        try:
            return _proven(load, bundle, each, "tensorrt", passed_over)
        except (BackendError, ExportError, ConfigError) as error:  # noqa: PERF203 - a handful of graphs, once
            if strict or (named and backend == "tensorrt"):
                raise
            log.warning("not taking graph %r in TensorRT: %s", each.name, error)
            passed_over.append(f"{each.name} in TensorRT: {error.found}")
    if backend in ("auto", "tensorrt"):
        graphs = [named] if named else sound_graphs(manifest)
        fastest = choice.fastest(Path(path), manifest, graphs, threads=threads, streams=streams)
        return _proven(load, bundle, fastest.graph, fastest.backend, passed_over)
    return _proven(load, bundle, named or preferred_graph(manifest, backend), backend, passed_over)


def load_engine(
    bundle: Bundle,
    graph: Graph,
    backend: str,
    *,
    threads: int = 1,
    streams: int = 1,
    wiring: Wiring = AS_FOUND,
    progress: Progress | None = None,
) -> Backend:
    """Load one of a bundle's graphs into an engine, for so many streams at once; `progress` hears of TensorRT's build.

    TensorRT's dialect runs node by node in ONNX Runtime, as written: what its optimizer makes of it strays far.
    """
    # Each is imported here: who steps on a processor need not wait for what drives a GPU.
    if backend == "tensorrt":
        from edge_cnnlstm.runtime.backends.trt import open_tensorrt

        return open_tensorrt(bundle, graph, streams, wiring, progress=progress)
    spec, data = bundle.manifest.model.batched(streams), bundle.graph(graph.name)
    as_written = graph.dialect == "tensorrt"
    if backend == "openvino":
        from edge_cnnlstm.runtime.backends.ov import OpenVinoBackend

        return OpenVinoBackend(data, spec, threads=threads)
    if backend == "onnxruntime":
        from edge_cnnlstm.runtime.backends.ort import OnnxRuntimeBackend

        return OnnxRuntimeBackend(data, spec, threads=threads, optimize=not as_written)
    from edge_cnnlstm.runtime.backends import ort_gpu

    if backend == "onnxruntime-tensorrt":
        return ort_gpu.OnnxRuntimeTensorrtBackend(data, spec)
    return ort_gpu.OnnxRuntimeCudaBackend(data, spec, optimize=not as_written)


def preferred_graph(manifest: Manifest, backend: str = "onnxruntime") -> Graph:
    """Return the graph that a backend runs unless told otherwise: the bundle's first in a dialect of its.

    For TensorRT that is the one that the export chose for it.
    """
    if "tensorrt" in DIALECTS[backend]:
        fitting = tensorrt_graphs(manifest)
    else:
        fitting = [graph for graph in manifest.graphs if graph.dialect in DIALECTS[backend]]
    if not fitting:
        raise ConfigError(
            f"a bundle with graphs {[graph.name for graph in manifest.graphs]}",
            expected=f"one in a dialect that {backend} runs: {', '.join(DIALECTS[backend])}",
            fix="export the bundle with that dialect",
        )
    return fitting[0]


def tensorrt_graphs(manifest: Manifest) -> list[Graph]:
    """Return the graphs to try in TensorRT, in this order: the one that the export chose, then those quantized less.

    The less a graph is quantized, the larger it is; the last is FP32.
    """
    own = [graph for graph in manifest.graphs if graph.dialect == "tensorrt"]
    fitting = own + [graph for graph in manifest.graphs if graph.dialect == "portable"]
    chosen = manifest.plan.chosen.get("tensorrt") if manifest.plan else None
    first = [*(graph for graph in own if graph.name == chosen), *fitting][:1]
    size = {graph.name: manifest.members[graph.file].size for graph in fitting}
    larger = [graph for graph in fitting if size[graph.name] > size[first[0].name]]
    return first + sorted(larger, key=lambda graph: size[graph.name])


def sound_graphs(manifest: Manifest) -> list[Graph]:
    """Return the preferred graph, and those others for CPUs that lose no more accuracy than the export could spend."""
    preferred, plan = preferred_graph(manifest), manifest.plan
    within = {each.name for each in plan.candidates if each.lost <= plan.budget} if plan else set()
    others = [graph for graph in manifest.graphs if graph != preferred and graph.name in within]
    return [preferred, *(graph for graph in others if graph.dialect in DIALECTS["onnxruntime"])]


def _for_tensorrt(
    manifest: Manifest, backend: str, named: Graph | None, passed_over: list[str], *, strict: bool
) -> Iterator[Graph]:
    """Yield what to try in TensorRT; nothing if that was not asked for, or is not here and need not be."""
    if backend not in ("auto", "tensorrt"):
        return
    from edge_cnnlstm.runtime.backends.trt import missing_for_tensorrt

    if backend == "auto" and (missing := missing_for_tensorrt()) is not None:
        if strict:
            raise missing
        log.info("not taking TensorRT: %s", missing)
        passed_over.append(f"TensorRT: {missing.found}")
        return
    if named is not None:
        yield from [named] if named.dialect in DIALECTS["tensorrt"] or backend == "tensorrt" else []
        return
    graphs = tensorrt_graphs(manifest)
    yield from graphs if graphs or backend == "auto" else [preferred_graph(manifest, "tensorrt")]


def _proven(
    load: Callable[[Graph, str], Backend], bundle: Bundle, graph: Graph, backend: str, passed_over: Sequence[str]
) -> Proven:
    engine = load(graph, backend)
    try:
        prove(engine, bundle.golden, bundle.golden.expected[graph.name], graph.tolerance)
    except BaseException:
        engine.close()
        raise
    return Proven(engine, graph.name, bundle.manifest.members[graph.file].sha256, tuple(passed_over))
