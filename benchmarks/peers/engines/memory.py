"""What an engine reads and writes: memory in two buffers that change sides, and frames as floats."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.bundle.golden import Arrays
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.spec import ModelSpec


class TwoSided:
    """A run reads the memory of one side and writes that of the other; whoever runs it then turns `side` over.

    The arrays are allocated once and never move.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.side = 0
        self._spec = spec
        self._inputs = {tensor.name: tensor.zeros() for tensor in spec.inputs}
        self._outputs: dict[str, NDArray[Any]] = {output.name: output.zeros() for output in spec.outputs}
        self._memory = [[pair.zeros() for pair in spec.states] for _ in (0, 1)]

    def read(self, side: int) -> dict[str, NDArray[Any]]:
        """Return what a run on this side reads, by name."""
        memory = zip(self._spec.states, self._memory[side], strict=True)
        return self._inputs | {pair.input: array for pair, array in memory}

    def written(self, side: int) -> dict[str, NDArray[Any]]:
        """Return what a run on this side writes, by name."""
        memory = zip(self._spec.states, self._memory[1 - side], strict=True)
        return self._outputs | {pair.output: array for pair, array in memory}

    def reset(self) -> None:
        for array in self._memory[self.side]:
            array.fill(0)

    def lay(self, pixels: Pixels, dt: float = 0.0) -> None:
        np.copyto(self._inputs[self._spec.frame.name][0], pixels)
        if self._spec.dt is not None:
            self._inputs[self._spec.dt.name].fill(dt)

    def outputs(self) -> Arrays:
        return self.written(1 - self.side)


def normalise(frame: NDArray[Any]) -> None:
    """Turn pixels, as floats, into what the first convolution reads."""
    frame -= 128
    frame /= 64
