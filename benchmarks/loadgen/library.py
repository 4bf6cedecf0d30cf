"""The frames that LoadGen draws from: MLPerf's query sample library."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edge_cnnlstm.runtime.frame import Pixels


class Library:
    """So many frames by number: the bundle's golden ones, and then the same ones moved, so that no two are alike.

    A moved frame wraps around: content stays what the network knows, and its cost what a camera's would be. `frames`
    holds those that LoadGen had loaded, uint8 [height, width, 3]; loading is not timed.
    """

    def __init__(self, golden: Pixels, count: int) -> None:
        self.count = count
        self.frames: dict[int, Pixels] = {}
        self._golden = golden

    def load(self, numbers: Iterable[int]) -> None:
        """Bring frames into memory."""
        self.frames.update((number, self._frame(number)) for number in numbers)

    def unload(self, numbers: Iterable[int]) -> None:
        """Let them go."""
        for number in numbers:
            self.frames.pop(number, None)  # MultiStream names some twice

    def _frame(self, number: int) -> Pixels:
        move, original = divmod(number, len(self._golden))
        pixels = self._golden[original]
        return np.roll(pixels, divmod(move, pixels.shape[1]), axis=(0, 1))
