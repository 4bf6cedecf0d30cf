from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_cnnlstm.errors import BackendError
from edge_cnnlstm.runtime.backends.base import Arrays, Backend, advance
from edge_cnnlstm.runtime.backends.ort import OnnxRuntimeBackend, open_session
from edge_cnnlstm.runtime.backends.ov import OpenVinoBackend
from edge_cnnlstm.runtime.backends.scripted import Script, ScriptedBackend
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.runtime.optional import is_installed
from edge_cnnlstm.spec import ModelSpec, StatePair, TensorSpec
from tests.conftest import ROOT, tiny_frames
from tests.runtime.backend_contract import BackendContract, assert_same
from tests.runtime.batch_contract import BatchContract
from tests.runtime.doubles import for_streams


class TestOnnxRuntime(BackendContract):
    def backend(self) -> Backend:
        return OnnxRuntimeBackend(self.onnx, self.spec)


class TestScripted(BackendContract):
    tolerance = 1e-6

    def backend(self) -> Backend:
        return ScriptedBackend(self.spec, self.script)


needs_openvino = pytest.mark.skipif(not is_installed("openvino"), reason="openvino is not installed")


@needs_openvino
class TestOpenVino(BackendContract):
    def backend(self) -> Backend:
        return OpenVinoBackend(self.onnx, self.spec)


class TestOnnxRuntimeForSeveral(BatchContract):
    def backend(self, streams: int) -> Backend:
        return OnnxRuntimeBackend(for_streams(self.onnx, streams), self.spec.batched(streams))


class TestScriptedForSeveral(BatchContract):
    tolerance = 0.0

    def backend(self, streams: int) -> Backend:
        return ScriptedBackend(self.spec.batched(streams), self.script)


@needs_openvino
class TestOpenVinoForSeveral(BatchContract):
    def backend(self, streams: int) -> Backend:
        return OpenVinoBackend(for_streams(self.onnx, streams), self.spec.batched(streams))


@needs_openvino
@pytest.mark.parametrize("graph", [b"", b"not an ONNX file", bytes(100)])
def test_what_is_no_graph_is_refused_by_openvino_too(graph: bytes, tiny_spec: ModelSpec) -> None:
    with pytest.raises(BackendError, match=r"OpenVINO .* refused the graph"):
        OpenVinoBackend(graph, tiny_spec)


@needs_openvino
@pytest.mark.parametrize("difference", ["frame size", "state shape", "state name", "output missing"])
def test_openvino_refuses_a_graph_that_is_not_what_the_spec_says(
    tiny_onnx: bytes, tiny_spec: ModelSpec, difference: str
) -> None:
    h, c = tiny_spec.states
    specs = {
        "frame size": replace(tiny_spec, frame=TensorSpec("frame", (1, 8, 9, 3), "uint8")),
        "state shape": replace(tiny_spec, states=(h, replace(c, shape=(1, 1, 5)))),
        "state name": replace(tiny_spec, states=(h, StatePair("d", "d_next", c.shape))),
        "output missing": replace(tiny_spec, outputs=tiny_spec.outputs[:1], heads=tiny_spec.heads[:1]),
    }
    with pytest.raises(BackendError):
        OpenVinoBackend(tiny_onnx, specs[difference])


def test_outputs_are_overwritten_by_the_next_step(tiny_onnx: bytes, tiny_spec: ModelSpec) -> None:
    engine = OnnxRuntimeBackend(tiny_onnx, tiny_spec)
    first, second = tiny_frames(2, seed=1)
    outputs = advance(engine, first)
    before = outputs["digit_logits"].copy()
    again = advance(engine, second)
    assert again["digit_logits"] is outputs["digit_logits"]
    assert not np.array_equal(outputs["digit_logits"], before)


def test_one_thread_or_two_compute_the_same(tiny_onnx: bytes, tiny_spec: ModelSpec) -> None:
    one, two = (OnnxRuntimeBackend(tiny_onnx, tiny_spec, threads=threads) for threads in (1, 2))
    for pixels in tiny_frames(5, seed=2):
        assert_same(advance(one, pixels), advance(two, pixels))


@pytest.mark.parametrize("graph", [b"", b"not an ONNX file", bytes(100)])
def test_what_is_no_graph_is_refused(graph: bytes, tiny_spec: ModelSpec) -> None:
    with pytest.raises(BackendError, match="refused the graph"):
        OnnxRuntimeBackend(graph, tiny_spec)


def test_a_cut_off_graph_is_refused(tiny_onnx: bytes, tiny_spec: ModelSpec) -> None:
    with pytest.raises(BackendError):
        OnnxRuntimeBackend(tiny_onnx[:-200], tiny_spec)


@pytest.mark.parametrize("difference", ["frame size", "state shape", "state name", "output missing", "state type"])
def test_a_graph_that_is_not_what_the_spec_says_is_refused(
    tiny_onnx: bytes, tiny_spec: ModelSpec, difference: str
) -> None:
    h, c = tiny_spec.states
    logits = tiny_spec.outputs[0]
    specs = {
        "frame size": replace(tiny_spec, frame=TensorSpec("frame", (1, 8, 9, 3), "uint8")),
        "state shape": replace(tiny_spec, states=(h, replace(c, shape=(1, 1, 5)))),
        "state name": replace(tiny_spec, states=(h, StatePair("d", "d_next", c.shape))),
        "output missing": replace(tiny_spec, outputs=(logits,), heads=tiny_spec.heads[:1]),
        "state type": replace(tiny_spec, states=(h, replace(c, dtype="uint8"))),
    }
    with pytest.raises(BackendError, match="inputs and outputs"):
        OnnxRuntimeBackend(tiny_onnx, specs[difference])


