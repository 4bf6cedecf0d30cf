"""The TensorRT dialect: symmetric int8 Q/DQ around convolutions and gates, FP16 between them, c in FP32.

The gates stay unrolled: an ONNX LSTM operator becomes a loop in TensorRT. Types are explicit throughout, so a
strongly typed network needs no precision flag and no calibrator, in TensorRT 10.3 and in 11.4 alike.
"""

from __future__ import annotations

import copy
from collections.abc import Container

import torch
from torch import Tensor, nn

from edge_cnnlstm.training.model import CnnLstm, Outputs, State
from export.points import points
from export.qdq import ActivationQuantizer, QuantizedConv, QuantizedLinear, Range, WeightDequantizer
from export.quantize import Calibration


def lower_trt(model: CnnLstm, calibration: Calibration, layers: Container[str]) -> CnnLstm:
    """Return the network in TensorRT's dialect; frame uint8, state and outputs FP32 at the border.

    `model` is a `quantizable` network, of which `layers` become int8 and the rest FP16; the result computes in torch
    what its graph will compute.
    """
    lowered = TypedCnnLstm(model)
    for name, point in points(model):
        active = point.serves(layers, outputs=False)
        lowered.set_submodule(name, _quantizer(calibration.activations[name]) if active else nn.Identity())
    for name, module in model.named_modules():
        if name not in layers:
            continue
        if isinstance(module, nn.Conv2d):
            weight = WeightDequantizer(module.weight.detach(), calibration.weights[name], 0, torch.float16)
            lowered.set_submodule(name, QuantizedConv(module, weight, torch.float16))
        elif isinstance(module, nn.Linear):
            weight = WeightDequantizer(module.weight.detach().T, calibration.weights[name], 1, torch.float16)
            lowered.set_submodule(name, QuantizedLinear(module, weight, torch.float16))
    return lowered


def _quantizer(seen: Range) -> nn.Module:
    return ActivationQuantizer(seen.magnitude / 127, 0, torch.int8, torch.float16)


class TypedCnnLstm(CnnLstm):
    """`CnnLstm` computing in FP16 between an FP32 border, with c in FP32 throughout."""

    def __init__(self, model: CnnLstm) -> None:
        nn.Module.__init__(self)
        self.config = model.config
        for name, child in copy.deepcopy(model).half().named_children():
            self.add_module(name, child)
        # Answers in their own units may lie beyond FP16's range: the heads multiply in FP16 and scale in FP32.
        for head in self.heads:
            for buffer in head.buffers():
                buffer.data = buffer.data.float()
        self.missed = copy.deepcopy(model.missed)
        self.normalise = NormaliseFrameHalf()

    def read(self, x: Tensor) -> Outputs:
        return {name: value.float() for name, value in super().read(x).items()}

    def _remember(self, x: Tensor, state: State | None, shift: Tensor | None = None) -> tuple[Tensor, State]:
        x, after = super()._remember(x, state and State(state.h.to(x.dtype), state.c), shift)
        return x, State(after.h.float(), after.c)

    def fused(self) -> TypedCnnLstm:
        """Return a copy that computes as engines do that fuse operators: FP16 is rounded to only where it is quantized.

        ONNX Runtime runs the graph so on a CPU. TensorRT fuses convolutions with what follows them, and pointwise
        operators with each other.
        """
        return copy.deepcopy(self).float()


class NormaliseFrameHalf(nn.Module):
    """(x − 128) / 64 in FP16, where every uint8 value has an exact result."""

    unit: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("unit", torch.tensor(1 / 64, dtype=torch.float16))

    def forward(self, frame: Tensor) -> Tensor:
        # Cast before transpose: TensorRT accepts uint8 into a cast and nowhere else.
        return ((frame.to(self.unit.dtype) - 128) * self.unit).permute(0, 3, 1, 2)
