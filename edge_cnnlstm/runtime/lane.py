"""One stream's side of a step: what may come in, what is remembered of the last frame, and what goes out."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.errors import ConfigError, FrameError, PoisonError
from edge_cnnlstm.runtime.continuity import Continuity
from edge_cnnlstm.runtime.frame import Frame, Pixels
from edge_cnnlstm.runtime.latency import LatencyRecorder, Timings
from edge_cnnlstm.runtime.prediction import Prediction, decoders
from edge_cnnlstm.spec import ModelSpec, StateRules

UINT8 = np.dtype(np.uint8)


class Lane:
    """Everything that a stream is apart from its engine and its memory.

    `refused` counts frames that the network was not made for, `resets` resets by their reason. Raises ConfigError for a
    deadline that is no time.
    """

    def __init__(self, spec: ModelSpec, rules: StateRules, deadline_ms: float | None) -> None:
        if deadline_ms is not None and not 0 < deadline_ms < math.inf:
            raise ConfigError(f"a deadline of {deadline_ms} ms", expected="a finite time above 0", fix="change it")
        self.continuity = Continuity(rules)
        self.latency = LatencyRecorder(None if deadline_ms is None else round(deadline_ms * 1e6))
        self.resets: Counter[str] = Counter()
        self.refused = 0
        self._shape = spec.frame.shape[1:]
        self._next_index = 0
        self.adopt(spec, rules)

    def adopt(self, spec: ModelSpec, rules: StateRules) -> None:
        """Read the answers of this network from now on, by these rules; what is known of the last frame stays."""
        self.rules = rules
        self.continuity.follow(rules)
        self._decoders = list(decoders(spec, finite=rules.not_finite).items())

    def accept(self, frame: Frame | Pixels) -> Frame:
        """Return a frame, or an array as one that is captured now; raises FrameError unless the network fits it."""
        if type(frame) is not Frame:
            frame = Frame(frame, self._next_index, time.monotonic_ns(), source=self.continuity.source)  # type: ignore[arg-type]
        pixels = frame.pixels
        if isinstance(pixels, np.ndarray) and pixels.dtype == UINT8 and pixels.shape == self._shape:
            return frame
        self.refused += 1
        found = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise FrameError(
            f"a frame of {found}",
            expected=f"uint8 {self._shape}, RGB",
            fix="let the source fit its frames: edge_cnnlstm.camera(…, fit=stream.fit)",
        )

    def captured(self, frame: Frame, now_ns: int) -> int:
        """Return when a frame was captured; one that says in the future, by another clock, counts as captured now."""
        if frame.captured_ns <= now_ns:
            return frame.captured_ns
        self.latency.clock_faults += 1
        return now_ns

    def emptied(self, reason: str) -> None:
        """Note that the memory was emptied."""
        self.resets[reason] += 1
        self.continuity.forget(reason)

    def restored(self, snapshot: Mapping[str, NDArray[np.generic]]) -> None:
        """Note that the memory was set to a snapshot, which may be an empty one; how old it is is not known."""
        empty = not any(array.any() for array in snapshot.values())
        self.continuity.resume("restored" if empty else None)

    def answer(
        self, frame: Frame, captured_ns: int, begun: int, inferred: int, outputs: Mapping[str, NDArray[Any]], row: int
    ) -> Prediction:
        """Read this stream's row of the outputs and put the frame on record; NotFiniteError leaves no trace."""
        answers = {name: decode(outputs, frame.placement, row) for name, decode in self._decoders}
        decided = time.monotonic_ns()
        waited = begun - captured_ns
        fit = min(max(frame.fit_ns, 0), waited)
        timings = Timings(waited - fit, fit, inferred - begun, decided - inferred, decided - captured_ns)
        reason = self.continuity.empty_since
        lost, idle_ns = self.continuity.accept(frame, captured_ns, begun)
        self._next_index = frame.index + 1
        self.latency.record(captured_ns, timings, lost, idle_ns)
        return Prediction(frame.index, captured_ns, reason is not None, answers, timings, reason)

    def poisoned(self, where: str) -> PoisonError:
        """Return the error for an answer, or a memory, that is not finite."""
        return PoisonError(
            f"{where} holds NaN or infinity",
            expected="finite numbers",
            fix="the memory was emptied: go on with the next frame; if it happens again, the weights are bad",
        )
