"""What is read from a parsed network, and the little that is added to it, before TensorRT builds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge_cnnlstm.errors import ExportError
from edge_cnnlstm.spec import BATCH

BATCH_AXIS = 1
"""Where streams lie in a memory, [layers, batch, hidden]."""

KEEPS_VALUES = ("SHUFFLE", "SQUEEZE", "UNSQUEEZE", "POOLING")
"""Layers that TensorRT moves a dequantizer past: of poolings the maximum alone, and the export puts no other there."""


def fix_batch(network: Any, batch: int) -> None:
    """Give the inputs their final shapes: with these known, the builder needs no profile and computes no shapes."""
    for tensor in _inputs(network):
        tensor.shape = [
            batch if tensor.get_dimension_name(axis) == BATCH else size for axis, size in enumerate(tensor.shape)
        ]


def watch_outputs(trt: Any, network: Any, names: Sequence[str], called: str) -> None:
    """Add an output, float32 [batch]: for each stream the sum of the absolute values of all outputs with these names.

    It is finite exactly when they are, as long as they stay far below 1e38; the outputs are float32
    [layers, batch, hidden]. Raises ExportError for a name that is no such output.
    """
    outputs = {tensor.name: tensor for tensor in _outputs(network)}
    for name in names:
        tensor = outputs.get(name)
        if tensor is None or tensor.dtype != trt.DataType.FLOAT or len(tensor.shape) != BATCH_AXIS + 2:
            found = f"{tensor.dtype} {tuple(tensor.shape)}" if tensor else f"not among {', '.join(outputs)}"
            raise ExportError(
                f"the memory {name!r} is to be watched, and is {found}",
                expected="outputs of the graph, float32 [layers, batch, hidden]",
                fix="export the bundle again: its manifest and its graph do not match",
            )
    sizes = [_size(trt, network, outputs[name]) for name in names]
    total = sizes[0]
    for size in sizes[1:]:
        total = _first_output(network.add_elementwise(total, size, trt.ElementWiseOperation.SUM))
    total.name = called
    network.mark_output(total)


def precisions(trt: Any, network: Any) -> dict[str, str]:
    """Return what each convolution and matrix product computes in, by name: "int8", "fp16" or "fp32".

    Of a strongly typed network that is not a wish but a rule. The names are those of the ONNX nodes.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    makers = {layer.get_output(index).name: layer for layer in layers for index in range(layer.num_outputs)}
    computing = (
        trt.LayerType.CONVOLUTION,
        trt.LayerType.DECONVOLUTION,
        trt.LayerType.MATRIX_MULTIPLY,
        trt.LayerType.EINSUM,
    )
    return {layer.name: _precision(trt, layer, makers) for layer in layers if layer.type in computing}


def _precision(trt: Any, layer: Any, makers: dict[str, Any]) -> str:
    """What a layer multiplies: int8 where both its operands were int8 a moment ago, else what they are now."""
    # Weights are an input only where they are computed, as dequantized ones are; a third input is the bias.
    if layer.num_inputs > 1 and all(_is_int8(trt, layer.get_input(index), makers) for index in (0, 1)):
        return "int8"
    dtype = layer.get_input(0).dtype
    names = {trt.DataType.FLOAT: "fp32", trt.DataType.HALF: "fp16", trt.DataType.BF16: "bf16"}
    return names.get(dtype, str(dtype))


def _is_int8(trt: Any, tensor: Any, makers: dict[str, Any]) -> bool:
    """Whether a tensor was dequantized from int8, and at most moved since."""
    layer = makers.get(tensor.name)
    if layer is None:
        return False
    if layer.type == trt.LayerType.DEQUANTIZE:
        return bool(layer.get_input(0).dtype == trt.DataType.INT8)
    return layer.type.name in KEEPS_VALUES and _is_int8(trt, layer.get_input(0), makers)


def _size(trt: Any, network: Any, tensor: Any) -> Any:
    """Add the sum of a memory's absolute values, [batch]."""
    absolute = _first_output(network.add_unary(tensor, trt.UnaryOperation.ABS))
    axes = (1 << len(tensor.shape)) - 1 - (1 << BATCH_AXIS)
    return _first_output(network.add_reduce(absolute, trt.ReduceOperation.SUM, axes, False))


def _first_output(layer: Any) -> Any:
    if layer is None:
        raise ExportError(
            "TensorRT did not add the layers that watch the memory",
            expected="float32 outputs [layers, batch, hidden]",
            fix="read TensorRT's own errors in the log, and report this",
        )
    return layer.get_output(0)


def _inputs(network: Any) -> list[Any]:
    return [network.get_input(index) for index in range(network.num_inputs)]


def _outputs(network: Any) -> list[Any]:
    return [network.get_output(index) for index in range(network.num_outputs)]
