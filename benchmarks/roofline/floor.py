"""The least time that a step can take: what bounds each layer, its arithmetic or its bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.roofline.peaks import Peaks
from benchmarks.roofline.work import Layer, Work


@dataclass(frozen=True, slots=True)
class Bound:
    """The least time of a layer: that of its arithmetic, and that of its bytes, in seconds."""

    compute: float
    memory: float

    @property
    def seconds(self) -> float:
        """The longer of the two: at best one hides behind the other."""
        return max(self.compute, self.memory)


def bounds(work: Work, peaks: Peaks, *, cold: bool = False) -> list[Bound]:
    """Return the bound of each layer, one after the other, because each needs the last one's result.

    Weights come at the bandwidth of the whole step's working set, which is what a closed loop leaves in the caches;
    `cold` has them come from memory. Activations come at the bandwidth of this layer's own.
    """
    weights = peaks.from_memory if cold else peaks.bandwidth(work.working_set)
    return [bound(layer, peaks.macs, weights, peaks.bandwidth(layer.activations)) for layer in work.layers]


def bound(layer: Layer, macs: dict[str, float], weights: float, activations: float = math.inf) -> Bound:
    """Return a layer's bound, from multiply-accumulates a second by precision, and bytes a second of its two kinds."""
    return Bound(layer.needed / macs[layer.precision], layer.weights / weights + layer.activations / activations)


def total(found: list[Bound]) -> float:
    """Return the seconds of a step."""
    return sum(each.seconds for each in found)


def arithmetic(found: list[Bound]) -> float:
    """Return the seconds of a step's arithmetic alone, as if every byte were at hand."""
    return sum(each.compute for each in found)
