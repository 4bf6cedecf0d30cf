"""A stream: frames in, predictions out, memory in between."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.errors import ClosedError, ConfigError, ContextLostError
from edge_cnnlstm.runtime.backends.base import Backend
from edge_cnnlstm.runtime.fit import Fit
from edge_cnnlstm.runtime.frame import Frame, Pixels
from edge_cnnlstm.runtime.guard import Guard
from edge_cnnlstm.runtime.lane import Lane
from edge_cnnlstm.runtime.latency import LatencyRecorder
from edge_cnnlstm.runtime.prediction import NotFiniteError, Prediction
from edge_cnnlstm.spec import ModelSpec, StateRules

if TYPE_CHECKING:
    from typing_extensions import Self

WARM_UP_STEPS = 10


class Stream:
    """One stream of frames through one network; it owns the backend, and the backend owns the memory.

    Use it as a context manager, from any thread, but from one at a time. `fit` is what a source needs in order to
    deliver frames of the right size. `latency` collects every frame's timings, `resets` counts resets by reason, and
    `refused` the frames that the network was not made for. `rules` say when the memory is emptied, None means those
    that came with the network. `graph` is the name of what the engine runs, and `digest` its SHA-256, by which `swap`
    tells whether memory may be kept. `passed_over` are the engines that were not taken, and why, a line each.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        deadline_ms: float | None = None,
        rules: StateRules | None = None,
        graph: str | None = None,
        digest: str | None = None,
        passed_over: tuple[str, ...] = (),
    ) -> None:
        try:
            if backend.spec.batch != 1:
                raise ConfigError(
                    f"a graph for {backend.spec.batch} streams",
                    expected="one",
                    fix="open it with edge_cnnlstm.open, or use a StreamGroup",
                )
            self._guard = Guard("a stream")
            self._own_rules = rules
            self._lane = Lane(backend.spec, rules or backend.spec.rules, deadline_ms)
            self._closed = False
            self.passed_over = passed_over
            self._take_over(backend, graph, digest)
            warm_up(backend)
        except BaseException:
            backend.close()
            raise

    @property
    def spec(self) -> ModelSpec:
        """What the network expects and answers."""
        return self.backend.spec

    @property
    def latency(self) -> LatencyRecorder:
        return self._lane.latency

    @property
    def resets(self) -> Counter[str]:
        return self._lane.resets

    @property
    def refused(self) -> int:
        return self._lane.refused

    @property
    def rules(self) -> StateRules:
        return self._lane.rules

    def step(self, frame: Frame | Pixels) -> Prediction:
        """Advance by one frame: uint8 [height, width, 3] RGB of exactly the network's size, or a Frame of it.

        Raises FrameError for any other array and BackendError when the engine fails; either leaves the memory bit for
        bit as it was, or empty if the frame at which the engine failed broke a rule. PoisonError when the answer
        or the memory is NaN or infinity; the memory is then emptied, because what poisoned it would poison every answer
        after it. ContextLostError when a GPU had to be brought back; the memory is then empty, too. ThreadError when
        another thread is in here.
        """
        self._guard.enter_at_once()
        try:
            self._check_open()
            lane, backend = self._lane, self.backend
            frame = lane.accept(frame)
            begun = time.monotonic_ns()
            captured = lane.captured(frame, begun)
            broken = lane.continuity.broken_by(frame, captured, begun)
            if broken is not None:
                self._empty(broken)
            self._frame[...] = frame.pixels
            if self._asks_for_dt:
                backend.dt[0, 0] = lane.continuity.since_last(captured)
            outputs = backend.infer()
            inferred = time.monotonic_ns()
            if lane.rules.not_finite and not backend.state.is_finite():
                raise NotFiniteError("the memory")
            return lane.answer(frame, captured, begun, inferred, outputs, 0)
        except NotFiniteError as error:
            self._empty("not finite")
            raise lane.poisoned(str(error)) from error
        except ContextLostError:
            self._begin_anew()
            raise
        finally:
            self._guard.leave()

    def rehearse(self) -> None:
        """Run a step that counts for nothing: it warms caches, clocks and threads for the one that is due.

        The memory stays bit for bit as it was, and nothing is recorded. Does nothing while another thread is in a step.
        """
        if self._guard.try_enter():
            try:
                self._check_open()
                self.backend.rehearse()
            except ContextLostError:
                self._begin_anew()  # which cost no frame; the next prediction says so
            finally:
                self._guard.leave()

    def reset(self, reason: str = "requested") -> None:
        """Forget everything seen so far, once the step at hand is over. The next prediction says so, and why."""
        with self._guard:
            self._check_open()
            self._empty(reason)

    def snapshot(self) -> dict[str, NDArray[np.generic]]:
        """Return a copy of the memory; it is the caller's."""
        with self._guard:
            self._check_open()
            return self.backend.state.snapshot()

    def restore(self, snapshot: Mapping[str, NDArray[np.generic]]) -> None:
        """Set the memory to a snapshot of the same model; raises BackendError when it does not fit.

        How long ago its last frame was is not known: no rule applies to the next one.
        """
        with self._guard:
            self._check_open()
            self.backend.state.restore(snapshot)
            self._lane.restored(snapshot)

    def swap(self, fresh: Stream) -> bool:
        """Take over the engine of a stream that was just opened, between two frames; return whether memory was kept.

        It is kept only when both run the very same graph, else the reason of the reset is "model changed". Rules that
        came with the network change with it. `fresh` is closed without its engine, ours is released. Raises
        ConfigError, with nothing changed, when the new network wants frames of another size, or heads that this stream
        does not have.
        """
        with self._guard, fresh._guard:
            self._check_open()
            fresh._check_open()
            mine, other = self.spec, fresh.spec
            if (mine.frame, mine.fit, mine.heads) != (other.frame, other.fit, other.heads):
                raise ConfigError(
                    f"a network with frames {other.frame.shape} by {other.fit} and heads {other.heads}",
                    expected=f"{mine.frame.shape} by {mine.fit} and {mine.heads}, which sources and sinks rely on",
                    fix="open a new stream for it",
                )
            keeps = self.digest is not None and self.digest == fresh.digest
            if keeps:
                fresh.backend.state.restore(self.backend.state.snapshot())
            old = self.backend
            self._take_over(fresh.backend, fresh.graph, fresh.digest)
            self.passed_over = fresh.passed_over
            self._lane.adopt(self.spec, self._own_rules or self.spec.rules)
            fresh._closed, fresh._owns_engine = True, False
            old.close()
            if not keeps:
                self._empty("model changed")
            return keeps

    def close(self) -> None:
        """Release the engine, once the step at hand is over; may be called twice, from any thread or signal handler."""
        if not self._closed:
            self._closed = True
            self._guard.at_rest(self._release)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take_over(self, backend: Backend, graph: str | None, digest: str | None) -> None:
        self.backend, self.graph, self.digest = backend, graph, digest
        self.fit = Fit.of(backend.spec)
        self._frame = backend.frames[0]
        self._asks_for_dt = backend.spec.dt is not None
        self._owns_engine = True

    def _release(self) -> None:
        """Close the engine that is ours by now: it may have come, or gone, in a swap since `close` was called."""
        if self._owns_engine:
            self._owns_engine = False
            self.backend.close()

    def _begin_anew(self) -> None:
        """Go on with an engine that was built anew: its buffers are other ones, and it remembers nothing."""
        self._take_over(self.backend, self.graph, self.digest)
        self._empty("engine rebuilt")

    def _empty(self, reason: str) -> None:
        self.backend.state.reset()
        self._lane.emptied(reason)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("a closed stream", expected="an open one", fix="open the bundle again")


def warm_up(backend: Backend) -> None:
    """Run an engine before the first frame needs it; what it saw there is forgotten."""
    for _ in range(WARM_UP_STEPS):
        backend.infer()
    backend.state.reset()
