"""Several cameras, one engine: one batched step for the frames that are ready, a memory for each stream."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.errors import ClosedError, ConfigError, ContextLostError, PoisonError
from edge_cnnlstm.runtime.backends.base import Arrays, Backend
from edge_cnnlstm.runtime.fit import Fit
from edge_cnnlstm.runtime.frame import Frame, Pixels
from edge_cnnlstm.runtime.guard import Guard
from edge_cnnlstm.runtime.lane import Lane
from edge_cnnlstm.runtime.latency import LatencyRecorder
from edge_cnnlstm.runtime.prediction import NotFiniteError, Prediction
from edge_cnnlstm.runtime.stream import warm_up
from edge_cnnlstm.spec import StateRules

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """One stream of a group: what `StreamGroup.join` gives and `leave` takes back.

    Its slot may be given to another stream later; by its generation the two are told apart.
    """

    name: str
    slot: int
    generation: int
    lane: Lane

    @property
    def latency(self) -> LatencyRecorder:
        """Every frame's timings."""
        return self.lane.latency

    @property
    def resets(self) -> Counter[str]:
        """Resets by reason."""
        return self.lane.resets

    @property
    def refused(self) -> int:
        """Frames that the network was not made for."""
        return self.lane.refused


class StreamGroup:
    """Up to `slots` streams through one network that steps them together; it owns the backend.

    A step costs the whole batch, however many frames are ready. Use it as a context manager, from one thread at a time;
    `fit` is what sources need. `rules` and `deadline_ms` are as a `Stream` has them, and hold for each stream alone.
    """

    def __init__(self, backend: Backend, *, deadline_ms: float | None = None, rules: StateRules | None = None) -> None:
        self.spec = backend.spec
        self.fit = Fit.of(backend.spec)
        self.backend = backend
        self._guard = Guard("a group of streams")
        self._rules = rules or backend.spec.rules
        self._new_lane = partial(Lane, backend.spec, self._rules, deadline_ms)
        self._members: list[Member | None] = [None] * backend.spec.batch
        self._generations = [0] * backend.spec.batch
        self._closed = False
        try:
            self._new_lane()  # refuses a deadline that is no time now, rather than when somebody joins
            warm_up(backend)
        except BaseException:
            backend.close()
            raise

    @property
    def members(self) -> tuple[Member, ...]:
        """The streams that are in, by slot."""
        return tuple(member for member in self._members if member is not None)

    def join(self, name: str = "") -> Member:
        """Give a new stream a free slot, with an empty memory; raises ConfigError when there is none."""
        with self._guard:
            self._check_open()
            if None not in self._members:
                raise ConfigError(
                    f"a stream more than the {len(self._members)} slots",
                    expected="a free slot",
                    fix="let one leave, or open the group with more slots",
                )
            slot = self._members.index(None)
            self._generations[slot] += 1
            self.backend.state.reset(slot)
            member = Member(name or f"stream {slot}", slot, self._generations[slot], self._new_lane())
            self._members[slot] = member
            return member

    def step(self, frames: Mapping[Member, Frame | Pixels]) -> dict[Member, Prediction | PoisonError]:
        """Advance the streams that have a frame, in one batch; the others' memories stay bit for bit as they are.

        Raises FrameError, before anything ran, for a frame that the network was not made for; ClosedError for a member
        that has left; BackendError when the engine fails, with every memory as it was, but for those that a rule has
        emptied; ContextLostError when a GPU had to be brought back, with every memory empty. A stream whose answer or
        memory is NaN or infinity is emptied and gets its PoisonError instead of a prediction; the others do not notice.
        """
        self._guard.enter_at_once()
        try:
            self._check_open()
            for member in frames:
                self._check_in(member)
            accepted = {member: member.lane.accept(frame) for member, frame in frames.items()}
            begun = time.monotonic_ns()
            captured = {member: self._place(member, frame, begun) for member, frame in accepted.items()}
            outputs = self.backend.infer()
            inferred = time.monotonic_ns()
            active = {member.slot for member in frames}
            self.backend.state.hold(slot for slot in range(self.spec.batch) if slot not in active)
            return {
                member: self._answer(member, frame, captured[member], begun, inferred, outputs)
                for member, frame in accepted.items()
            }
        except ContextLostError:
            self._begin_anew()
            raise
        finally:
            self._guard.leave()

    def reset(self, member: Member, reason: str = "requested") -> None:
        """Forget everything that one stream has seen; the others remember."""
        with self._guard:
            self._check_in(member)
            self._empty(member, reason)

    def snapshot(self, member: Member) -> dict[str, NDArray[np.generic]]:
        """Return a copy of one stream's memory, as a lone stream's would be; it is the caller's."""
        with self._guard:
            self._check_in(member)
            return self.backend.state.snapshot(member.slot)

    def restore(self, member: Member, snapshot: Mapping[str, NDArray[np.generic]]) -> None:
        """Set one stream's memory to a snapshot; raises BackendError, with nothing changed, when it does not fit."""
        with self._guard:
            self._check_in(member)
            self.backend.state.restore(snapshot, member.slot)
            member.lane.restored(snapshot)

    def leave(self, member: Member) -> None:
        """Take a stream's slot back; it may leave twice."""
        with self._guard:
            if member in self.members:
                self._members[member.slot] = None

    def rehearse(self) -> None:
        """Run a step that counts for nothing, as `Stream.rehearse` does."""
        if self._guard.try_enter():
            try:
                self._check_open()
                self.backend.rehearse()
            except ContextLostError:
                self._begin_anew()
            finally:
                self._guard.leave()

    def close(self) -> None:
        """Release the engine, once the step at hand is over; may be called twice."""
        if not self._closed:
            self._closed = True
            self._guard.at_rest(self.backend.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _place(self, member: Member, frame: Frame, now_ns: int) -> int:
        """Lay a frame into its slot, its memory emptied if a rule says so, and return when it was captured."""
        lane, backend = member.lane, self.backend
        captured = lane.captured(frame, now_ns)
        broken = lane.continuity.broken_by(frame, captured, now_ns)
        if broken is not None:
            self._empty(member, broken)
        backend.frames[member.slot] = frame.pixels
        backend.dt[member.slot, 0] = lane.continuity.since_last(captured)
        return captured

    def _answer(
        self, member: Member, frame: Frame, captured: int, begun: int, inferred: int, outputs: Arrays
    ) -> Prediction | PoisonError:
        try:
            if self._rules.not_finite and not self.backend.state.is_finite(member.slot):
                raise NotFiniteError("the memory")
            return member.lane.answer(frame, captured, begun, inferred, outputs, member.slot)
        except NotFiniteError as error:
            self._empty(member, "not finite")
            return member.lane.poisoned(f"{error} of {member.name!r}")

    def _begin_anew(self) -> None:
        """Go on with an engine that was built anew, and remembers nothing."""
        for member in self.members:
            self._empty(member, "engine rebuilt")

    def _empty(self, member: Member, reason: str) -> None:
        self.backend.state.reset(member.slot)
        member.lane.emptied(reason)

    def _check_in(self, member: Member) -> None:
        self._check_open()
        if member not in self.members:
            raise ClosedError(
                f"stream {member.name!r}, which has left", expected="a stream of this group", fix="let it join again"
            )

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("a closed group of streams", expected="an open one", fix="open the bundle again")
