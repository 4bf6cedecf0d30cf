from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_cnnlstm.errors import ExportError
from edge_cnnlstm.gpu import tensorrt
from edge_cnnlstm.gpu.network import fix_batch, precisions, watch_outputs

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is built for Linux only")


@contextmanager
def parsed(onnx: bytes) -> Iterator[Any]:
    """A network, for as long as the parser that owns its weights is there."""
    logger = tensorrt.logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(onnx), logger.errors
    yield network


def shapes(network: Any) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    inputs = [network.get_input(at) for at in range(network.num_inputs)]
    outputs = [network.get_output(at) for at in range(network.num_outputs)]
    return {each.name: tuple(each.shape) for each in inputs}, {each.name: tuple(each.shape) for each in outputs}


@pytest.mark.parametrize("batch", [1, 8])
def test_every_shape_is_known_once_the_batch_is(tiny_dt_onnx: bytes, batch: int) -> None:
    with parsed(tiny_dt_onnx) as network:
        fix_batch(network, batch)
        inputs, outputs = shapes(network)

    assert inputs == {"frame": (batch, 8, 8, 3), "dt": (batch, 1), "h": (1, batch, 4), "c": (1, batch, 4)}
    assert outputs == {
        "digit_logits": (batch, 3), "target_box": (batch, 4), "target_presence": (batch, 1),
        "h_next": (1, batch, 4), "c_next": (1, batch, 4),
    }  # fmt: skip


@pytest.mark.parametrize("names", [["c_next"], ["h_next", "c_next"]])
def test_a_watched_memory_has_one_size_per_stream(tiny_onnx: bytes, names: list[str]) -> None:
    with parsed(tiny_onnx) as network:
        fix_batch(network, 5)
        before = shapes(network)[1]
        watch_outputs(trt, network, names, "size")

        assert shapes(network)[1] == before | {"size": (5,)}
        assert network.get_output(network.num_outputs - 1).dtype == trt.DataType.FLOAT


@pytest.mark.parametrize(
    ("name", "found"), [("h", "not among digit_logits"), ("target_box", r"FLOAT \(5, 4\)"), ("", "not among")]
)
def test_what_is_no_memory_cannot_be_watched(tiny_onnx: bytes, name: str, found: str) -> None:
    with parsed(tiny_onnx) as network:
        fix_batch(network, 5)
        with pytest.raises(ExportError, match=rf"(?s)'{name}' is to be watched.*{found}.*\[layers, batch, hidden\]"):
            watch_outputs(trt, network, ["c_next", name], "size")


def quantized(*, activations: bool, pooled: bool = False) -> bytes:
    """A convolution with int8 weights; its input is made int8 first, or not, and pooled in between, or not."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], "quantize"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"], "dequantize"),
        helper.make_node("MaxPool", ["dq"], ["pooled"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("DequantizeLinear", ["weights", "scale", "zero"], ["w"], "weigh"),
        helper.make_node("Conv", [{(True, False): "dq", (True, True): "pooled"}.get((activations, pooled), "x"), "w"],
                         ["y"], "convolve"),
    ]  # fmt: skip
    values = [np.int8(np.ones((2, 2, 1, 1))), np.float32(0.5), np.int8(0)]
    graph = helper.make_graph(
        nodes if activations else nodes[3:],
        "quantized",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in zip(("weights", "scale", "zero"), values, strict=True)],
    )
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9).SerializeToString()
    )


def test_a_layer_is_int8_when_all_it_multiplies_was_int8_a_moment_ago() -> None:
    with parsed(quantized(activations=True)) as network:
        assert precisions(trt, network) == {"convolve": "int8"}
    with parsed(quantized(activations=True, pooled=True)) as network:
        assert precisions(trt, network) == {"convolve": "int8"}


def test_int8_weights_alone_do_not_make_a_layer_int8() -> None:
    with parsed(quantized(activations=False)) as network:
        assert precisions(trt, network) == {"convolve": "fp32"}


def test_every_matrix_product_is_named(tiny_onnx: bytes) -> None:
    with parsed(tiny_onnx) as network:
        found = precisions(trt, network)

    assert len(found) == 4
    assert set(found.values()) == {"fp32"}
