"""From a bundle on disk to a stream, or a group of them, that is ready for its first frame."""

from __future__ import annotations

from pathlib import Path

from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle.format import Bundle
from edge_cnnlstm.bundle.manifest import Graph, Manifest
from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.runtime import choice
from edge_cnnlstm.runtime.backends.base import Backend
from edge_cnnlstm.runtime.backends.ort import OnnxRuntimeBackend
from edge_cnnlstm.runtime.backends.ov import OpenVinoBackend
from edge_cnnlstm.runtime.group import StreamGroup
from edge_cnnlstm.runtime.proof import prove
from edge_cnnlstm.runtime.stream import Stream
from edge_cnnlstm.spec import StateRules

BACKENDS = ("auto", "onnxruntime", "openvino")
DIALECTS = {"onnxruntime": ("onnxruntime", "portable"), "openvino": ("onnxruntime", "portable")}
"""The dialects that each backend runs in earnest."""


def open_stream(
    path: Path | str,
    *,
    backend: str = "auto",
    graph: str | None = None,
    threads: int = 1,
    deadline_ms: float | None = None,
    rules: StateRules | None = None,
) -> Stream:
    """Open a bundle: verify it, load the graph that the backend is fast in, prove the engine, warm up, reset.

    `backend` is `auto`, which measures once on each machine which of the installed ones is the fastest, and on which of
    the bundle's graphs, and remembers it; or one by name. `graph` names one of the bundle's graphs instead; `threads`
    is the number of cores one step may use; `deadline_ms` is the age at which a prediction counts as late; `rules`
    replace the bundle's for when memory is emptied. Raises BundleError for a damaged bundle, ConfigError for an unknown
    backend, DependencyError when its package is missing, and BackendError when the engine does not reproduce the
    bundle's golden rollout. The caller closes the stream.
    """
    engine, chosen, digest = _proven_engine(path, backend, graph, threads, 1)
    return Stream(engine, deadline_ms=deadline_ms, rules=rules, graph=chosen, digest=digest)


def open_group(
    path: Path | str,
    slots: int,
    *,
    backend: str = "auto",
    graph: str | None = None,
    threads: int = 1,
    deadline_ms: float | None = None,
    rules: StateRules | None = None,
) -> StreamGroup:
    """Open a bundle for up to `slots` streams that are stepped together; the rest is as `open_stream` has it."""
    if not isinstance(slots, int) or slots < 1:
        raise ConfigError(f"{slots!r} slots", expected="a whole number of at least 1", fix="change slots")
    engine, _, _ = _proven_engine(path, backend, graph, threads, slots)
    return StreamGroup(engine, deadline_ms=deadline_ms, rules=rules)


def load_engine(bundle: Bundle, graph: Graph, backend: str, *, threads: int = 1, streams: int = 1) -> Backend:
    """Load one of a bundle's graphs into an engine, for so many streams at once.

    TensorRT's dialect runs node by node in ONNX Runtime, as written: what its optimizer makes of it strays far.
    """
    spec, data = bundle.manifest.model.batched(streams), bundle.graph(graph.name)
    if backend == "openvino":
        return OpenVinoBackend(data, spec, threads=threads)
    return OnnxRuntimeBackend(data, spec, threads=threads, optimize=graph.dialect != "tensorrt")


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


def sound_graphs(manifest: Manifest) -> list[Graph]:
    """Return the preferred graph, and those others for CPUs that lose no more accuracy than the export could spend."""
    preferred, plan = preferred_graph(manifest), manifest.plan
    within = {each.name for each in plan.candidates if each.lost <= plan.budget} if plan else set()
    others = [graph for graph in manifest.graphs if graph != preferred and graph.name in within]
    return [preferred, *(graph for graph in others if graph.dialect in DIALECTS["onnxruntime"])]


def _proven_engine(
    path: Path | str, backend: str, graph: str | None, threads: int, streams: int
) -> tuple[Backend, str, str]:
    """Return an engine that reproduced the golden rollout, and the name and the SHA-256 of its graph."""
    if backend not in BACKENDS:
        raise ConfigError(f"backend {backend!r}", expected=f"one of {', '.join(BACKENDS)}", fix="choose one of these")
    if not isinstance(threads, int) or threads < 1:
        raise ConfigError(f"{threads!r} threads", expected="a whole number of at least 1", fix="change threads")
    bundle = bundle_format.read(path)
    manifest = bundle.manifest
    if backend == "auto":
        graphs = [manifest.graph(graph)] if graph else sound_graphs(manifest)
        fastest = choice.fastest(Path(path), manifest, graphs, threads=threads, streams=streams)
        backend, chosen = fastest.backend, fastest.graph
    else:
        chosen = manifest.graph(graph) if graph else preferred_graph(manifest, backend)
    engine = load_engine(bundle, chosen, backend, threads=threads, streams=streams)
    try:
        prove(engine, bundle.golden, bundle.golden.expected[chosen.name], chosen.tolerance)
    except BaseException:
        engine.close()
        raise
    return engine, chosen.name, manifest.members[chosen.file].sha256
