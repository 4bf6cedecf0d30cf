"""Source → mailbox → stream: one thread fetches frames, another decides, and none is lost unaccounted for."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from edge_cnnlstm.errors import ClosedError, ConfigError
from edge_cnnlstm.runtime.frame import Frame
from edge_cnnlstm.runtime.prediction import Prediction
from edge_cnnlstm.runtime.sources.base import Source
from edge_cnnlstm.runtime.stream import Stream

Policy = Literal["newest", "every"]
QUEUE_FRAMES = 32
JOIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Counts:
    """Frames that the source produced, that were predicted, and that were dropped: the first is the sum."""

    produced: int
    predicted: int
    dropped: int


class Pipeline:
    """Iterate it for (frame, prediction) pairs; afterwards `counts` says what became of every frame.

    `newest` keeps one frame waiting and replaces it when a newer one comes: what a robot wants. `every` makes
    the source wait: what a file wants. An error in the source is raised to the iterating thread once the frames
    before it are done; an error in the stream is raised at once. Either ends the iteration. Closing the pipeline
    closes the source, not the stream.
    """

    def __init__(self, source: Source, stream: Stream, policy: Policy = "newest") -> None:
        if policy not in ("newest", "every"):
            raise ConfigError(f"policy {policy!r}", expected="newest or every", fix="choose one of these")
        self._source = source
        self._stream = stream
        self._mailbox = _Mailbox(capacity=1 if policy == "newest" else QUEUE_FRAMES, replace=policy == "newest")
        self._predicted = 0
        self._lifecycle = threading.Lock()
        self._begun = False
        self._given_up = False
        self._thread = threading.Thread(target=self._fetch, name="edge-cnnlstm-source", daemon=True)

    @property
    def counts(self) -> Counts:
        """What became of the frames; final once the iteration has ended."""
        produced = self._mailbox.produced
        return Counts(produced, self._predicted, self._mailbox.dropped)

    def __iter__(self) -> Iterator[tuple[Frame, Prediction]]:
        with self._lifecycle:
            if self._begun or self._mailbox.closed:
                raise ClosedError(
                    "a pipeline that was iterated before, or closed", expected="a new one", fix="make another Pipeline"
                )
            self._thread.start()
            self._begun = True
        try:
            while (frame := self._mailbox.take()) is not None:
                prediction = self._step(frame)
                yield frame, prediction
        finally:
            self.close()

    def stop(self) -> None:
        """End the iteration after the frame at hand; safe in a signal handler and from any thread."""
        self._mailbox.stop()

    def close(self) -> None:
        """Stop fetching; frames still waiting count as dropped. May be called twice."""
        self._mailbox.close()
        with self._lifecycle:
            begun = self._begun
        if not begun:
            self._source.close()
        elif not self._given_up:
            self._thread.join(timeout=JOIN_SECONDS)
            self._given_up = self._thread.is_alive()

    def _step(self, frame: Frame) -> Prediction:
        try:
            prediction = self._stream.step(frame)
        except BaseException:
            self._mailbox.refuse()
            raise
        self._predicted += 1
        return prediction

    def _fetch(self) -> None:
        error: BaseException | None = None
        try:
            for frame in self._source:
                if not self._mailbox.put(frame):
                    break
        except BaseException as raised:  # noqa: BLE001 - handed to the consumer, which raises it
            error = raised
        # The thread that reads is the one that releases: a camera released under a read crashes OpenCV.
        try:
            self._source.close()
        except BaseException as raised:  # noqa: BLE001 - as above
            error = error or raised
        self._mailbox.finish(error)


class _Mailbox:
    """Hands frames from one thread to another and counts them."""

    def __init__(self, capacity: int, *, replace: bool) -> None:
        self.produced = 0
        self.dropped = 0
        self._capacity = capacity
        self._replace = replace
        self._frames: deque[Frame] = deque()
        self._changed = threading.Condition()
        self.closed = False
        self._stopped = False
        self._finished = False
        self._error: BaseException | None = None

    def put(self, frame: Frame) -> bool:
        """Leave a frame, waiting for room or replacing the oldest; False once nobody will take it."""
        with self._changed:
            self.produced += 1
            while not self.closed and not self._replace and len(self._frames) == self._capacity:
                self._changed.wait()
            if self.closed:
                self.dropped += 1
                return False
            if len(self._frames) == self._capacity:
                self._frames.popleft()
                self.dropped += 1
            self._frames.append(frame)
            self._changed.notify_all()
            return True

    def finish(self, error: BaseException | None) -> None:
        """Say that no more frames come, and why if it was an error."""
        with self._changed:
            self._finished, self._error = True, error
            self._changed.notify_all()

    def take(self) -> Frame | None:
        """Wait for a frame; None at the end. Raises the source's error after its last frame."""
        with self._changed:
            while not (self._frames or self._finished or self.closed or self._stopped):
                # With a limit, because a signal handler may call `stop` between the look and the wait.
                self._changed.wait(timeout=0.25)
            if self._stopped:
                return None
            if self._frames:
                frame = self._frames.popleft()
                self._changed.notify_all()
                return frame
            if self._error is not None:
                raise self._error
            return None

    def refuse(self) -> None:
        """Count a frame that was taken but could not be predicted."""
        with self._changed:
            self.dropped += 1

    def stop(self) -> None:
        """Give out no more frames. The lock is re-entrant, so a signal handler may call this."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def close(self) -> None:
        """Stop both sides; what still waits is dropped."""
        with self._changed:
            self.closed = True
            self.dropped += len(self._frames)
            self._frames.clear()
            self._changed.notify_all()
