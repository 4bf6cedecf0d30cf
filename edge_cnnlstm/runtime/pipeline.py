"""Source → mailbox → stream → sinks: one thread fetches frames, another decides, and none is lost unaccounted for."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import closing

from edge_cnnlstm.errors import ClosedError, ContextLostError, FrameError, PoisonError
from edge_cnnlstm.runtime.fetch import fetching
from edge_cnnlstm.runtime.frame import Frame
from edge_cnnlstm.runtime.mailbox import Counts, Mailbox, Policy
from edge_cnnlstm.runtime.prediction import Prediction
from edge_cnnlstm.runtime.realtime import MARGIN_NS, MOST_WARM, OFF, WARM_NS, WARM_STEPS, Realtime, Rhythm
from edge_cnnlstm.runtime.sinks.base import FanOut, Sink
from edge_cnnlstm.runtime.sources.base import Source
from edge_cnnlstm.runtime.stream import Stream

log = logging.getLogger(__name__)
JOIN_SECONDS = 5.0


class Pipeline:
    """Iterate it, with `for` or `async for`, for (frame, prediction) pairs, or `run` it into sinks.

    `policy` is newest, every or skip-k, see `mailbox.Policy`; `counts` says what became of every frame. Frames that the
    network was not made for are counted as refused and passed over; one whose answer is not finite, or under which a
    GPU's context died, is dropped, and the next starts from an empty memory. An error in the source is raised to the
    iterating thread once the frames before it are done; one in the engine at once. Either ends the iteration.
    `realtime` is what to do in order to be on time. Closing the pipeline closes the source, not the stream.
    """

    def __init__(self, source: Source, stream: Stream, policy: str = "newest", *, realtime: Realtime = OFF) -> None:
        self._source = source
        self._stream = stream
        self._realtime = realtime
        self._mailbox = Mailbox(Policy.of(policy))
        self._rhythm = Rhythm()
        self._infer_ns = 0
        self._lifecycle = threading.Lock()
        self._begun = False
        self._given_up = False
        self._thread = fetching(source, self._mailbox, realtime)

    @property
    def counts(self) -> Counts:
        """What became of the frames; final once the iteration has ended."""
        return self._mailbox.counts

    def run(self, *sinks: Sink) -> Counts:
        """Give every prediction to every sink until the source ends or `stop` is called; then close the sinks."""
        with closing(FanOut(*sinks)) as sink:
            for frame, prediction in self:
                sink.write(frame, prediction)
        return self.counts

    def __iter__(self) -> Generator[tuple[Frame, Prediction], None, None]:
        # The collector runs once more before the loop: no frame shall wait for it.
        with self._realtime.loop():
            self._begin()
            try:
                for frame in self._frames():
                    prediction = self._step(frame)
                    if prediction is not None:
                        yield frame, prediction
            finally:
                self.close()

    async def __aiter__(self) -> AsyncIterator[tuple[Frame, Prediction]]:
        import asyncio  # here, and the next, because only few robots need them, and all would wait for them
        from concurrent.futures import ThreadPoolExecutor

        # A thread of its own, the same for every step: engines on a GPU belong to the thread that uses them first.
        pool = ThreadPoolExecutor(1, "edge-cnnlstm-stream")
        loop, pairs = asyncio.get_running_loop(), iter(self)
        try:
            while (pair := await loop.run_in_executor(pool, next, pairs, None)) is not None:
                yield pair
        finally:
            self.stop()
            await loop.run_in_executor(pool, pairs.close)
            pool.shutdown(wait=False)

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

    def _begin(self) -> None:
        with self._lifecycle:
            if self._begun or self._mailbox.closed:
                raise ClosedError(
                    "a pipeline that was iterated before, or closed", expected="a new one", fix="make another Pipeline"
                )
            self._thread.start()
            self._begun = True

    def _frames(self) -> Iterator[Frame]:
        while True:
            if self._realtime.keep_warm:
                self._keep_warm()
            frame = self._mailbox.take()
            if frame is None:
                return
            self._rhythm.heard(self._mailbox.arrived_ns)
            yield frame
            self._stream.latency.tidy()

    def _keep_warm(self) -> None:
        """Rehearse until just before the next frame is due, unless it comes earlier.

        A network that needs a good part of the period has no time to cool down, and none to throw away.
        """
        due, long = self._rhythm.next_ns, max(WARM_NS, WARM_STEPS * self._infer_ns)
        if due is None or long > self._rhythm.period_ns * MOST_WARM:
            return
        begin, last = due - MARGIN_NS - long, due - MARGIN_NS - self._infer_ns
        while begin <= last and not self._mailbox.wait(until_ns=begin):
            self._stream.rehearse()
            begin = time.monotonic_ns()
            if begin > last - self._infer_ns:
                begin = max(begin, last)  # so that the last one ends with the margin

    def _step(self, frame: Frame) -> Prediction | None:
        """Predict; None for a frame that the network was not made for, that poisoned its memory, or that a GPU lost."""
        try:
            prediction = self._stream.step(frame)
        except FrameError as error:
            if not self._mailbox.counts.refused:
                log.warning("passed over a frame, and will do so without a word from now on: %s", error)
            self._mailbox.gave_up(refused=True)
            return None
        except (PoisonError, ContextLostError) as error:
            log.warning("dropped frame %d: %s", frame.index, error)
            self._mailbox.gave_up(refused=False)
            return None
        except BaseException:
            self._mailbox.gave_up(refused=False)
            raise
        self._infer_ns = prediction.timings.infer
        self._mailbox.answered()
        return prediction
