"""The stand-in's network: its weights, and what a step of it needs to know, laid out as stand_in.cu has it."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.errors import BackendError
from edge_cnnlstm.gpu.engine import WATCH
from edge_cnnlstm.spec import ModelSpec, TensorSpec

SOURCE = Path(__file__).with_name("stand_in.cu")
KERNELS = ("column_means", "cell", "answers", "memory_size")
"""A step, in this order."""
MOST_OUTPUTS = 8
Weights = Mapping[str, NDArray[np.float32]]


class Head(ctypes.Structure):
    """`Head` of stand_in.cu."""

    _fields_ = [
        ("weights", ctypes.c_void_p),
        ("answers", ctypes.c_void_p),
        ("size", ctypes.c_int),
        ("squashed", ctypes.c_int),
    ]


POINTERS = ("frame", "dt", "h", "c", "gates", "bias", "missed", "columns", "h_next", "c_next", "sizes")
SIZES = ("streams", "rows", "width", "layers", "hidden", "outputs")


class Step(ctypes.Structure):
    """`Step` of stand_in.cu: what every kernel is launched with."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in POINTERS),
        ("heads", Head * MOST_OUTPUTS),
        *((name, ctypes.c_int) for name in SIZES),
    ]


@dataclass(frozen=True, slots=True)
class Network:
    """A network with the inputs and outputs of `spec`, whose memory is one pair for h and one for c.

    `weights` are gates [width + units, 3 · units], bias and missed [3 · units], and of each output its own, by its
    name, [units, size], where units are all of a stream's memory. Outputs named in `squashed` go through a sigmoid.
    Raises BackendError for a spec that it cannot stand in for.
    """

    spec: ModelSpec
    weights: Weights
    squashed: frozenset[str] = field(default=frozenset())

    def __post_init__(self) -> None:
        _check(self.spec)

    @classmethod
    def random(cls, spec: ModelSpec, seed: int = 0) -> Network:
        """Return one that answers noise to noise."""
        _check(spec)
        draw, units, width = np.random.default_rng(seed), _units(spec), _width(spec)
        shapes = {"gates": (width + units, 3 * units), "bias": (3 * units,), "missed": (3 * units,)}
        shapes |= {output.name: (units, _size(output)) for output in spec.outputs}
        weights = {name: draw.normal(0, shape[0] ** -0.5, shape) for name, shape in shapes.items()}
        return cls(spec, {name: array.astype(np.float32) for name, array in weights.items()})

    @property
    def columns(self) -> int:
        """Bytes of scratch memory that a step needs."""
        return 4 * self.spec.batch * _width(self.spec)

    def tensors(self) -> dict[str, tuple[str, tuple[int, ...], str]]:
        """Return direction, shape and dtype of everything that a step reads and writes, as an engine does."""
        spec = self.spec
        found: dict[str, tuple[str, tuple[int, ...], str]]
        found = {tensor.name: ("input", tensor.shape, tensor.dtype) for tensor in spec.inputs}
        for pair in spec.states:
            found[pair.input] = ("input", pair.shape, pair.dtype)
            found[pair.output] = ("output", pair.shape, pair.dtype)
        found |= {output.name: ("output", output.shape, output.dtype) for output in spec.outputs}
        return found | {WATCH: ("output", (spec.batch,), "float32")}

    def step(self, tensors: Mapping[str, int], weights: Mapping[str, int], columns: int) -> Step:
        """Return what the kernels need; addresses of tensors and weights by name, and of the scratch memory."""
        spec, (h, c) = self.spec, self.spec.states
        layers, streams, hidden = h.shape
        heads = [
            Head(weights[output.name], tensors[output.name], _size(output), output.name in self.squashed)
            for output in spec.outputs
        ]
        return Step(
            frame=tensors[spec.frame.name],
            dt=tensors[spec.dt.name] if spec.dt else None,
            h=tensors[h.input],
            c=tensors[c.input],
            **{name: weights[name] for name in ("gates", "bias", "missed")},
            columns=columns,
            h_next=tensors[h.output],
            c_next=tensors[c.output],
            sizes=tensors[WATCH],
            heads=(Head * MOST_OUTPUTS)(*heads),
            streams=streams,
            rows=spec.frame.shape[1],
            width=_width(spec),
            layers=layers,
            hidden=hidden,
            outputs=len(heads),
        )

    def largest(self) -> int:
        """Return the most numbers that any kernel computes."""
        spec = self.spec
        return spec.batch * max(_width(spec), _units(spec), *(_size(output) for output in spec.outputs))


def _check(spec: ModelSpec) -> None:
    shapes = [pair.shape for pair in spec.states]
    if len(shapes) == 2 and shapes[0] == shapes[1] and len(shapes[0]) == 3 and len(spec.outputs) <= MOST_OUTPUTS:
        return
    raise BackendError(
        f"no kernel stands in for memory of shapes {shapes} and {len(spec.outputs)} outputs",
        expected=f"two pairs of memory, [layers, streams, hidden] each, and at most {MOST_OUTPUTS} outputs",
        fix="measure another bundle",
    )


def _units(spec: ModelSpec) -> int:
    layers, _, hidden = spec.states[0].shape
    return layers * hidden


def _width(spec: ModelSpec) -> int:
    return spec.frame.shape[2] * spec.frame.shape[3]


def _size(output: TensorSpec) -> int:
    return int(np.prod(output.shape[1:]))


def addresses(arrays: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """Return where arrays lie on the host; whoever asks keeps them."""
    return {name: array.ctypes.data for name, array in arrays.items()}
