"""One frame every 33 ms, as a camera sends them: by our runtime, and by engines as they are commonly used.

Every sample is one whole answer: uint8 frame in, label out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from itertools import cycle, islice
from typing import Any

import numpy as np

from benchmarks.latency import WARM_UP_FRAMES
from benchmarks.processes import Cost, answer
from benchmarks.statistics import percentile
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle.format import Bundle
from edge_cnnlstm.runtime.frame import Frame, Pixels
from edge_cnnlstm.runtime.opening import open_stream
from edge_cnnlstm.runtime.pipeline import Pipeline
from edge_cnnlstm.runtime.prediction import Prediction
from edge_cnnlstm.runtime.realtime import OFF, Realtime
from edge_cnnlstm.runtime.sources.array import ArraySource
from edge_cnnlstm.runtime.stream import Stream
from edge_cnnlstm.spec import ModelSpec

RATE = 30.0
Answer = Callable[[Pixels], object]
CLOSED_TIMES = 4
"""A closed loop has so many times the frames: it is over in no time."""


def main(path: str, kind: str, backend: str, graph: str, frames: str) -> dict[str, Any]:
    """Answer so many frames, and return p50 and p99 in µs, and the share of a core that it all cost.

    `closed` is our step back to back, `ours` the pipeline with everything that `--realtime` switches on, `untuned` the
    pipeline without, and `peer` the engine's own call, as its documentation shows it.
    """
    bundle, count = bundle_format.read(path), int(frames)
    if kind == "peer":
        samples, share = _by_hand(bundle, _PEERS[backend](bundle.graph(graph), bundle.manifest.model), count)
    else:
        with open_stream(path, backend=backend, graph=graph) as stream:
            if kind == "closed":
                samples, share = _closed(bundle, stream.step, count * CLOSED_TIMES)
            else:
                samples, share = _streamed(bundle, stream, count, Realtime() if kind == "ours" else OFF)
    return {
        "p50_us": percentile(samples, 50) / 1e3,
        "p99_us": percentile(samples, 99) / 1e3,
        "core_share": share,
        "samples": len(samples),
    }


def _frames(bundle: Bundle, count: int) -> list[Pixels]:
    return list(islice(cycle(bundle.golden.frames), WARM_UP_FRAMES + count))


def _closed(bundle: Bundle, step: Answer, count: int) -> tuple[list[int], float]:
    samples, cost = [], Cost()
    for pixels in _frames(bundle, count):
        begun = time.monotonic_ns()
        step(pixels)
        samples.append(time.monotonic_ns() - begun)
    return samples[WARM_UP_FRAMES:], cost.share()


def _by_hand(bundle: Bundle, step: Answer, count: int) -> tuple[list[int], float]:
    """Sleep until each frame is due, and answer it: the loop that everybody writes."""
    samples, start = [], time.monotonic_ns()
    cost = Cost()
    for index, pixels in enumerate(_frames(bundle, count)):
        time.sleep(max(0.0, start / 1e9 + index / RATE - time.monotonic()))
        begun = time.monotonic_ns()
        step(pixels)
        samples.append(time.monotonic_ns() - begun)
    return samples[WARM_UP_FRAMES:], cost.share()


def _streamed(bundle: Bundle, stream: Stream, count: int, realtime: Realtime) -> tuple[list[int], float]:
    timed = TimedStream(stream)
    source = ArraySource(_frames(bundle, count), rate=RATE, spin_us=realtime.spin_us)
    cost = Cost()
    Pipeline(source, timed, "newest", realtime=realtime).run()  # type: ignore[arg-type]  # it is a stream in all that is used
    return timed.samples[WARM_UP_FRAMES:], cost.share()


class TimedStream:
    """A stream whose steps are timed from outside, everything that they do included."""

    def __init__(self, stream: Stream) -> None:
        self.samples: list[int] = []
        self.latency, self.rehearse = stream.latency, stream.rehearse
        self._step = stream.step

    def step(self, frame: Frame) -> Prediction:
        begun = time.monotonic_ns()
        prediction = self._step(frame)
        self.samples.append(time.monotonic_ns() - begun)
        return prediction


def _onnxruntime(graph: bytes, spec: ModelSpec) -> Answer:
    ort: Any = import_module("onnxruntime")
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        return dict(zip(names, session.run(names, feeds), strict=True))

    return _remembering(run, spec)


def _openvino(graph: bytes, spec: ModelSpec) -> Answer:
    import io

    openvino: Any = import_module("openvino")
    model = openvino.Core().read_model(io.BytesIO(graph))
    model.reshape(
        {
            port.any_name: [1 if side.is_dynamic else side.get_length() for side in port.partial_shape]
            for port in model.inputs
        }
    )
    compiled = openvino.Core().compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    wanted = {output.name for output in spec.outputs} | {pair.output for pair in spec.states}
    ports = {name: port for port in compiled.outputs for name in port.names & wanted}

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        found = compiled(feeds)
        return {name: found[port].copy() for name, port in ports.items()}

    return _remembering(run, spec)


def _remembering(run: Callable[[dict[str, Any]], dict[str, Any]], spec: ModelSpec) -> Answer:
    """Carry the memory by hand and read the first head's label, as an example script does."""
    memory: dict[str, Any] = {pair.input: pair.zeros() for pair in spec.states}
    first = spec.heads[0]

    def answer_one(pixels: Pixels) -> object:
        results = run({spec.frame.name: pixels[None], **memory})
        for pair in spec.states:
            memory[pair.input] = results[pair.output]
        best = int(np.argmax(results[first.outputs[0]][0]))
        return first.labels[best] if first.labels else best

    return answer_one


_PEERS = {"onnxruntime": _onnxruntime, "openvino": _openvino}

if __name__ == "__main__":
    answer(main)
