"""What a graph is made of, as exported and as ONNX Runtime's optimizer leaves it."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime

from edge_cnnlstm.errors import ExportError
from edge_cnnlstm.training.model import CnnLstm
from export.points import points
from export.precisions import Precision


def operators(graph: onnx.ModelProto) -> dict[str, int]:
    """Count the operators of a graph, the most frequent first."""
    return dict(Counter(node.op_type for node in graph.graph.node).most_common())


def optimized_operators(graph: onnx.ModelProto) -> dict[str, int]:
    """Count the operators that ONNX Runtime's optimizer makes of a graph on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return operators(onnx.load(options.optimized_model_filepath))


def check_quantizers(graph: onnx.ModelProto, split: CnnLstm, precision: Precision) -> None:
    """Raise ExportError unless a step graph has the quantizers that its precision asks for, no more and no fewer.

    `split` is the quantizable network that it was lowered from.
    """
    if split.config.scan == "rows":
        return  # its cells are unrolled over the rows, each with quantizers of its own
    on_cpu = precision.dialect == "onnxruntime"
    serving = [point for _, point in points(split) if point.serves(precision.layers, outputs=on_cpu)]
    # On a CPU the frame is quantized by nature, and each matrix product asks for its input's quantizer again.
    frames = sum(point.is_frame for point in serving) if on_cpu else 0
    again = sum(name.startswith(("cells.", "dense.")) for name in precision.layers) if on_cpu else 0
    wanted = {
        "QuantizeLinear": len(serving) - frames + again,
        "DequantizeLinear": len(serving) + again + len(precision.layers),
    }
    found = {name: operators(graph).get(name, 0) for name in wanted}
    if found != wanted:
        raise ExportError(
            f"graph {precision.name!r} holds {found}",
            expected=f"{wanted} for {len(precision.layers)} int8 layers",
            fix="report this: the exporter dropped or doubled a quantizer",
        )
