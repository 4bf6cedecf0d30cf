"""Where activations are quantized: once, where they are made, for everyone who reads them.

An int8 layer needs its input quantized. A CPU also needs its output quantized (after its activation, if that is a
rectifier), or the engine leaves the integers and comes back. Max pooling and reshaping change no value, so whoever
reads behind them reads what was quantized before them.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Container, Iterator
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from edge_cnnlstm.training.model import CnnLstm, LstmCell, lstm_update

RECTIFIERS = (nn.ReLU, nn.ReLU6)
"""Activations that a quantizer with zero point 0 computes by saturating."""
KEEPS_VALUES = (nn.MaxPool2d, nn.AdaptiveMaxPool2d, nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout2d)
KEEPS_VALUES_CALLED = {
    *(torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze, torch.unsqueeze),
    *(functional.max_pool2d, functional.adaptive_max_pool2d, functional.dropout),
    *("flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze", "contiguous", "amax"),
}
IMAGE = "image"


class QuantizationPoint(nn.Identity):
    """A place where an activation may be quantized.

    `read_by` are the layers, by name, whose input it is. `made_by` is the convolution whose output it is, and
    `rectifier` the activation in between, if there is one. `is_frame` marks the normalised frame. `low` and
    `magnitude` are the smallest value that calibration saw here, and the largest without its sign.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read_by: set[str] = set()
        self.made_by: str | None = None
        self.rectifier: str | None = None
        self.is_frame = False
        self.low, self.magnitude = math.inf, 0.0

    def serves(self, layers: Container[str], *, outputs: bool) -> bool:
        """Whether one of these int8 layers needs this activation quantized; `outputs` counts those that make it too."""
        return any(name in layers for name in self.read_by) or (outputs and self.made_by in layers)


class SplitCell(nn.Module):
    """An LSTM cell whose gates read x and h through two linear maps, so that each has a scale of its own.

    x is what a rectifier left, without bound; h lies in (−1, 1). One shared scale would leave h a handful of
    the 256 levels. Equal to `LstmCell` but for the order of one addition. Where x and h are FP16, everything behind the
    matrix products is computed in FP32: a few thousand numbers, and engines that round between them or do not
    would tell different stories of when to forget.
    """

    def __init__(self, cell: LstmCell) -> None:
        super().__init__()
        weight, bias = cell.gates.weight.detach(), cell.gates.bias.detach()
        hidden = len(bias) // 4
        inputs = weight.shape[1] - hidden
        self.point_x: nn.Module = nn.Identity()
        self.point_h: nn.Module = QuantizationPoint()
        self.gates_x = nn.Linear(inputs, 4 * hidden)
        self.gates_h = nn.Linear(hidden, 4 * hidden, bias=False)
        self.gates_x.weight, self.gates_x.bias = nn.Parameter(weight[:, :inputs].clone()), nn.Parameter(bias.clone())
        self.gates_h.weight = nn.Parameter(weight[:, inputs:].clone())

    def forward(
        self, x: Tensor, h: Tensor | None, c: Tensor | None, shift: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        gates = self.gates_x(self.point_x(x)).float()
        if h is not None:
            gates = gates + self.gates_h(self.point_h(h)).float()
        h_next, c_next = lstm_update(gates if shift is None else gates + shift, c)
        return h_next.to(x.dtype), c_next


def quantizable(folded: CnnLstm) -> CnnLstm:
    """Return a copy of a folded network with split gates and every quantization point; it computes the same."""
    model = copy.deepcopy(folded)
    model.cells = nn.ModuleList(SplitCell(cast("LstmCell", cell)) for cell in model.cells)
    for index, cell in enumerate(cast("list[SplitCell]", list(model.cells))):
        point = cast("QuantizationPoint", cell.point_h)
        point.read_by = {f"cells.{index}.gates_h"}
        if index:
            cell.point_x = above = QuantizationPoint()
            above.read_by = {f"cells.{index}.gates_x"}
    traced = cast("fx.GraphModule", model.get_submodule("backbone"))
    _Insertion(traced).run("cells.0.gates_x" if len(model.cells) else "dense.0")
    return model


def quantized_layers(model: CnnLstm) -> tuple[str, ...]:
    """Return the layers of a quantizable network that can be int8, by name, in the order that they compute.

    The heads are not among them: a few thousand weights that decide everything stay in floating point.
    """
    return tuple(
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and not name.startswith("heads.")
    )


def points(model: nn.Module) -> Iterator[tuple[str, QuantizationPoint]]:
    """Yield every quantization point by name."""
    for name, module in model.named_modules():
        if isinstance(module, QuantizationPoint):
            yield name, module


class _Insertion:
    """Puts the points into one traced backbone."""

    def __init__(self, traced: fx.GraphModule) -> None:
        self.traced = traced
        self.modules = dict(traced.named_modules())
        self.calls = Counter(node.target for node in traced.graph.nodes if node.op == "call_module")
        self.points: dict[fx.Node, QuantizationPoint] = {}

    def run(self, reader: str) -> None:
        """Insert all points; `reader` is the layer that reads what the backbone returns."""
        nodes = list(self.traced.graph.nodes)
        for node in nodes:
            module = self._module(node)
            if isinstance(module, nn.Conv2d | nn.Linear):
                self._point(self._origin(node.all_input_nodes[0])).read_by.add(f"backbone.{node.target}")
            if isinstance(module, nn.Conv2d):
                self._mark_output(node)
            if node.op == "output":
                self._point(self._origin(node.all_input_nodes[0])).read_by.add(reader)
        for node in nodes:
            if node in self.points:
                self._insert(node, self.points[node])
        self.traced.graph.lint()
        self.traced.recompile()

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.modules.get(str(node.target)) if node.op == "call_module" else None

    def _origin(self, node: fx.Node) -> fx.Node:
        """Return where a tensor's values were made."""
        while isinstance(self._module(node), KEEPS_VALUES) or (
            node.op in {"call_function", "call_method"} and node.target in KEEPS_VALUES_CALLED
        ):
            node = node.all_input_nodes[0]
        return node

    def _mark_output(self, convolution: fx.Node) -> None:
        reader = next(iter(convolution.users))
        rectified = len(convolution.users) == 1 and isinstance(self._module(reader), RECTIFIERS)
        point = self._point(reader if rectified else convolution)
        point.made_by = f"backbone.{convolution.target}"
        # One rectifier that serves many convolutions cannot be taken out for one of them.
        point.rectifier = f"backbone.{reader.target}" if rectified and self.calls[reader.target] == 1 else None

    def _point(self, origin: fx.Node) -> QuantizationPoint:
        point = self.points.setdefault(origin, QuantizationPoint())
        point.is_frame = origin.op == "placeholder"
        return point

    def _insert(self, origin: fx.Node, point: QuantizationPoint) -> None:
        name = f"point_{IMAGE if point.is_frame else origin.name}"
        self.traced.add_submodule(name, point)
        with self.traced.graph.inserting_after(origin):
            inserted = self.traced.graph.call_module(name, (origin,))
        origin.replace_all_uses_with(inserted, delete_user_cb=lambda user: user is not inserted)
