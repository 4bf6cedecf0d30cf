"""A peer as a case: its own bare call, and the whole answer as people write it around that call."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

from benchmarks.peers.accuracy import Rollout, chosen, label_head
from benchmarks.peers.loops import RATE, back_to_back, barely, frames_for, paced
from benchmarks.peers.peer import Bare, deviation
from benchmarks.processes import Message
from edge_cnnlstm.bundle.golden import Arrays, Golden
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.runtime.proof import Deviation
from edge_cnnlstm.spec import ModelSpec


class Theirs:
    """An engine that is ready, and the network that it runs."""

    def __init__(self, engine: Bare, spec: ModelSpec) -> None:
        self._engine, self._spec = engine, spec
        head = label_head(spec)
        self._labels, (self._logits,) = head.labels, head.outputs
        self._first = cycle(("bare_ns", "whole_ns"))

    def deviation(self, golden: Golden, expected: Arrays) -> Deviation:
        """Return how far it strays from FP32's course over the golden rollout."""
        return deviation(self._engine, self._spec, golden, expected)

    def labels(self, rollout: Rollout) -> list[int]:
        """Return the number of the label of each frame, memory carried throughout."""
        self._engine.reset()
        return [self._number(pixels, dt) for pixels, dt in rollout.steps()]

    def answer(self, pixels: Pixels) -> str:
        """Lay a frame, run, read the outputs, and return the label."""
        return self._labels[self._number(pixels, 1 / RATE)]

    def closed(self, golden: Sequence[Pixels], steps: int) -> Message:
        """Time bare calls and whole answers, back to back; which of both comes first changes from turn to turn."""
        frames, samples = frames_for(golden, steps), Message()
        first = next(self._first)
        for kind in (first, "whole_ns" if first == "bare_ns" else "bare_ns"):
            self._engine.reset()
            samples[kind] = barely(self._engine, frames) if kind == "bare_ns" else back_to_back(self.answer, frames)
        return samples

    def paced(self, golden: Sequence[Pixels], frames: int) -> Message:
        """Time whole answers from the instant each frame was due, asleep in between."""
        self._engine.reset()
        return {"paced_ns": paced(self.answer, frames_for(golden, frames))}

    def _number(self, pixels: Pixels, dt: float) -> int:
        self._engine.lay(pixels, dt)
        self._engine.run()
        return chosen(self._engine.outputs()[self._logits][0])
