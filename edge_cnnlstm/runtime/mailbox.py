"""Hands frames from one thread to another, and counts every one of them."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Literal

from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.runtime.frame import Frame

QUEUE_FRAMES = 32
SIGNAL_S = 0.25
"""A waiting thread looks up so often: a signal handler may have called `stop` between its look and its wait."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What becomes of frames that come faster than they are taken.

    `newest` keeps one frame waiting and replaces it when a newer one comes: what a robot wants. `every` makes the
    source wait: what a file wants. `skip-k` is `every` for one frame of k + 1, and drops the others: what keeps a fixed
    rate below the camera's.
    """

    kind: Literal["newest", "every"]
    skip: int = 0

    @classmethod
    def of(cls, name: str) -> Policy:
        """Read `newest`, `every` or `skip-k`; raises ConfigError for anything else."""
        if name in ("newest", "every"):
            return cls(name)  # type: ignore[arg-type]  # the line above says which names these are
        kind, _, count = name.partition("-") if isinstance(name, str) else ("", "", "")
        if kind == "skip" and count.isascii() and count.isdigit() and int(count) > 0:
            return cls("every", int(count))
        raise ConfigError(
            f"policy {name!r}", expected="newest, every, or skip-k such as skip-2", fix="choose one of these"
        )


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the frames that a source produced: `produced` is the sum of the next three, at any moment.

    `predicted` were answered, `dropped` never will be, `waiting` are on their way. Of those dropped, `refused` were
    frames that the network was not made for. `lost` are not among them: by the gaps in the frames' numbers, the source
    itself lost them.
    """

    produced: int
    predicted: int
    dropped: int
    waiting: int = 0
    refused: int = 0
    lost: int = 0


class Mailbox:
    """A bounded queue of frames between the thread that fetches and the one that decides.

    Several mailboxes may share `changed`, so that one thread can wait for all of them.
    """

    def __init__(self, policy: Policy, changed: threading.Condition | None = None) -> None:
        self.closed = False
        self.arrived_ns = 0
        """When the last frame came, in monotonic ns; 0 before the first."""
        self._policy = policy
        self._capacity = 1 if policy.kind == "newest" else QUEUE_FRAMES
        self._frames: deque[Frame] = deque()
        self._changed = changed or threading.Condition()
        self._stopped = self._finished = False
        self._error: BaseException | None = None
        self._produced = self._predicted = self._dropped = self._refused = self._lost = 0
        self._last: tuple[str, int] | None = None

    @property
    def counts(self) -> Counts:
        """Every frame so far, at one moment."""
        with self._changed:
            waiting = self._produced - self._predicted - self._dropped
            return Counts(self._produced, self._predicted, self._dropped, waiting, self._refused, self._lost)

    def put(self, frame: Frame) -> bool:
        """Leave a frame, waiting for room or replacing the oldest; False once nobody will take it."""
        with self._changed:
            self._produced += 1
            self._count_lost(frame)
            if (self._produced - 1) % (self._policy.skip + 1):
                self._dropped += 1
                return not self.closed
            while not self.closed and self._policy.kind == "every" and len(self._frames) == self._capacity:
                self._changed.wait()
            if self.closed:
                self._dropped += 1
                return False
            if len(self._frames) == self._capacity:
                self._frames.popleft()
                self._dropped += 1
            self._frames.append(frame)
            self.arrived_ns = time.monotonic_ns()
            self._changed.notify_all()
            return True

    def finish(self, error: BaseException | None) -> None:
        """Say that no more frames come, and why if it was an error."""
        with self._changed:
            self._finished, self._error = True, error
            self._changed.notify_all()

    def wait(self, until_ns: int | None = None) -> bool:
        """Wait until there is something to take, or until an instant; return whether there is."""
        with self._changed:
            while not (self._frames or self._finished or self.closed or self._stopped):
                left = SIGNAL_S if until_ns is None else min(SIGNAL_S, (until_ns - time.monotonic_ns()) / 1e9)
                if left <= 0:
                    return False
                self._changed.wait(timeout=left)
            return True

    def take(self) -> Frame | None:
        """Wait for a frame; None at the end. Raises the source's error after its last frame."""
        with self._changed:
            self.wait()
            frame = self.poll()
            if frame is None and self._error is not None and not self._stopped:
                raise self._error
            return frame

    def poll(self) -> Frame | None:
        """Take a frame if there is one."""
        with self._changed:
            if self._stopped or not self._frames:
                return None
            frame = self._frames.popleft()
            self._changed.notify_all()
            return frame

    @property
    def ended(self) -> bool:
        """Whether there will be nothing more to take."""
        with self._changed:
            return self._stopped or (not self._frames and (self._finished or self.closed))

    @property
    def error(self) -> BaseException | None:
        """What ended the source, if it was an error."""
        return self._error

    def answered(self) -> None:
        """Count a frame that was taken and predicted."""
        with self._changed:
            self._predicted += 1

    def gave_up(self, *, refused: bool) -> None:
        """Count a frame that was taken and could not be predicted; `refused` if the network was not made for it."""
        with self._changed:
            self._dropped += 1
            self._refused += refused

    def stop(self) -> None:
        """Give out no more frames. The lock is re-entrant, so a signal handler may call this."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def close(self) -> None:
        """Stop both sides; what still waits is dropped."""
        with self._changed:
            self.closed = True
            self._dropped += len(self._frames)
            self._frames.clear()
            self._changed.notify_all()

    def _count_lost(self, frame: Frame) -> None:
        if self._last is not None and self._last[0] == frame.source:
            self._lost += max(0, frame.index - self._last[1] - 1)
        self._last = frame.source, frame.index
