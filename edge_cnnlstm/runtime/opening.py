"""From a bundle on disk to a stream that is ready for its first frame."""

from __future__ import annotations

from pathlib import Path

from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle.format import Bundle
from edge_cnnlstm.bundle.manifest import Graph, Manifest
from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.runtime.backends.base import Backend
from edge_cnnlstm.runtime.backends.ort import OnnxRuntimeBackend
from edge_cnnlstm.runtime.proof import prove
from edge_cnnlstm.runtime.stream import Stream

BACKENDS = ("auto", "onnxruntime")
DIALECTS = {"onnxruntime": ("onnxruntime", "portable")}
"""The dialects that each backend runs in earnest."""


def open_stream(
    path: Path | str,
    *,
    backend: str = "auto",
    graph: str | None = None,
    threads: int = 1,
    deadline_ms: float | None = None,
) -> Stream:
    """Open a bundle: verify it, load the graph that the backend is fast in, prove the engine, warm up, reset.

    `graph` names one of the bundle's graphs instead; `threads` is the number of cores one step may use;
    `deadline_ms` is the age at which a prediction counts as late. Raises BundleError for a damaged bundle,
    ConfigError for an unknown backend, DependencyError when its package is missing, and BackendError when the
    engine does not reproduce the bundle's golden rollout. The caller closes the stream.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"backend {backend!r}", expected=f"one of {', '.join(BACKENDS)}", fix="choose one of these")
    if not isinstance(threads, int) or threads < 1:
        raise ConfigError(f"{threads!r} threads", expected="a whole number of at least 1", fix="change threads")
    bundle = bundle_format.read(path)
    chosen = bundle.manifest.graph(graph) if graph else preferred_graph(bundle.manifest)
    engine: Backend = onnxruntime_backend(bundle, chosen, threads=threads)
    try:
        prove(engine, bundle.golden, bundle.golden.expected[chosen.name], chosen.tolerance)
        return Stream(engine, deadline_ms=deadline_ms)
    except BaseException:
        engine.close()
        raise


def onnxruntime_backend(bundle: Bundle, graph: Graph, *, threads: int = 1) -> OnnxRuntimeBackend:
    """Load one of a bundle's graphs into ONNX Runtime.

    TensorRT's dialect runs node by node, as written: what ONNX Runtime's optimizer makes of it strays far.
    """
    optimize = graph.dialect != "tensorrt"
    return OnnxRuntimeBackend(bundle.graph(graph.name), bundle.manifest.model, threads=threads, optimize=optimize)


def preferred_graph(manifest: Manifest, backend: str = "onnxruntime") -> Graph:
    """Return the graph that a backend runs unless told otherwise: the bundle's first in a dialect of its."""
    for graph in manifest.graphs:
        if graph.dialect in DIALECTS[backend]:
            return graph
    raise ConfigError(
        f"a bundle with graphs {[graph.name for graph in manifest.graphs]}",
        expected=f"one in a dialect that {backend} runs: {', '.join(DIALECTS[backend])}",
        fix="export the bundle with that dialect",
    )
