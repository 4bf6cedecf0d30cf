"""What ONNX Runtime's optimizer leaves of a graph: integer convolutions, FP32 ones, and conversions in between."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from edge_cnnlstm.runtime.optional import load_onnxruntime
from edge_cnnlstm.spec import BATCH

COUNTED = {
    "integer_convolutions": ("QLinearConv", "ConvInteger"),
    "float_convolutions": ("Conv", "FusedConv", "NhwcFusedConv"),
    "quantize": ("QuantizeLinear",),
    "dequantize": ("DequantizeLinear",),
}


def count_operators(graph: Path) -> dict[str, int]:
    """Count operators in the graph for one stream as this machine's ONNX Runtime runs it; raises whatever it raises."""
    import onnx

    ort: Any = load_onnxruntime()
    optimized = graph.with_suffix(".optimized.onnx")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_free_dimension_override_by_name(BATCH, 1)
    options.optimized_model_filepath = str(optimized)
    ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    found = Counter(node.op_type for node in onnx.load(optimized, load_external_data=False).graph.node)
    return {name: sum(found[kind] for kind in kinds) for name, kinds in COUNTED.items()}
