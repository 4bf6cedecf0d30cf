"""What is under test: one stream, or several in one step, behind the two callbacks that LoadGen knows.

Our networks have a memory, and MLPerf's have none; what a query means is therefore said here.

    SingleStream  one camera back to back: each frame goes on from the one that LoadGen issued before it
    Server        one camera whose frames come at random instants, over a network: the same memory, in order of arrival
    MultiStream   as many cameras as a query has samples: the i-th sample is always the i-th stream's
    Offline       recordings that are all there: the i-th sample is that of stream i modulo the number of streams

Memory is emptied before the first query, and never after it: a run is one long stream. LoadGen draws frames in its own
order, which makes no film; it costs what a film does, and the answers are checked (`accuracy.py`).
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from benchmarks.loadgen.library import Library
from benchmarks.loadgen.plan import Plan
from edge_cnnlstm.errors import PoisonError
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.runtime.group import StreamGroup
from edge_cnnlstm.runtime.prediction import Answer, Classification, Prediction, Regression
from edge_cnnlstm.runtime.realtime import Realtime
from edge_cnnlstm.runtime.selection import Proven, proven_engine
from edge_cnnlstm.runtime.stream import Stream
from edge_cnnlstm.spec import StateRules

ONE_LONG_STREAM = StateRules(gap_ms=None)
WITHOUT_COLLECTOR = Realtime(keep_warm=False, spin_us=0, freeze_collector=True, priority=None)
"""All that a run does to be on time: the garbage collector is kept out."""
NOTHING = array("f")
Samples = Any
"""LoadGen's vector of samples, each with an `id` and the `index` of its frame."""


class Cameras(Protocol):
    """Streams that are stepped together: `step` takes a frame of each of the first ones, and answers in their order."""

    streams: int
    backend: str
    graph: str

    def step(self, frames: Sequence[Pixels]) -> Sequence[Prediction]: ...
    def reset(self) -> None: ...
    def close(self) -> None: ...


class OneCamera:
    """A `Stream`."""

    streams = 1

    def __init__(self, stream: Stream) -> None:
        self.backend, self.graph = stream.backend.name, str(stream.graph)
        self.stream = stream
        self.reset, self.close = stream.reset, stream.close

    def step(self, frames: Sequence[Pixels]) -> Sequence[Prediction]:
        return (self.stream.step(frames[0]),)


class ManyCameras:
    """A `StreamGroup` with every slot taken."""

    def __init__(self, group: StreamGroup, graph: str) -> None:
        self.backend, self.graph = group.backend.name, graph
        self.streams = group.spec.batch
        self.close = group.close
        self._group = group
        self._members = [group.join() for _ in range(self.streams)]

    def step(self, frames: Sequence[Pixels]) -> Sequence[Prediction]:
        answers = self._group.step(dict(zip(self._members, frames, strict=False)))
        return [_sound(answer) for answer in answers.values()]

    def reset(self) -> None:
        for member in self._members:
            self._group.reset(member)


def open_camera(plan: Plan) -> OneCamera:
    """Open a bundle as `edge_cnnlstm.open` does; the caller closes it."""
    found = _proven(plan, 1)
    return OneCamera(Stream(found.engine, rules=ONE_LONG_STREAM, graph=found.graph))


def open_cameras(plan: Plan, streams: int) -> Cameras:
    """Open a bundle for streams that are stepped together, or for the only one."""
    if streams == 1:
        return open_camera(plan)
    found = _proven(plan, streams)
    return ManyCameras(StreamGroup(found.engine, rules=ONE_LONG_STREAM), found.graph)


class System:
    """MLPerf's system under test: answers each sample with the numbers of its prediction, float32.

    `failure` is the first error; after it every sample is answered with nothing, because LoadGen waits for each.
    `queries` counts what was issued.
    """

    def __init__(self, loadgen: Any, cameras: Cameras, library: Library) -> None:
        self.failure: Exception | None = None
        self.queries = 0
        self._cameras, self._frames = cameras, library.frames
        self._complete, self._response = loadgen.QuerySamplesComplete, loadgen.QuerySampleResponse

    def issue(self, samples: Samples) -> None:
        """Answer before returning: where LoadGen waits for the answer anyway, a second thread would only add to it."""
        self.queries += 1
        streams = self._cameras.streams
        for first in range(0, len(samples), streams):
            batch = samples[first : first + streams]
            said = self._answer(batch)  # LoadGen copies what it keeps while it is told, so that these may go then
            placed = ((numbers.buffer_info()[0], len(numbers) * numbers.itemsize) for numbers in said)
            self._complete([self._response(sample.id, *place) for sample, place in zip(batch, placed, strict=True)])

    def flush(self) -> None:
        """Do nothing: no sample is ever held back for a fuller batch."""

    def finish(self) -> None:
        """End the run; raises what went wrong in it."""
        if self.failure is not None:
            raise self.failure

    def _answer(self, batch: Samples) -> Sequence[array[float]]:
        if self.failure is None:
            try:
                return [numbers(said) for said in self._cameras.step([self._frames[each.index] for each in batch])]
            except Exception as error:  # noqa: BLE001 - LoadGen would wait for ever; `finish` raises it
                self.failure = error
        return [NOTHING] * len(batch)


class Queued(System):
    """The same in a thread of its own, that takes queries in their order: LoadGen goes on issuing meanwhile."""

    def __init__(self, loadgen: Any, cameras: Cameras, library: Library) -> None:
        super().__init__(loadgen, cameras, library)
        self._waiting: SimpleQueue[Samples] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, args=(super().issue,), name="system under test")
        self._thread.start()

    def issue(self, samples: Samples) -> None:
        """Hand a query over, and return at once."""
        self._waiting.put(samples)

    def finish(self) -> None:
        self._waiting.put(None)
        self._thread.join()
        super().finish()

    def _work(self, answer: Callable[[Samples], None]) -> None:
        while (samples := self._waiting.get()) is not None:
            answer(samples)


def numbers(prediction: Prediction) -> array[float]:
    """Return what a prediction says as float32: every logit, every value, every box with its presence."""
    return array("f", [number for answer in prediction.answers.values() for number in _numbers(answer)])


def drive(loadgen: Any, system: System, library: Library, settings: Any, folder: Path) -> None:
    """Let LoadGen run, its files in `folder`; raises what the system under test failed with."""
    logs = loadgen.LogSettings()
    logs.log_output.outdir = str(folder)
    logs.enable_trace = False
    under_test = loadgen.ConstructSUT(system.issue, system.flush)
    samples = loadgen.ConstructQSL(library.count, library.count, library.load, library.unload)
    try:
        with WITHOUT_COLLECTOR.loop():
            loadgen.StartTestWithLogSettings(under_test, samples, settings, logs)
    finally:
        loadgen.DestroyQSL(samples)
        loadgen.DestroySUT(under_test)
        system.finish()


def _proven(plan: Plan, streams: int) -> Proven:
    return proven_engine(
        Path(plan.bundle), plan.backend, plan.graph, threads=plan.threads, streams=streams, strict=False
    )


def _numbers(answer: Answer) -> Sequence[float]:
    if isinstance(answer, Classification):
        return answer.logits
    if isinstance(answer, Regression):
        return tuple(answer.values.values())
    return (*answer.box, answer.presence)


def _sound(answer: Prediction | PoisonError) -> Prediction:
    if isinstance(answer, PoisonError):
        raise answer
    return answer
