"""What a step has to do: multiply-accumulates and bytes of each layer of an ONNX graph, for one stream."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, shape_inference

MULTIPLYING = {
    "Conv": (0, 1, 2),
    "ConvInteger": (0, 1, None),
    "QLinearConv": (0, 3, 8),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1, None),
    "MatMulInteger": (0, 1, None),
    "QLinearMatMul": (0, 3, None),
}
"""Operators that multiply and add up: where among their inputs are the activation, the weight and the bias."""
ACTIVATIONS = frozenset({"Relu", "Clip", "Identity"})
VIEWS = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that leave the values as they are: what is int8 before one can be multiplied as int8 behind it."""
CONVERSIONS = VIEWS | {"Constant", "QuantizeLinear", "DequantizeLinear"}
DEFAULTS = {"pads": 0, "strides": 1, "dilations": 1}
"""What a convolution does along each axis unless told otherwise."""
Shape = tuple[int, ...]
PRECISIONS: dict[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.UINT8: "int8",
    TensorProto.INT8: "int8",
}


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution or matrix product: its multiply-accumulates, and the bytes of weights and activations it moves.

    `needed` are those without padding, which good kernels skip, and a floor must not count. `name` is the module's in
    the network, `node` the operator's in the graph; `precision` is what it multiplies in.
    `known_as` are the names that an engine may give the operator and the activation that it fuses into it.
    """

    name: str
    node: str
    precision: str
    macs: int
    needed: int
    weights: int
    activations: int
    known_as: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Work:
    """A step: its layers, and the bytes that all other operators would move if none was fused into another."""

    layers: tuple[Layer, ...]
    elementwise_bytes: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a step."""
        return sum(layer.macs for layer in self.layers)

    @property
    def weights(self) -> int:
        """Bytes of all weights."""
        return sum(layer.weights for layer in self.layers)

    @property
    def working_set(self) -> int:
        """Bytes that must be at hand: all weights, and the activations of the layer that has most."""
        return self.weights + max((layer.activations for layer in self.layers), default=0)


def work_of(graph: bytes) -> Work:
    """Return what a step of a graph does for one stream. Quantized weights are counted as they are stored."""
    known = _Tensors(graph)
    nodes = known.nodes
    layers = tuple(_layer(known, node) for node in nodes if node.op_type in MULTIPLYING)
    others = (node for node in nodes if node.op_type not in MULTIPLYING and node.op_type not in CONVERSIONS)
    return Work(layers, sum(_moved(known, node) for node in others))


def _layer(known: _Tensors, node: NodeProto) -> Layer:
    image, weight, bias = MULTIPLYING[node.op_type]
    inputs, output = node.input, node.output[0]
    given, factor = known.stored(inputs[image]), known.stored(inputs[weight])
    shape = known.shape(inputs[weight])
    sums = math.prod(shape[1:]) if "Conv" in node.op_type else known.shape(inputs[image])[-1]
    integers = all(PRECISIONS[known.type(name)] == "int8" for name in (given, factor))
    addend = known.bytes(inputs[bias]) if bias is not None and len(inputs) > bias and inputs[bias] else 0
    constant = known.is_constant(factor)
    macs = math.prod(known.shape(output)) * sums
    moved = known.bytes(given) + known.bytes(known.kept(output))
    return Layer(
        name=_module(node.name),
        node=node.name,
        precision="int8" if integers else PRECISIONS[known.type(inputs[image])],
        macs=macs,
        needed=round(macs * _inside(node, known.shape(inputs[image]), shape, known.shape(output))),
        weights=known.bytes(factor) * constant + addend,
        activations=moved + known.bytes(factor) * (not constant),
        known_as=tuple(known.fused(node)),
    )


def _inside(node: NodeProto, image: Shape, weight: Shape, result: Shape) -> float:
    """Return the share of a convolution's products whose factor lies in the image, not in its padding; 1 for others."""
    if "Conv" not in node.op_type:
        return 1.0
    given = {each.name: tuple(each.ints) for each in node.attribute}
    axes = len(image) - 2
    pads, strides, dilations = (given.get(name, (default,) * axes) for name, default in DEFAULTS.items())
    shares = []
    for axis, size in enumerate(image[2:]):
        taps = np.arange(weight[axis + 2]) * dilations[axis] - pads[axis]
        places = np.arange(result[axis + 2])[:, None] * strides[axis] + taps
        shares.append(float(np.mean((places >= 0) & (places < size))))
    return math.prod(shares)


def _module(node: str) -> str:
    """Return the module that a node came from: "/cells.0/gates_x/MatMul" is "cells.0.gates_x"."""
    path = node.strip("/").split("/")
    return ".".join(path[:-1] or path)


def _moved(known: _Tensors, node: NodeProto) -> int:
    names = (name for name in (*node.input, *node.output) if name and not known.is_constant(name))
    return sum(map(known.bytes, names))


class _Tensors:
    """A graph's tensors by name, their shapes for one stream."""

    def __init__(self, graph: bytes) -> None:
        model = onnx.load_from_string(graph)
        for value in (*model.graph.input, *model.graph.output):
            for dimension in value.type.tensor_type.shape.dim:
                if dimension.dim_param:
                    dimension.dim_value = 1
        del model.graph.value_info[:]
        inferred = shape_inference.infer_shapes(model, data_prop=True).graph
        self.nodes = list(inferred.node)
        values = (*inferred.input, *inferred.value_info, *inferred.output)
        self._types: dict[str, tuple[int, Shape]] = {
            value.name: (value.type.tensor_type.elem_type, _dimensions(value)) for value in values
        }
        self._types |= {each.name: (each.data_type, tuple(each.dims)) for each in inferred.initializer}
        self._made_by = {name: node for node in self.nodes for name in node.output}
        self._constants = {each.name for each in inferred.initializer}
        self._constants |= {node.output[0] for node in self.nodes if node.op_type == "Constant"}

    def type(self, name: str) -> int:
        return self._types[name][0]

    def shape(self, name: str) -> Shape:
        return self._types[name][1]

    def is_constant(self, name: str) -> bool:
        return name in self._constants

    def bytes(self, name: str) -> int:
        kind, shape = self._types[name]
        return math.prod(shape) * int(helper.tensor_dtype_to_np_dtype(kind).itemsize)

    def stored(self, name: str) -> str:
        """Return the tensor that is read for an operator's input: the integers, where it is dequantized from some."""
        source = name
        while (node := self._made_by.get(source)) is not None and node.op_type in VIEWS:
            source = node.input[0]
        if node is not None and node.op_type == "DequantizeLinear":
            return str(node.input[0])
        return name

    def kept(self, name: str) -> str:
        """Return the tensor that is written for an operator's output: the integers, where it is quantized at once."""
        for node in self._after(name):
            if node.op_type == "QuantizeLinear":
                return str(node.output[0])
        return name

    def fused(self, node: NodeProto) -> Iterator[str]:
        """Yield the names of an operator, of its result, and of the activation behind it."""
        yield node.name
        yield node.output[0]
        for following in self._after(node.output[0]):
            if following.op_type in ACTIVATIONS:
                yield following.name
                yield following.output[0]

    def _after(self, name: str) -> Iterator[NodeProto]:
        """Yield the operators that alone use a result, one after the other, while they are activations."""
        while len(users := [node for node in self.nodes if name in node.input]) == 1:
            yield users[0]
            if users[0].op_type not in ACTIVATIONS:
                return
            name = users[0].output[0]


def _dimensions(value: Any) -> Shape:
    return tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)
