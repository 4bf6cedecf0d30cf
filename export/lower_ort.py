"""The CPU dialect: uint8 activations × int8 weights, the raw frame straight into the first convolution.

ONNX Runtime fuses that pairing to integer convolutions; symmetric int8 activations it runs half in FP32. The
memory is one fused LSTM operator per layer in FP32: quantizing each gate on its own costs more in Q/DQ than
the small matrices save.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function

from edge_cnnlstm.training.model import CnnLstm, lstm_update
from export.qdq import ActivationQuantizer, QuantizedConv, Range, WeightDequantizer, dequantize_frame
from export.quantize import Calibration, QuantizationPoint, SplitCell


def lower_ort(model: CnnLstm, calibration: Calibration) -> CnnLstm:
    """Return the calibrated network in the dialect that ONNX Runtime and OpenVINO are fast in.

    `model` is a `quantizable` network; the result computes in torch what its graph will compute.
    """
    lowered = copy.deepcopy(model)
    lowered.normalise = FrameAsQuantized()
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and name in calibration.weights:
            weight = WeightDequantizer(module.weight.detach(), calibration.weights[name], 0, torch.float32)
            # The first convolution reads the frame, which is quantized by nature.
            reads = calibration.inputs.get(name) if name != _first(calibration) else None
            lowered.set_submodule(name, QuantizedConv(module, _quantizer(reads), weight, torch.float32))
        elif isinstance(module, QuantizationPoint):
            lowered.set_submodule(name, _quantizer(calibration.inputs[name]))
    lowered.cells = nn.ModuleList(FusedCell(cast("SplitCell", cell)) for cell in model.cells)
    return lowered


def _first(calibration: Calibration) -> str:
    return next(iter(calibration.inputs))


def _quantizer(seen: Range | None) -> nn.Module:
    """uint8 with zero point 0 for what is never negative (twice the resolution), 128 for the rest."""
    if seen is None:
        return nn.Identity()
    if seen.low >= 0:
        return ActivationQuantizer(seen.magnitude / 255, 0, torch.uint8, torch.float32)
    return ActivationQuantizer(seen.magnitude / 127, 128, torch.uint8, torch.float32)


# ruff: noqa: ARG004 - `ctx` is torch's calling convention for autograd functions


class FrameAsQuantized(nn.Module):
    """uint8 [batch, height, width, 3] → float32 [batch, 3, height, width], by scale 1/64 and zero point 128."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(1 / 64))
        self.register_buffer("zero_point", torch.tensor(128, dtype=torch.uint8))

    def forward(self, frame: Tensor) -> Tensor:
        return dequantize_frame(frame.permute(0, 3, 1, 2), self.scale, self.zero_point)


class FusedCell(nn.Module):
    """An LSTM cell in FP32 that traces to one ONNX LSTM operator over a sequence of one.

    Weights are kept as the operator wants them: [1, 4 × hidden, …], gates in the order input, output, forget,
    cell, and a second bias, of zeros, for the recurrence.
    """

    inputs: Tensor
    recurrence: Tensor
    bias: Tensor

    def __init__(self, cell: SplitCell) -> None:
        super().__init__()
        bias = _reordered(cell.gates_x.bias.detach(), "ifgo", "iofg")
        self.register_buffer("inputs", _reordered(cell.gates_x.weight.detach(), "ifgo", "iofg")[None])
        self.register_buffer("recurrence", _reordered(cell.gates_h.weight.detach(), "ifgo", "iofg")[None])
        self.register_buffer("bias", torch.cat([bias, torch.zeros_like(bias)])[None])

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = _FusedLstm.apply(  # type: ignore[no-untyped-call]  # torch's apply
            x[None], self.inputs, self.recurrence, self.bias, h[None], c[None]
        )
        h_next, c_next = result
        return h_next[0], c_next[0]


class _FusedLstm(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, inputs: Tensor, recurrence: Tensor, bias: Tensor, h: Tensor, c: Tensor
    ) -> tuple[Tensor, Tensor]:
        first, second = bias[0].chunk(2)
        gates = x[0] @ inputs[0].T + h[0] @ recurrence[0].T + first + second
        h_next, c_next = lstm_update(_reordered(gates.T, "iofg", "ifgo").T, c[0])
        return h_next[None], c_next[None]

    @staticmethod
    def symbolic(graph: Any, x: Any, inputs: Any, recurrence: Any, bias: Any, h: Any, c: Any) -> tuple[Any, Any]:
        lengths = graph.op("prim::Constant")  # an absent optional input: every sequence is as long as x
        lengths.setType(torch._C.OptionalType.ofTensor())  # noqa: SLF001 - torch has no public name for it
        _, h_next, c_next = graph.op(
            "LSTM", x, inputs, recurrence, bias, lengths, h, c, hidden_size_i=h.type().sizes()[-1], outputs=3
        )
        return h_next.setType(h.type()), c_next.setType(c.type())


def _reordered(gates: Tensor, have: str, want: str) -> Tensor:
    """Reorder the four blocks of rows, one per gate: input, forget, candidate (g), output."""
    blocks = dict(zip(have, gates.chunk(4), strict=True))
    return torch.cat([blocks[gate] for gate in want])
