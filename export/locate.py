"""Where a graph first departs from its network: every layer's output, torch beside ONNX, from the same memory."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_cnnlstm.training.model import CnnLstm, State
from edge_cnnlstm.training.spec_of import spec_of
from export.intervals import Intervals
from export.rollout import Course, OnnxSteps, as_engines_compute

CLOSE = 0.05
"""Relative error of a layer that counts as rounding: a few of 127 steps, which sums add up to."""


def first_disagreement(
    graph: onnx.ModelProto,
    network: CnnLstm,
    frames: NDArray[np.uint8],
    expected: Course,
    step: int,
    dt: Intervals | None = None,
) -> str:
    """Return which layer's output differs first at a step that both begin with torch's memory of the step before."""
    since = None if dt is None else dt[step]
    spec = spec_of(network)
    state = network.initial_state()
    if step and spec.states:
        state = State(*(torch.from_numpy(expected[pair.output][step - 1]) for pair in spec.states))
    told = None if since is None else torch.from_numpy(since)[:, None]
    layers = _layer_outputs(as_engines_compute(network), torch.from_numpy(frames[step : step + 1]), state, told)
    exposed, tensors = _exposed(graph, layers)
    steps = OnnxSteps(exposed, spec, optimize=False)
    steps.memory = {pair.input: value.numpy() for pair, value in zip(spec.states, state, strict=False)}
    found = steps.step(frames[step : step + 1], since)
    for name, tensor in tensors.items():
        wanted = layers[name].float().numpy()
        got = found[tensor].astype(np.float32)
        scale = float(np.abs(wanted).max()) or 1.0
        if got.size == wanted.size and not np.abs(got.reshape(wanted.shape) - wanted).max() <= CLOSE * scale:
            return f"at step {step} the first tensor that disagrees is the output of {name!r}"
    return f"at step {step} every layer agrees within {CLOSE:.0%}: what differs is how the memory was passed on"


def _layer_outputs(network: CnnLstm, frame: Tensor, state: State, dt: Tensor | None) -> dict[str, Tensor]:
    """Run one step and return what each layer without layers inside put out, in the order that they ran."""
    outputs: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: outputs.update({name: output}))
        for name, module in network.named_modules()
        if not list(module.children()) and not isinstance(module, nn.Identity)
    ]
    with torch.inference_mode():
        network.step(frame, state, dt)
    for handle in handles:
        handle.remove()
    return outputs


def _exposed(graph: onnx.ModelProto, layers: dict[str, Tensor]) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Return a copy that also puts out the last tensor of each layer, and that tensor's name by layer."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(graph)
    known = {output.name for output in graph.graph.output}
    tensors = {}
    for layer in layers:
        made = [node for node in graph.graph.node if node.name.startswith(_scope(layer))]
        if made:
            tensors[layer] = made[-1].output[0]
    for tensor in set(tensors.values()) - known:
        exposed.graph.output.append(onnx.ValueInfoProto(name=tensor))
    return exposed, tensors


def _scope(layer: str) -> str:
    """Return what the names of a layer's nodes begin with: `cells.0.gates_x` → `/cells.0/gates_x/`."""
    parts: list[str] = []
    for part in layer.split("."):
        if part.isdigit():
            parts[-1] += f".{part}"
        else:
            parts.append(part)
    return f"/{'/'.join(parts)}/"
