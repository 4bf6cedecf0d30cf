from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from edge_cnnlstm.errors import ParityError
from edge_cnnlstm.training.data.clip import Clip
from edge_cnnlstm.training.model import CnnLstm
from edge_cnnlstm.training.spec_of import spec_of
from export import controls
from export.measure import agreement, measure_graph, measure_network
from export.parity import Tolerance, prove_graph, relative_errors
from export.precisions import Precision
from export.rollout import OnnxSteps, torch_course, with_casts

Frames = NDArray[np.uint8]
SHIPPED = ["fp32", "fp16_tensorrt", "int8_tensorrt", "int8_onnxruntime"]


def resets_of(frames: Frames) -> NDArray[np.bool_]:
    return np.isin(np.arange(len(frames)), (0, 48, 130))


@pytest.mark.parametrize("name", [*SHIPPED, "mixed_tensorrt", "mixed_onnxruntime"])
def test_each_graph_computes_what_torch_computes(
    name: str,
    networks: dict[str, CnnLstm],
    graphs: dict[str, onnx.ModelProto],
    precisions: dict[str, Precision],
    frames: Frames,
) -> None:
    found = prove_graph(name, graphs[name], networks[name], frames, resets_of(frames), precisions[name].tolerance)

    assert found.largest <= precisions[name].tolerance.largest
    assert found.interleaved == 0
    assert set(found.controls) == {"one weight nudged", "h and c swapped", "states matched by sorted names"}
    assert len(found.curve.step) == len(found.curve.outputs) == len(found.curve.h) == len(found.curve.c) == 100


@pytest.mark.slow
def test_the_error_does_not_grow_over_a_thousand_steps(
    networks: dict[str, CnnLstm], graphs: dict[str, onnx.ModelProto], frames: Frames
) -> None:
    many = np.resize(frames, (1000, *frames.shape[1:]))
    never = np.zeros(len(many), np.bool_)
    exact = torch_course(networks["fp32"], many[:, None], never)
    for name in ("int8_tensorrt", "int8_onnxruntime"):
        found = OnnxSteps(graphs[name], spec_of(networks[name])).course(many[:, None], never)
        for tensor, errors in relative_errors(found, exact).items():
            assert np.median(errors[-300:]) <= 1.5 * np.median(errors[100:400]) + 1e-3, (name, tensor)


@pytest.mark.parametrize("name", SHIPPED)
def test_corrupted_graphs_fail_the_proof_and_name_where(
    name: str,
    networks: dict[str, CnnLstm],
    graphs: dict[str, onnx.ModelProto],
    precisions: dict[str, Precision],
    frames: Frames,
) -> None:
    tolerance, resets = precisions[name].tolerance, resets_of(frames)

    nudged = controls.with_nudged_weight(graphs[name])
    with pytest.raises(ParityError, match=r"strays from torch.*output of 'backbone\.stages_0(\.weight)?'"):
        prove_graph(name, nudged, networks[name], frames, resets, tolerance)
    swapped = controls.with_swapped_state(graphs[name], spec_of(networks[name]))
    with pytest.raises(ParityError, match=r"strays from torch.*how the memory was passed on"):
        prove_graph(name, swapped, networks[name], frames, resets, tolerance)


def test_a_fault_in_the_gates_is_named_there(
    networks: dict[str, CnnLstm], graphs: dict[str, onnx.ModelProto], precisions: dict[str, Precision], frames: Frames
) -> None:
    bad = onnx.ModelProto()
    bad.CopyFrom(graphs["int8_onnxruntime"])
    gates = next(
        tensor for tensor in bad.graph.initializer if "cells.0.gates_x" in tensor.name and len(tensor.dims) > 1
    )
    gates.CopyFrom(numpy_helper.from_array(-np.maximum(numpy_helper.to_array(gates), -127), gates.name))

    with pytest.raises(ParityError, match=r"output of 'cells\.0\.gates_x"):
        prove_graph(
            "int8_onnxruntime",
            bad,
            networks["int8_onnxruntime"],
            frames,
            resets_of(frames),
            precisions["int8_onnxruntime"].tolerance,
        )


