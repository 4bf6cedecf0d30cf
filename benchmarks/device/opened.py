"""The engine that is measured: a bundle's graph in TensorRT, or, where that does not run, what stands in for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from benchmarks.device.network import Network
from benchmarks.device.stand_in import NAME, StandIn
from benchmarks.processes import answer
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.errors import BackendError, DependencyError, ExportError
from edge_cnnlstm.gpu import context, tensorrt
from edge_cnnlstm.gpu.engine import Engine
from edge_cnnlstm.runtime.backends.trt import TensorRtBackend, open_tensorrt
from edge_cnnlstm.runtime.device_step import AS_FOUND, Wiring
from edge_cnnlstm.runtime.proof import prove
from edge_cnnlstm.runtime.selection import tensorrt_graphs


def main(path: str) -> dict[str, Any]:
    """Find the graph that TensorRT runs here, and proves: which engine to measure, and who was passed over, and why."""
    context.describe()
    bundle, refused = bundle_format.read(path), dict[str, str]()
    for graph in tensorrt_graphs(bundle.manifest):
        try:
            backend = open_tensorrt(bundle, graph, 1)
            prove(backend, bundle.golden, bundle.golden.expected[graph.name], graph.tolerance)
            backend.close()
            return {"engine": tensorrt.version(tensorrt.load()), "graph": graph.name, "refused": refused}
        except (BackendError, DependencyError, ExportError) as error:  # noqa: PERF203 - a handful of graphs, once
            refused[graph.name] = error.found
    return {"engine": NAME, "graph": None, "refused": refused}


def opened(path: Path | str, graph: str | None, batch: int, wiring: Wiring = AS_FOUND) -> TensorRtBackend:
    """Return a graph of a bundle in TensorRT, for so many streams; without a name, what stands in for one."""
    bundle = bundle_format.read(path)
    if graph is not None:
        return open_tensorrt(bundle, bundle.manifest.graph(graph), batch, wiring)
    network = Network.random(bundle.manifest.model.batched(batch))
    # It has what a backend uses of an engine, and is none.
    return TensorRtBackend(lambda: cast("Engine", StandIn(network)), network.spec, wiring)


if __name__ == "__main__":
    answer(main)
