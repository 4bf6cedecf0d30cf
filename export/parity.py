"""The golden rollout, and the proof that each graph computes what the trained network computes.

The reference is the lowered torch module itself, with the same integer arithmetic, so what remains to differ is
rounding. Two control graphs, one with the largest weight tensor's sign flipped and one with h and c swapped,
must fail the same comparison: a proof that nothing can fail is none.
"""

from __future__ import annotations

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edge_cnnlstm.bundle.golden import Golden
from edge_cnnlstm.errors import ParityError
from edge_cnnlstm.runtime.backends.ort import OnnxRuntimeBackend, quantizes_fp16
from edge_cnnlstm.runtime.proof import Deviation, deviation
from edge_cnnlstm.spec import ModelSpec
from edge_cnnlstm.training.data.clip import Clip
from edge_cnnlstm.training.model import CnnLstm

STEPS = 64
RESETS = (0, 16, 40)
"""A reset between clips, one in the middle of a clip, and a scene cut without one."""


def golden_rollout(references: dict[str, CnnLstm], clips: list[Clip]) -> Golden:
    """Roll each reference network over the first 64 frames of the clips and record what it says and remembers."""
    frames = np.concatenate([clip.frames for clip in clips])[:STEPS]
    resets = np.isin(np.arange(len(frames)), RESETS)
    return Golden(frames, resets, {name: _course(network, frames, resets) for name, network in references.items()})


@torch.inference_mode()
def _course(network: CnnLstm, frames: NDArray[np.uint8], resets: NDArray[np.bool_]) -> dict[str, NDArray[np.generic]]:
    state = network.initial_state()
    course: dict[str, list[NDArray[np.generic]]] = {}
    for frame, reset in zip(torch.from_numpy(frames), resets, strict=True):
        outputs, state = network.step(frame[None], network.initial_state() if reset else state)
        for name, value in outputs.items():
            course.setdefault(name, []).append(value[0].numpy())
    return {name: np.stack(values) for name, values in course.items()} | {
        "h_next": state.h.numpy(),
        "c_next": state.c.numpy(),
    }


def prove_graph(name: str, graph: onnx.ModelProto, spec: ModelSpec, golden: Golden, tolerance: float) -> Deviation:
    """Run a graph over the golden rollout, and its control.

    Raises ParityError when the graph strays further than `tolerance`, naming the tensor that strays most, or
    when the control does not.
    """
    found = _deviation(graph, spec, golden, name)
    if not found.largest <= tolerance:
        raise ParityError(
            f"graph {name!r} strays from torch by {found.largest:.3g} over {STEPS} steps, most in {found.worst!r}",
            expected=f"at most {tolerance:.3g}",
            fix="look for an operator that the lowering or ONNX Runtime computes differently",
        )
    for control in (with_flipped_weights(graph), with_swapped_state(graph, spec)):
        strayed = _deviation(control, spec, golden, name)
        if strayed.largest <= tolerance:
            raise ParityError(
                f"a corrupted control of graph {name!r} strays by only {strayed.largest:.3g}",
                expected=f"more than {tolerance:.3g}: otherwise the proof proves nothing",
                fix="tighten the tolerance, or use a rollout that excites the network",
            )
    return found


def with_flipped_weights(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which the largest weight tensor has the opposite sign."""
    control = onnx.ModelProto()
    control.CopyFrom(graph)
    largest = max(control.graph.initializer, key=lambda tensor: int(np.prod(tensor.dims)))
    weights = numpy_helper.to_array(largest)
    # Clipped, because −(−128) does not exist in int8.
    flipped = -np.maximum(weights, np.array(-127, weights.dtype))
    largest.CopyFrom(numpy_helper.from_array(flipped, largest.name))
    return control


def with_swapped_state(graph: onnx.ModelProto, spec: ModelSpec) -> onnx.ModelProto:
    """Return a copy in which the first two state outputs have each other's names."""
    control = onnx.ModelProto()
    control.CopyFrom(graph)
    first, second = (pair.output for pair in spec.states[:2])
    other = {first: second, second: first}
    for node in control.graph.node:
        node.output[:] = [other.get(name, name) for name in node.output]
        node.input[:] = [other.get(name, name) for name in node.input]
    return control


def load(graph: onnx.ModelProto, spec: ModelSpec) -> OnnxRuntimeBackend:
    """Load a graph so that the installed ONNX Runtime computes it right.

    Before 1.30 its FP16 QuantizeLinear truncates instead of rounding. There, and only for measuring on the
    workstation, an exact cast to FP32 keeps the graph off that kernel; the bundle's graph stays as it is.
    """
    if quantizes_fp16() or not _fp16_quantizers(graph):
        return OnnxRuntimeBackend(graph.SerializeToString(), spec)
    # Unoptimized, because the optimizer would move those casts to where they change the rounding.
    return OnnxRuntimeBackend(_with_casts(graph).SerializeToString(), spec, optimize=False)


def _fp16_quantizers(graph: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    """Return the scale of each FP16 QuantizeLinear by the name of its output."""
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    constants |= {node.output[0]: node.attribute[0].t for node in graph.graph.node if node.op_type == "Constant"}
    scales = {
        node.output[0]: numpy_helper.to_array(constants[node.input[1]])
        for node in graph.graph.node
        if node.op_type == "QuantizeLinear"
    }
    return {name: scale for name, scale in scales.items() if scale.dtype == np.float16}


def _with_casts(graph: onnx.ModelProto) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    scales = _fp16_quantizers(graph)
    nodes = list(changed.graph.node)
    del changed.graph.node[:]
    for node in nodes:
        scale = scales.get(node.output[0])
        if scale is not None:
            wide, wide_scale = f"{node.output[0]}_input", f"{node.output[0]}_scale"
            changed.graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), wide_scale))
            changed.graph.node.append(helper.make_node("Cast", [node.input[0]], [wide], to=onnx.TensorProto.FLOAT))
            node.input[0], node.input[1] = wide, wide_scale
        changed.graph.node.append(node)
    return changed


def _deviation(graph: onnx.ModelProto, spec: ModelSpec, golden: Golden, name: str) -> Deviation:
    backend = load(graph, spec)
    try:
        return deviation(backend, golden, golden.expected[name])
    finally:
        backend.close()
