"""The TensorRT dialect: symmetric int8 Q/DQ around convolutions and gates, FP16 between them, c in FP32.

The gates stay unrolled: an ONNX LSTM operator becomes a loop in TensorRT. Types are explicit throughout, so a
strongly typed network needs no precision flag and no calibrator, in TensorRT 10.3 and in 11.4 alike.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from edge_cnnlstm.training.model import CnnLstm, Outputs, State
from export.qdq import ActivationQuantizer, QuantizedConv, QuantizedLinear, Range, WeightDequantizer
from export.quantize import Calibration, QuantizationPoint


def lower_trt(model: CnnLstm, calibration: Calibration) -> CnnLstm:
    """Return the calibrated network in TensorRT's dialect; frame uint8, state and outputs FP32 at the border.

    `model` is a `quantizable` network; the result computes in torch what its graph will compute.
    """
    lowered = TypedCnnLstm(model)
    for name, module in model.named_modules():
        seen = calibration.inputs.get(name)
        if isinstance(module, nn.Conv2d) and name in calibration.weights:
            conv_weight = WeightDequantizer(module.weight.detach(), calibration.weights[name], 0, torch.float16)
            lowered.set_submodule(name, QuantizedConv(module, _quantizer(seen), conv_weight, torch.float16))
        elif isinstance(module, nn.Linear) and name in calibration.weights:
            weight = WeightDequantizer(module.weight.detach().T, calibration.weights[name], 1, torch.float16)
            lowered.set_submodule(name, QuantizedLinear(module, _quantizer(seen), weight, torch.float16))
        elif isinstance(module, QuantizationPoint):
            # Only the map that convolutions read is quantized; the features feed the gates' own quantizer.
            shared = name == "backbone.stages." + str(len(model.backbone.stages) - 1)
            lowered.set_submodule(name, _quantizer(seen if shared else None))
    return lowered


def _quantizer(seen: Range | None) -> nn.Module:
    if seen is None:
        return nn.Identity()
    return ActivationQuantizer(seen.magnitude / 127, 0, torch.int8, torch.float16)


class TypedCnnLstm(CnnLstm):
    """`CnnLstm` computing in FP16 between an FP32 border, with c in FP32 throughout."""

    def __init__(self, model: CnnLstm) -> None:
        nn.Module.__init__(self)
        self.config = model.config
        for name, child in copy.deepcopy(model).half().named_children():
            self.add_module(name, child)
        self.normalise = NormaliseFrameHalf()

    def advance(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        x, after = super().advance(features, State(state.h.half(), state.c))
        return x, State(after.h.float(), after.c)

    def read(self, x: Tensor) -> Outputs:
        return {name: value.float() for name, value in super().read(x).items()}


class NormaliseFrameHalf(nn.Module):
    """(x − 128) / 64 in FP16, where every uint8 value has an exact result."""

    def forward(self, frame: Tensor) -> Tensor:
        # Cast before transpose: TensorRT accepts uint8 into a cast and nowhere else.
        return ((frame.half() - 128) * (1 / 64)).permute(0, 3, 1, 2)
