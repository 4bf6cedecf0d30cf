from __future__ import annotations

import logging
import sys

import pytest

from edge_cnnlstm.errors import DependencyError, ExportError
from edge_cnnlstm.gpu import engine
from edge_cnnlstm.gpu.engine import build_plan


def test_without_tensorrt_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)

    with pytest.raises(DependencyError, match="python3-libnvinfer"):
        build_plan(b"", "graph")


@pytest.mark.parametrize("batch", [1, 8])
def test_every_shape_is_known_once_the_batch_is(tiny_dt_onnx: bytes, batch: int) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is built for Linux only")
    logger = engine._logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, logger).parse(tiny_dt_onnx)

    engine._fix_batch(network, batch)

    inputs = {network.get_input(at).name: tuple(network.get_input(at).shape) for at in range(network.num_inputs)}
    outputs = {network.get_output(at).name: tuple(network.get_output(at).shape) for at in range(network.num_outputs)}
    assert inputs == {"frame": (batch, 8, 8, 3), "dt": (batch, 1), "h": (1, batch, 4), "c": (1, batch, 4)}
    assert outputs == {
        "digit_logits": (batch, 3), "target_box": (batch, 4), "target_presence": (batch, 1),
        "h_next": (1, batch, 4), "c_next": (1, batch, 4),
    }  # fmt: skip
    assert build_plan(tiny_dt_onnx, "tiny", batch=batch, ahead_of_time=True).layers == network.num_layers


def test_a_dimension_of_another_name_is_nobodys_to_fix(tiny_onnx: bytes) -> None:
    with pytest.raises(ExportError, match=r"(?s)'tiny'.*builder.*refused"):
        build_plan(tiny_onnx.replace(b"batch", b"width"), "tiny", batch=8, ahead_of_time=True)


@pytest.mark.parametrize("content", [b"", b"not an ONNX file", bytes(100)])
def test_what_is_not_onnx_is_refused_in_the_parsers_words(content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="edge_cnnlstm")

    with pytest.raises(ExportError, match=r"(?s)'broken'.*tensorrt_rtx.*refused"):
        build_plan(content, "broken", ahead_of_time=True)
