"""Rollouts: the same frames and resets through torch and through an ONNX graph, every output and memory kept.

What travels is `Course`: by tensor name, [steps, …] as the graph's border names it, memories included at every step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edge_cnnlstm.runtime.backends.ort import open_session, quantizes_fp16
from edge_cnnlstm.spec import ModelSpec
from edge_cnnlstm.training.data.clip import Clip
from edge_cnnlstm.training.model import CnnLstm
from export.intervals import Intervals
from export.lower_trt import TypedCnnLstm

Course = dict[str, NDArray[np.float32]]
Frames = NDArray[np.uint8]
"""uint8 [steps, streams, height, width, 3]."""
Resets = NDArray[np.bool_]
"""bool [steps]: where every memory is emptied before the frame."""


def frames_of(clips: Sequence[Clip], steps: int) -> NDArray[np.uint8]:
    """Return the first `steps` frames of the clips, one clip after the other, again from the start if they run out."""
    frames = np.concatenate([clip.frames for clip in clips])
    return frames[np.arange(steps) % len(frames)]


def as_engines_compute(network: CnnLstm) -> CnnLstm:
    """Return what a lowered network's graph is held against in torch."""
    return network.fused() if isinstance(network, TypedCnnLstm) else network


@torch.inference_mode()
def torch_course(network: CnnLstm, frames: Frames, resets: Resets, dt: Intervals | None = None) -> Course:
    """Roll a network over frames, as engines compute it; on one thread, like the graphs that it is held against.

    Without `dt` no frame was missed.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _rolled(network, frames, resets, dt)
    finally:
        torch.set_num_threads(threads)


def _rolled(network: CnnLstm, frames: Frames, resets: Resets, dt: Intervals | None) -> Course:
    network, streams = as_engines_compute(network), frames.shape[1]
    told = [None] * len(frames) if dt is None else torch.from_numpy(dt)[..., None]
    empty = state = network.initial_state(streams)
    course: dict[str, list[NDArray[np.float32]]] = {}
    remembers = network.config.scan == "frames" and network.config.layers > 0
    for moment, reset, since in zip(torch.from_numpy(frames), resets, told, strict=True):
        outputs, state = network.step(moment, empty if reset else state, since)
        memory = {"h_next": state.h, "c_next": state.c} if remembers else {}
        for name, value in {**outputs, **memory}.items():
            course.setdefault(name, []).append(value.numpy().copy())
    return {name: np.stack(values) for name, values in course.items()}


class OnnxSteps:
    """A step graph in ONNX Runtime, fed by hand: as many streams as `spec` says, and any tensor on request.

    `optimize=False` runs it node by node, as written. So runs whatever computes in FP16: it is meant for TensorRT, and
    ONNX Runtime's optimizer moves its casts to where they change the rounding.
    """

    def __init__(self, graph: onnx.ModelProto, spec: ModelSpec, *, optimize: bool = True) -> None:
        in_fp16 = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.graph.initializer)
        model = graph if quantizes_fp16() or not fp16_quantizers(graph) else with_casts(graph)
        self._session = open_session(model.SerializeToString(), optimize=optimize and not in_fp16, batch=spec.batch)
        self._names = [output.name for output in self._session.get_outputs()]
        self._spec = spec
        self.memory: dict[str, NDArray[np.generic]] = {}
        self.reset()

    def reset(self) -> None:
        """Empty the memory."""
        self.memory = {pair.input: pair.zeros() for pair in self._spec.states}

    def step(self, frames: NDArray[np.uint8], dt: Intervals | None = None) -> dict[str, NDArray[np.float32]]:
        """Advance by one frame a stream, uint8 [streams, height, width, 3], and return everything that comes out.

        `dt` are seconds since the last, float32 [streams]; without, no frame was missed. A graph of sequences is fed so
        too, with a second dimension of steps.
        """
        fed = {self._spec.frame.name: frames, **self.memory}
        if self._spec.dt:
            fed[self._spec.dt.name] = np.zeros((*frames.shape[:-3], 1), np.float32) if dt is None else dt[..., None]
        found = self._session.run(self._names, fed)
        results = dict(zip(self._names, found, strict=True))
        self.memory = {pair.input: results[pair.output] for pair in self._spec.states}
        return results

    def course(self, frames: Frames, resets: Resets, dt: Intervals | None = None) -> Course:
        """Roll over frames, from an empty memory; without `dt` no frame was missed."""
        self.reset()
        course: dict[str, list[NDArray[np.float32]]] = {}
        for at, (moment, reset) in enumerate(zip(frames, resets, strict=True)):
            if reset:
                self.reset()
            for name, value in self.step(moment, None if dt is None else dt[at]).items():
                course.setdefault(name, []).append(value)
        return {name: np.stack(values) for name, values in course.items()}


def fp16_quantizers(graph: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    """Return the scale of each FP16 QuantizeLinear by the name of its output."""
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    constants |= {node.output[0]: node.attribute[0].t for node in graph.graph.node if node.op_type == "Constant"}
    scales = {
        node.output[0]: numpy_helper.to_array(constants[node.input[1]])
        for node in graph.graph.node
        if node.op_type == "QuantizeLinear"
    }
    return {name: scale for name, scale in scales.items() if scale.dtype == np.float16}


def with_casts(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy that computes the same without ONNX Runtime's FP16 QuantizeLinear, which truncated before 1.30.

    Only for measuring on the workstation: an exact cast to FP32 keeps the graph off that kernel. The bundle's graph
    stays as it is.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    scales = fp16_quantizers(graph)
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
