"""Several sources → a mailbox each → one group: a batched step for whatever is ready."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass

from edge_cnnlstm.errors import ClosedError, ContextLostError, FrameError
from edge_cnnlstm.runtime.fetch import fetching
from edge_cnnlstm.runtime.frame import Frame
from edge_cnnlstm.runtime.group import Member, StreamGroup
from edge_cnnlstm.runtime.mailbox import SIGNAL_S, Counts, Mailbox, Policy
from edge_cnnlstm.runtime.pipeline import JOIN_SECONDS
from edge_cnnlstm.runtime.prediction import Prediction
from edge_cnnlstm.runtime.realtime import OFF, Realtime
from edge_cnnlstm.runtime.sources.base import Source

log = logging.getLogger(__name__)
Answers = dict[str, tuple[Frame, Prediction]]


@dataclass(frozen=True, slots=True, eq=False)
class _Feed:
    name: str
    source: Source
    mailbox: Mailbox
    member: Member
    thread: threading.Thread


class Cameras:
    """Iterate it for {name: (frame, prediction)} of the sources that had a frame; each has a memory of its own.

    `policy` is as `Pipeline` has it, for each source. The first frame to come waits `gather_ms` for the others, so that
    cameras in step share a batch; `realtime` is as `Pipeline` has it, but nothing is kept warm. A source that breaks
    leaves, with its error in `errors`, and the others go on; an error in the engine is raised. Iteration ends with the
    last source. Closing closes the sources, not the group.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        group: StreamGroup,
        policy: str = "newest",
        *,
        gather_ms: float = 1.0,
        realtime: Realtime = OFF,
    ) -> None:
        self.errors: dict[str, BaseException] = {}
        self._group = group
        self._gather_s = gather_ms / 1e3
        self._realtime = realtime
        self._changed = threading.Condition()
        self._begun = False
        self._feeds = [self._feed(name, source, Policy.of(policy)) for name, source in sources.items()]

    @property
    def counts(self) -> dict[str, Counts]:
        """What became of each source's frames; final once the iteration has ended."""
        return {feed.name: feed.mailbox.counts for feed in self._feeds}

    def __iter__(self) -> Generator[Answers, None, None]:
        if self._begun:
            raise ClosedError("cameras that were iterated before, or closed", expected="new ones", fix="make others")
        self._begun = True
        with self._realtime.loop():
            for feed in self._feeds:
                feed.thread.start()
            try:
                while (ready := self._ready()) is not None:
                    answers = self._step(ready)
                    if answers:
                        yield answers
            finally:
                self.close()

    def stop(self) -> None:
        """End the iteration after the step at hand; safe in a signal handler and from any thread."""
        for feed in self._feeds:
            feed.mailbox.stop()

    def close(self) -> None:
        """Stop fetching, and leave the group; frames still waiting count as dropped. May be called twice."""
        begun, self._begun = self._begun, True
        for feed in self._feeds:
            feed.mailbox.close()
        for feed in self._feeds:
            if begun:
                feed.thread.join(timeout=JOIN_SECONDS)
            else:
                feed.source.close()
            self._group.leave(feed.member)

    def _feed(self, name: str, source: Source, policy: Policy) -> _Feed:
        mailbox = Mailbox(policy, self._changed)
        return _Feed(name, source, mailbox, self._group.join(name), fetching(source, mailbox, self._realtime))

    def _ready(self) -> dict[_Feed, Frame] | None:
        """Wait for a frame, then a little for the others; None when every source has ended."""
        with self._changed:
            while not (waiting := self._waiting()):
                self._note_errors()
                if all(feed.mailbox.ended for feed in self._feeds):
                    return None
                self._changed.wait(timeout=SIGNAL_S)
            until = time.monotonic() + self._gather_s
            while len(waiting) < sum(not feed.mailbox.ended for feed in self._feeds):
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(timeout=left)
                waiting = self._waiting()
            taken = {feed: feed.mailbox.poll() for feed in waiting}
        return {feed: frame for feed, frame in taken.items() if frame is not None} or None

    def _waiting(self) -> list[_Feed]:
        return [feed for feed in self._feeds if feed.mailbox.counts.waiting]

    def _step(self, ready: dict[_Feed, Frame]) -> Answers:
        fitting = {feed: frame for feed, frame in ready.items() if self._fits(feed, frame)}
        if not fitting:
            return {}
        try:
            found = self._group.step({feed.member: frame for feed, frame in fitting.items()})
        except BaseException as error:
            for feed in fitting:
                feed.mailbox.gave_up(refused=False)
            if isinstance(error, ContextLostError):
                log.warning("dropped a frame of each camera: %s", error)
                return {}
            raise
        answers: Answers = {}
        for feed, frame in fitting.items():
            prediction = found[feed.member]
            if isinstance(prediction, Prediction):
                feed.mailbox.answered()
                answers[feed.name] = frame, prediction
            else:
                feed.mailbox.gave_up(refused=False)
                log.warning("%s: %s", feed.name, prediction)
        return answers

    def _fits(self, feed: _Feed, frame: Frame) -> bool:
        try:
            feed.member.lane.accept(frame)
        except FrameError as error:
            if not feed.mailbox.counts.refused:
                log.warning("%s: passed over a frame, and will do so without a word from now on: %s", feed.name, error)
            feed.mailbox.gave_up(refused=True)
            return False
        return True

    def _note_errors(self) -> None:
        for feed in self._feeds:
            if feed.mailbox.ended and feed.mailbox.error is not None and feed.name not in self.errors:
                self.errors[feed.name] = feed.mailbox.error
                log.warning("%s ended: %s", feed.name, feed.mailbox.error)