def test_a_failing_step_of_a_script_leaves_the_memory_alone(tiny_spec: ModelSpec, tiny_script: Script) -> None:
    engine, spared = (ScriptedBackend(tiny_spec, tiny_script, fail_at=steps) for steps in ({2}, set()))  # type: ignore[arg-type]
    frames = tiny_frames(5, seed=4)
    for pixels in frames[:2]:
        advance(engine, pixels)
        advance(spared, pixels)
    before = engine.state.snapshot()
    with pytest.raises(BackendError, match="step 2"):
        advance(engine, frames[2])
    assert_same(engine.state.snapshot(), before)
    for pixels in frames[3:]:
        assert_same(advance(engine, pixels), advance(spared, pixels))


def test_a_script_that_writes_into_its_state_cannot_spoil_a_failed_step(tiny_spec: ModelSpec) -> None:
    def script(_: Pixels, state: Arrays) -> tuple[Arrays, Arrays]:
        for array in state.values():
            array.fill(1)
        return {output.name: output.zeros() for output in tiny_spec.outputs}, state

    engine = ScriptedBackend(tiny_spec, script, fail_at=frozenset({0}))
    before = engine.state.snapshot()
    with pytest.raises((BackendError, ValueError)):
        advance(engine, tiny_frames(1, seed=0)[0])
    assert_same(engine.state.snapshot(), before)


@pytest.mark.parametrize("snapshot", [{"h": [0.0] * 4, "c": [0.0] * 4}, None, {"h": None, "c": None}])
def test_a_snapshot_that_holds_no_arrays_is_refused(
    tiny_spec: ModelSpec, tiny_script: Script, snapshot: object
) -> None:
    engine = ScriptedBackend(tiny_spec, tiny_script)
    with pytest.raises(BackendError):
        engine.state.restore(snapshot)  # type: ignore[arg-type]


@pytest.mark.parametrize("shared", [False, True])
def test_integers_are_multiplied_exactly_on_every_processor(shared: bool) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def node(kind: str, inputs: str, output: str) -> onnx.NodeProto:
        return helper.make_node(kind, inputs.split(), [output])

    # The largest products there are: in 16 bits each two neighbours saturate.
    weights = np.tile(np.repeat(np.array([[127], [-127]], np.int8), 4, axis=0), (8, 8))
    products = [
        node("QuantizeLinear", "x one zero", "q"),
        node("DequantizeLinear", "q one zero", "x_q"),
        node("DequantizeLinear", "weights one", "w_1"),
        node("MatMul", "x_q w_1", "product_1"),
        node("DequantizeLinear", "weights one" if shared else "weights_2 one", "w_2"),
        node("MatMul", "x_q w_2", "product_2"),
    ]
    graph = helper.make_graph(
        products,
        "extremes",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 64])],
        [helper.make_tensor_value_info(f"product_{at}", TensorProto.FLOAT, [1, 1, 8]) for at in (1, 2)],
        [
            numpy_helper.from_array(np.float32(1), "one"),
            numpy_helper.from_array(np.uint8(0), "zero"),
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(weights, "weights_2"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    x = np.tile(np.repeat(np.array([255, 100], np.float32), 4), 8)[None, None]

    found = open_session(model.SerializeToString()).run(None, {"x": x})

    for product in found:
        np.testing.assert_array_equal(product, x @ weights.astype(np.float32))


def test_weights_outside_the_verified_graph_are_never_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_onnx: bytes, tiny_spec: ModelSpec
) -> None:
    import onnx

    model = onnx.load_from_string(tiny_onnx)
    gates = next(tensor for tensor in model.graph.initializer if tensor.name == "gates")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outside.bin").write_bytes(gates.raw_data)
    gates.ClearField("raw_data")
    gates.data_location = onnx.TensorProto.EXTERNAL
    gates.external_data.add(key="location", value="outside.bin")
    with pytest.raises(BackendError):
        OnnxRuntimeBackend(model.SerializeToString(), tiny_spec)


def test_a_script_that_forgets_a_piece_of_memory_is_told_so(tiny_spec: ModelSpec, tiny_script: Script) -> None:
    def script(pixels: Pixels, state: Arrays) -> tuple[Arrays, Arrays]:
        outputs, after = tiny_script(pixels, state)
        return outputs, {"h": after["h"]}

    with pytest.raises(BackendError):
        advance(ScriptedBackend(tiny_spec, script), tiny_frames(1, seed=0)[0])


@needs_openvino
@pytest.mark.parametrize("closed_by", ["the oldest first", "another thread"])
def test_a_signal_after_openvino_engines_were_closed_is_handled(
    tiny_bundle: Path, closed_by: str, tmp_path: Path
) -> None:
    # In a process of its own, which such a signal used to kill.
    program = f"""
        import signal, sys, threading
        import edge_cnnlstm

        def engine():
            return edge_cnnlstm.open({str(tiny_bundle)!r}, backend="openvino")

        first, second = engine(), engine()
        if {closed_by == "another thread"}:
            for stream in (second, first):
                thread = threading.Thread(target=stream.close)
                thread.start()
                thread.join()
        else:
            first.swap(second)
            first.close()
        del first, second
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
        signal.raise_signal(signal.SIGTERM)
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
        timeout=120,
    )
    assert ran.returncode == 7
