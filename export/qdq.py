"""Explicit quantization: the same int8 arithmetic in torch and in ONNX.

Each function here computes in torch exactly what the QuantizeLinear and DequantizeLinear nodes that it traces
to will compute, so the lowered torch module is the reference that its ONNX graph is held against.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

# ruff: noqa: ARG004 - `ctx` is torch's calling convention for autograd functions


SMALLEST_SCALE = 2.0**-14
"""FP16's smallest normal number: a channel of zeros has no scale, and TensorRT refuses one that rounds to 0."""
EXACT_BITS = 4
"""Significant bits of a scale in FP16. With the 7 of an int8 value they are the 11 that FP16 holds."""


class _QuantizeDequantize(Function):
    """x → (clamp(round(x / scale) + zero point) − zero point) · scale, per tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        limits = torch.iinfo(zero_point.dtype)
        zero = zero_point.float()
        quantized = torch.clamp(torch.round(x.float() / scale.float()) + zero, limits.min, limits.max)
        return ((quantized - zero) * scale.float()).to(scale.dtype)

    @staticmethod
    def symbolic(graph: Any, x: Any, scale: Any, zero_point: Any) -> Any:
        quantized = graph.op("QuantizeLinear", x, scale, zero_point)
        return graph.op("DequantizeLinear", quantized, scale, zero_point).setType(x.type())


class _Dequantize(Function):
    """q → (q − zero point) · scale; both run along `axis` when they are vectors."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
        shape = [-1 if i == axis else 1 for i in range(q.ndim)] if scale.ndim else []
        values = (q.float() - zero_point.float().reshape(shape)) * scale.float().reshape(shape)
        return values.to(scale.dtype)

    @staticmethod
    def symbolic(graph: Any, q: Any, scale: Any, zero_point: Any, axis: int) -> Any:
        sizes = q.type().sizes()
        return graph.op("DequantizeLinear", q, scale, zero_point, axis_i=axis).setType(scale.type().with_sizes(sizes))


@dataclass(frozen=True, slots=True)
class Range:
    """What calibration saw of one activation: its smallest value and its largest magnitude."""

    low: float
    magnitude: float


def scale_of(step: Tensor, dtype: torch.dtype) -> Tensor:
    """Return quantization steps as scales of a type; in FP16, the next larger with four significant bits.

    Then integer × scale is exact in FP16, and it makes no difference whether an engine multiplies the integers, or
    rounds what it dequantizes first: without this, one value in five of a layer's output differs between the two.
    """
    scale = step.float().clamp(min=SMALLEST_SCALE)
    if dtype == torch.float16:
        mantissa, exponent = torch.frexp(scale)
        scale = torch.ldexp(torch.ceil(mantissa * 2**EXACT_BITS), exponent - EXACT_BITS)
    return scale.to(dtype)


class ActivationQuantizer(nn.Module):
    """Q/DQ of one activation with a fixed scale; what is wider than `dtype` is first rounded to it."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, scale: float, zero_point: int, integer: torch.dtype, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("scale", scale_of(torch.tensor(scale), dtype))
        self.register_buffer("zero_point", torch.tensor(zero_point, dtype=integer))
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != self.dtype:
            x = x.to(self.dtype).to(x.dtype)
        result: Tensor = _QuantizeDequantize.apply(x, self.scale, self.zero_point)  # type: ignore[no-untyped-call]  # as torch has it
        return result


class WeightDequantizer(nn.Module):
    """int8 weights with one scale per output channel, quantized once, here."""

    quantized: Tensor
    scale: Tensor
    zero_point: Tensor
    values: Tensor

    def __init__(self, weight: Tensor, magnitude: Tensor, axis: int, dtype: torch.dtype) -> None:
        super().__init__()
        scale = scale_of(magnitude.flatten() / 127, dtype)
        along = [-1 if i == axis else 1 for i in range(weight.ndim)]
        quantized = torch.clamp(torch.round(weight.float() / scale.float().reshape(along)), -127, 127)
        self.axis = axis
        self.register_buffer("quantized", quantized.to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", torch.zeros(len(scale), dtype=torch.int8))
        self.register_buffer("values", self._dequantized(), persistent=False)

    def forward(self) -> Tensor:
        # A graph dequantizes; torch, which would do so at every step, has it done already.
        return self._dequantized() if torch.onnx.is_in_onnx_export() else self.values

    def _dequantized(self) -> Tensor:
        result: Tensor = _Dequantize.apply(self.quantized, self.scale, self.zero_point, self.axis)  # type: ignore[no-untyped-call]  # as torch has it
        return result


class QuantizedConv(nn.Module):
    """A convolution with int8 weights over an activation that is quantized already."""

    def __init__(self, conv: nn.Conv2d, weight: WeightDequantizer, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = weight
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().to(dtype))
        self.stride, self.padding = conv.stride, conv.padding
        self.dilation, self.groups = conv.dilation, conv.groups

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight(), self.bias, self.stride, self.padding, self.dilation, self.groups)


class QuantizedLinear(nn.Module):
    """A linear map with int8 weights [inputs, outputs], so stored that no transpose is needed, of a quantized input."""

    def __init__(self, linear: nn.Linear, weight: WeightDequantizer, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = weight
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach().to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        product = torch.matmul(x, self.weight())
        return product if self.bias is None else product + self.bias


def dequantize_frame(frame: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Read a uint8 tensor as (x − zero point) · scale; traces to one DequantizeLinear."""
    result: Tensor = _Dequantize.apply(frame, scale, zero_point, 1)  # type: ignore[no-untyped-call]  # as torch has it
    return result
