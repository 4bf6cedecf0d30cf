"""Which layer a kernel computes: engines fuse, rename and reorder, and keep only parts of the names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.roofline.work import Layer

MULTIPLIES = ("Conv", "Gemm", "MatMul", "FullyConnected")
"""What the kinds of kernels that multiply and add up have in their names, in both engines."""
SEPARATORS = ("_", "/")
"""What engines put between a name and what they add to it: `_nchwc`, `_token_4`, `/WithoutBiases`."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Microseconds by layer, the kinds of kernel that computed it, and those of all `other` kernels."""

    layers: dict[str, float]
    kinds: dict[str, str]
    other: float

    @property
    def kernels(self) -> float:
        """Microseconds of all kernels."""
        return sum(self.layers.values()) + self.other


def taken(layers: Sequence[Layer], kernels: Sequence[dict[str, Any]]) -> Taken:
    """Sort kernels by the layer that they compute; what multiplies nothing, or is called like no layer, is other.

    A layer without a kernel of its own, or too short for the engine's clock, takes 0.
    """
    found = {layer.name: 0.0 for layer in layers}
    kinds: dict[str, str] = {}
    other = 0.0
    for kernel in kernels:
        layer = _layer_of(kernel, layers)
        if layer is None:
            other += kernel["us"]
        else:
            found[layer.name] += kernel["us"]
            kinds[layer.name] = kernel["kind"]
    return Taken(found, kinds, other)


def _layer_of(kernel: dict[str, Any], layers: Sequence[Layer]) -> Layer | None:
    """Return the layer with the longest name that one of the kernel's begins with."""
    if not any(word in kernel["kind"] for word in MULTIPLIES):
        return None
    names = (kernel["name"], *kernel["made_of"])
    matches = [
        (len(alias), layer)
        for layer in layers
        for alias in layer.known_as
        if any(name == alias or name.startswith(tuple(alias + mark for mark in SEPARATORS)) for name in names)
    ]
    return max(matches, key=lambda match: match[0])[1] if matches else None
