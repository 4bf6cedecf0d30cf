"""A stream: frames in, predictions out, memory in between."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.errors import BackendError, ClosedError, ConfigError, FrameError
from edge_cnnlstm.runtime.backends.base import Backend
from edge_cnnlstm.runtime.fit import Fit
from edge_cnnlstm.runtime.frame import Frame, Pixels
from edge_cnnlstm.runtime.latency import LatencyRecorder, Timings
from edge_cnnlstm.runtime.prediction import Prediction, decoders
from edge_cnnlstm.spec import ModelSpec

if TYPE_CHECKING:
    from typing_extensions import Self

WARM_UP_STEPS = 10


class Stream:
    """One stream of frames through one network; it owns the backend, and the backend owns the memory.

    Use it from one thread, as a context manager. `fit` is what a source needs in order to deliver frames of the
    right size; `latency` collects every frame's timings; `resets` counts resets by reason.
    """

    def __init__(self, backend: Backend, *, deadline_ms: float | None = None) -> None:
        if backend.spec.frame.shape[0] != 1:
            raise ConfigError(
                f"a graph for {backend.spec.frame.shape[0]} streams",
                expected="one stream a graph",
                fix="export it with a batch of 1",
            )
        self.spec: ModelSpec = backend.spec
        self.fit = Fit.of(backend.spec)
        if deadline_ms is not None and not 0 < deadline_ms < math.inf:
            raise ConfigError(f"a deadline of {deadline_ms} ms", expected="a finite time above 0", fix="change it")
        self.latency = LatencyRecorder(None if deadline_ms is None else round(deadline_ms * 1e6))
        self.resets: Counter[str] = Counter()
        self.backend = backend
        self._decoders = decoders(backend.spec)
        self._shape = backend.spec.frame.shape[1:]
        self._next_index = 0
        self._fresh = True
        self._closed = False
        try:
            self._warm_up()
        except BaseException:
            self.close()
            raise

    def step(self, frame: Frame | Pixels) -> Prediction:
        """Advance by one frame: uint8 [height, width, 3] RGB of exactly the network's size, or a Frame of it.

        Raises FrameError for any other array and BackendError when the engine fails; either leaves the memory
        bit for bit as it was. BackendError too when the network answers NaN or infinity; the memory is then
        emptied, because what poisoned the answer would poison every one after it.
        """
        self._check_open()
        if not isinstance(frame, Frame):
            frame = Frame(frame, self._next_index, time.monotonic_ns())
        self._check(frame.pixels)
        begun = time.monotonic_ns()
        outputs = self.backend.infer(frame.pixels)
        inferred = time.monotonic_ns()
        self._check_finite(outputs)
        answers = {name: decode(outputs, frame.placement) for name, decode in self._decoders.items()}
        decided = time.monotonic_ns()
        timings = Timings(
            wait=begun - frame.captured_ns - frame.fit_ns,
            fit=frame.fit_ns,
            infer=inferred - begun,
            decode=decided - inferred,
            age=decided - frame.captured_ns,
        )
        first_after_reset, self._fresh = self._fresh, False
        self._next_index = frame.index + 1
        self.latency.record(timings)
        return Prediction(frame.index, frame.captured_ns, first_after_reset, answers, timings)

    def reset(self, reason: str = "requested") -> None:
        """Forget everything seen so far. The next prediction says so."""
        self._check_open()
        self.backend.reset()
        self.resets[reason] += 1
        self._fresh = True

    def snapshot(self) -> dict[str, NDArray[np.generic]]:
        """Return a copy of the memory; it is the caller's."""
        self._check_open()
        return self.backend.snapshot()

    def restore(self, snapshot: Mapping[str, NDArray[np.generic]]) -> None:
        """Set the memory to a snapshot of the same model; raises BackendError when it does not fit."""
        self._check_open()
        self.backend.restore(snapshot)
        self._fresh = not any(array.any() for array in snapshot.values())

    def close(self) -> None:
        """Release the engine; may be called twice."""
        self._closed = True
        self.backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _warm_up(self) -> None:
        """Run the engine before the first frame needs it; what it saw there is forgotten."""
        blank = np.zeros(self._shape, np.uint8)
        for _ in range(WARM_UP_STEPS):
            self.backend.infer(blank)
        self.backend.reset()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("a closed stream", expected="an open one", fix="open the bundle again")

    def _check_finite(self, outputs: Mapping[str, NDArray[Any]]) -> None:
        for name, values in outputs.items():
            if not np.isfinite(values).all():
                self.reset("not finite")
                raise BackendError(
                    f"output {name!r} holds NaN or infinity",
                    expected="finite numbers",
                    fix="the memory was emptied: go on with the next frame; if it happens again, the weights are bad",
                )

    def _check(self, pixels: Any) -> None:
        if isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape == self._shape:
            return
        found = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise FrameError(
            f"a frame of {found}",
            expected=f"uint8 {self._shape}, RGB",
            fix="let the source fit its frames: edge_cnnlstm.camera(…, fit=stream.fit)",
        )
