"""What a step costs on paper: multiplications and bytes per layer, and the least time that a board could take.

An estimate is a lower bound from published peak rates. It knows nothing of kernel launches, of caches, or of how well a
small layer fills a GPU; it ranks precisions, and no more. Where an engine can run, measure.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edge_cnnlstm.training.model import CnnLstm
from export.precisions import Precision

BYTES = {"int8": 1, "fp16": 2, "fp32": 4}


@dataclass(frozen=True, slots=True)
class LayerCost:
    """One layer in one step: multiply-accumulates, weights, and activations that it reads and writes."""

    macs: int
    weights: int
    activations: int


@dataclass(frozen=True, slots=True)
class Board:
    """Peak rates: bytes a second from memory, and multiply-accumulates a second by precision."""

    name: str
    bytes_per_second: float
    macs_per_second: dict[str, float]


ORIN_NANO = Board("Jetson Orin Nano 8 GB", 68e9, {"int8": 10e12, "fp16": 5e12, "fp32": 0.64e12})
"""As published: 68 GB/s, 1,024 cores at 625 MHz, 40 sparse INT8 TOPS: 20 dense, or 10 T multiply-accumulates."""


@dataclass(frozen=True, slots=True)
class Cost:
    """A step in one precision: multiply-accumulates by precision, and the bytes of weights and activations moved."""

    macs: dict[str, int]
    weight_bytes: int
    activation_bytes: int
    seconds: float


@torch.inference_mode()
def layer_costs(model: CnnLstm) -> dict[str, LayerCost]:
    """Count each convolution and matrix product of one step, by name; a layer that runs for every row counts each."""
    found: dict[str, LayerCost] = {}

    def count(name: str, module: nn.Conv2d | nn.Linear, image: Tensor, result: Tensor) -> None:
        before = found.get(name, LayerCost(0, module.weight.numel(), 0))
        per_output = module.weight[0].numel()
        activations = before.activations + image.numel() + result.numel()
        found[name] = LayerCost(before.macs + result.numel() * per_output, before.weights, activations)

    handles = [
        module.register_forward_hook(
            lambda layer, inputs, result, name=name: count(name, layer, inputs[0], result)  # one step, one stream
        )
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    frame = torch.zeros(1, model.config.height, model.config.width, 3, dtype=torch.uint8)
    model.step(frame, model.initial_state())
    for handle in handles:
        handle.remove()
    return found


def cost_of(precision: Precision, layers: dict[str, LayerCost], board: Board = ORIN_NANO) -> Cost:
    """Add up a step; each layer takes as long as its memory traffic or its arithmetic, whichever is longer."""
    macs, weight_bytes, activation_bytes, seconds = dict.fromkeys(BYTES, 0), 0, 0, 0.0
    for name, layer in layers.items():
        kind = "int8" if name in precision.layers else precision.rest
        macs[kind] += layer.macs
        weights, activations = layer.weights * BYTES[kind], layer.activations * BYTES[kind]
        weight_bytes, activation_bytes = weight_bytes + weights, activation_bytes + activations
        moved = (weights + activations) / board.bytes_per_second
        seconds += max(moved, layer.macs / board.macs_per_second[kind])
    return Cost(macs, weight_bytes, activation_bytes, seconds)
