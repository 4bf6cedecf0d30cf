"""What a graph is made of, as exported and as ONNX Runtime's optimizer leaves it."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime
import torch

from edge_cnnlstm.errors import ExportError
from edge_cnnlstm.spec import BATCH
from edge_cnnlstm.training.model import CnnLstm
from export.points import points
from export.precisions import Precision


def operators(graph: onnx.ModelProto) -> dict[str, int]:
    """Count the operators of a graph, the most frequent first."""
    return dict(Counter(node.op_type for node in graph.graph.node).most_common())


def optimized_operators(graph: onnx.ModelProto) -> dict[str, int]:
    """Count the operators that ONNX Runtime's optimizer makes of a graph for one stream on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_free_dimension_override_by_name(BATCH, 1)
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return operators(onnx.load(options.optimized_model_filepath))


def check_quantizers(graph: onnx.ModelProto, split: CnnLstm, precision: Precision) -> None:
    """Raise ExportError unless a step graph has the quantizers that its precision asks for, no more and no fewer.

    `split` is the quantizable network that it was lowered from.
    """
    on_cpu = precision.dialect == "onnxruntime"
    rows = _rows(split)

    def times(name: str) -> int:
        """How often a layer, or a point, occurs: cells are unrolled over the rows that they scan."""
        if name.endswith(("gates_h", "point_h")) and split.config.scan == "rows":
            return rows - 1  # nothing is remembered before the first
        return rows if name.startswith("cells.") else 1

    serving = {name: point for name, point in points(split) if point.serves(precision.layers, outputs=on_cpu)}
    quantizers = sum(map(times, serving))
    # On a CPU the frame is quantized by nature, and each matrix product asks for its input's quantizer again.
    frames = sum(point.is_frame for point in serving.values()) if on_cpu else 0
    again = sum(times(name) for name in precision.layers if name.startswith(("cells.", "dense."))) if on_cpu else 0
    wanted = {
        "QuantizeLinear": quantizers - frames + again,
        "DequantizeLinear": quantizers + again + sum(map(times, precision.layers)),
    }
    found = {name: operators(graph).get(name, 0) for name in wanted}
    if found != wanted:
        raise ExportError(
            f"graph {precision.name!r} holds {found}",
            expected=f"{wanted} for {len(precision.layers)} int8 layers",
            fix="report this: the exporter dropped or doubled a quantizer",
        )


@torch.inference_mode()
def _rows(split: CnnLstm) -> int:
    """Return how many steps the memory takes in one frame."""
    if split.config.scan == "frames":
        return 1
    return split.see(torch.zeros(1, split.config.height, split.config.width, 3, dtype=torch.uint8)).shape[1]
