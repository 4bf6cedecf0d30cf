"""The CPU dialect: uint8 activations × int8 weights, the raw frame straight into the first convolution.

CPU engines fuse that pairing to integer operations; symmetric int8 activations they run half in FP32. Rectifiers
vanish: a quantizer that saturates at 0 computes them. The gates multiply integers too and are summed in FP32. An LSTM
operator, in FP32 or dynamically quantized, was measured to be no faster in ONNX Runtime and much slower in OpenVINO.
"""

from __future__ import annotations

import copy
from collections.abc import Container
from typing import cast

import torch
from torch import Tensor, nn

from edge_cnnlstm.training.model import CnnLstm
from export.points import RECTIFIERS, points
from export.qdq import ActivationQuantizer, QuantizedConv, Range, WeightDequantizer, dequantize_frame
from export.quantize import Calibration


def lower_ort(model: CnnLstm, calibration: Calibration, layers: Container[str]) -> CnnLstm:
    """Return the network in the dialect that ONNX Runtime and OpenVINO are fast in.

    `model` is a `quantizable` network, of which `layers` become int8 and the rest FP32; the result computes in torch
    what its graph will compute.
    """
    lowered = copy.deepcopy(model)
    quantizers: dict[str, nn.Module] = {}
    for name, point in points(model):
        quantizer: nn.Module = nn.Identity()
        if point.is_frame and point.serves(layers, outputs=True):
            # The frame is quantized by nature.
            lowered.normalise = FrameAsQuantized()
        elif point.serves(layers, outputs=True):
            rectifier = model.get_submodule(point.rectifier) if point.rectifier else None
            quantizer = _quantizer(calibration.activations[name], rectifier)
            if point.rectifier:
                lowered.set_submodule(point.rectifier, nn.Identity())
        lowered.set_submodule(name, quantizer)
        quantizers |= dict.fromkeys(point.read_by, quantizer)
    for name, module in model.named_modules():
        if name in layers and isinstance(module, nn.Conv2d):
            weight = WeightDequantizer(module.weight.detach(), calibration.weights[name], 0, torch.float32)
            convolution = QuantizedConv(module, weight, torch.float32)
            _round_bias(convolution, _scale(lowered, quantizers[name]))
            lowered.set_submodule(name, convolution)
        elif name in layers and isinstance(module, nn.Linear):
            weight = WeightDequantizer(module.weight.detach().T, calibration.weights[name], 1, torch.float32)
            lowered.set_submodule(name, IntegerLinear(module, copy.deepcopy(quantizers[name]), weight))
    return lowered


def _scale(lowered: CnnLstm, quantizer: nn.Module) -> Tensor:
    """Return the scale of a layer's input; the one without a quantizer is the frame's."""
    made = lowered.normalise if isinstance(quantizer, nn.Identity) else quantizer
    return cast("Tensor", made.scale)


def _round_bias(convolution: QuantizedConv, scale: Tensor) -> None:
    """Round the bias to the step that integer products are counted in, as CPU engines do: they add it as int32."""
    if convolution.bias is not None:
        step = scale * convolution.weight.scale
        convolution.bias.data = torch.round(convolution.bias.data / step) * step


def _quantizer(seen: Range, rectifier: nn.Module | None) -> nn.Module:
    """uint8 with zero point 0 for what is never negative (twice the resolution), 128 for the rest."""
    if isinstance(rectifier, RECTIFIERS) or seen.low >= 0:
        highest = min(seen.magnitude, 6.0) if isinstance(rectifier, nn.ReLU6) else seen.magnitude
        return ActivationQuantizer(highest / 255, 0, torch.uint8, torch.float32)
    return ActivationQuantizer(seen.magnitude / 127, 128, torch.uint8, torch.float32)


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


class IntegerLinear(nn.Module):
    """A linear map of int8 weights and a uint8 input.

    Its quantizer is the one of the point that its input was made at. Asking again loses nothing, and tells the engine
    behind a reshape or a concatenation that these are integers.
    """

    def __init__(self, linear: nn.Linear, quantizer: nn.Module, weight: WeightDequantizer) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.weight = weight
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        # In two dimensions ONNX Runtime would fuse product and sum to a Gemm, in FP32, before it looks for integers.
        product: Tensor = torch.matmul(self.quantizer(x)[:, None], self.weight())[:, 0]
        return product if self.bias is None else product + self.bias