def test_a_proof_that_cannot_fail_is_refused(
    networks: dict[str, CnnLstm], graphs: dict[str, onnx.ModelProto], frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = graphs["fp32"]
    monkeypatch.setattr(controls, "with_nudged_weight", lambda graph: graph)

    with pytest.raises(ParityError, match=r"(?s)with one weight nudged strays by only.*proves nothing"):
        prove_graph("fp32", sound, networks["fp32"], frames, resets_of(frames), Tolerance(1e-3, 1e-4))


def test_states_are_paired_as_listed_whatever_their_names_sort_like(
    networks: dict[str, CnnLstm], graphs: dict[str, onnx.ModelProto], frames: Frames
) -> None:
    spec = spec_of(networks["fp32"])
    renamed, by_order = controls.matched_by_sorted_names(graphs["fp32"], spec)
    swapped = {pair.input: pair.output for pair in by_order.states}
    listed = {"h": swapped["c"], "c": swapped["h"]}
    right = type(spec)(
        spec.frame,
        spec.fit,
        tuple(type(pair)(pair.input, listed[pair.input], pair.shape) for pair in spec.states),
        spec.outputs,
        spec.heads,
    )
    never = np.zeros(len(frames), np.bool_)
    expected = OnnxSteps(graphs["fp32"], spec).course(frames[:, None], never)

    assert np.array_equal(
        OnnxSteps(renamed, right).course(frames[:, None], never)["digit_logits"], expected["digit_logits"]
    )
    wrong = OnnxSteps(renamed, by_order).course(frames[:, None], never)["digit_logits"]
    assert np.abs(wrong - expected["digit_logits"]).max() > 0.1


def test_an_answer_of_nan_is_infinitely_far() -> None:
    good = {"x": np.array([[[1.0]], [[2.0]]], np.float32)}
    bad = {"x": np.array([[[1.0]], [[np.nan]]], np.float32)}

    assert relative_errors(bad, good)["x"].tolist() == [0.0, np.inf]
    assert relative_errors({"x": good["x"] * 1.5}, good)["x"].tolist() == [0.25, 0.5]


def test_classes_agree_with_torch_and_with_fp32_on_whole_clips(
    networks: dict[str, CnnLstm], graphs: dict[str, onnx.ModelProto], clips: list[Clip]
) -> None:
    heads = networks["fp32"].config.heads
    exact = measure_network(networks["fp32"], clips).answers
    for name in ("int8_tensorrt", "int8_onnxruntime"):
        network = networks[name]
        answers = measure_graph(graphs[name], spec_of(network), clips, heads).answers
        # The checkpoint of these tests has learnt for seconds: its classes are hardly apart, even in FP32.
        same, close = (
            agreement(answers, measure_network(network, clips).answers, heads),
            agreement(answers, exact, heads),
        )
        assert same is not None
        assert close is not None
        assert same >= 0.999
        assert close >= 0.95


def test_agreement_counts_frames_of_binary_and_of_many_classes() -> None:
    from edge_cnnlstm.training.config import HeadConfig

    odd = HeadConfig(name="odd", task="classify", labels=("even", "odd"))
    box = HeadConfig(name="target", task="track")
    one = [{"odd_logits": np.array([[0.5], [-0.5], [2.0], [1.0]], np.float32)}]
    other = [{"odd_logits": np.array([[0.1], [0.5], [3.0], [1.0]], np.float32)}]

    assert agreement(one, other, (odd,)) == 0.75
    assert agreement(one, other, (box,)) is None


def test_casts_keep_older_onnx_runtimes_off_a_kernel_that_truncates(
    networks: dict[str, CnnLstm], graphs: dict[str, onnx.ModelProto], frames: Frames
) -> None:
    name, never = "int8_tensorrt", np.zeros(len(frames), np.bool_)
    spec = spec_of(networks[name])

    changed = with_casts(graphs[name])

    casts = [sum(node.op_type == "Cast" for node in graph.graph.node) for graph in (graphs[name], changed)]
    assert casts[1] == casts[0] + 7
    plain, cast = (OnnxSteps(graph, spec).course(frames[:, None], never) for graph in (graphs[name], changed))
    assert np.median(relative_errors(cast, plain)["h_next"]) < 0.03
