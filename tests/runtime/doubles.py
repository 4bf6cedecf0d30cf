"""What the runtime's tests share: a clock that nobody waits for, engines that count, scripts that block or break."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_cnnlstm.runtime import group, lane, mailbox, pipeline, realtime, stream
from edge_cnnlstm.runtime.backends.base import Arrays
from edge_cnnlstm.runtime.backends.scripted import Script, ScriptedBackend
from edge_cnnlstm.runtime.frame import Frame, Pixels
from edge_cnnlstm.runtime.prediction import Prediction
from edge_cnnlstm.runtime.sources import base
from edge_cnnlstm.spec import ModelSpec, TensorSpec

MS = 1_000_000
PERIOD = 33 * MS
PATIENCE = 20.0
"""Seconds until a test that hangs gives up; no test that passes comes near it."""

FRAME = np.zeros((8, 8, 3), np.uint8)
BAD_FRAMES: list[Any] = [
    np.zeros((8, 9, 3), np.uint8),
    np.zeros((9, 8, 3), np.uint8),
    np.zeros((3, 8, 8), np.uint8),
    np.zeros((8, 8, 1), np.uint8),
    np.zeros((8, 8, 4), np.uint8),
    np.zeros((8, 8), np.uint8),
    np.zeros((1, 8, 8, 3), np.uint8),
    np.zeros((1, 1, 3), np.uint8),
    np.zeros((0, 8, 3), np.uint8),
    np.zeros((0,), np.uint8),
    np.zeros((), np.uint8),
    np.zeros((8, 8, 3), np.int8),
    np.zeros((8, 8, 3), np.float32),
    np.full((8, 8, 3), np.nan),
    np.zeros((8, 8, 3), np.bool_),
    np.zeros((8, 8, 3), object),
    np.zeros((8, 8, 3), [("red", np.uint8)]),
    FRAME.tolist(),
    FRAME.tobytes(),
    None,
    7,
    "frame.png",
]


class Clock:
    """Time that passes when somebody sleeps or works."""

    def __init__(self, now: int = 10**12) -> None:
        self.now = now

    def monotonic_ns(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += math.ceil(seconds * 1e9)

    def govern(self, patch: pytest.MonkeyPatch) -> None:
        """Be the time of the whole runtime."""
        for module in (base, group, lane, mailbox, pipeline, realtime, stream):
            patch.setattr(module, "time", SimpleNamespace(monotonic_ns=self.monotonic_ns, sleep=self.sleep))


class CountingBackend(ScriptedBackend):
    """Counts what was asked of it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.inferred = self.rehearsed = self.closed = 0

    def infer(self) -> Arrays:
        self.inferred += 1
        return super().infer()

    def rehearse(self) -> None:
        self.rehearsed += 1
        super().rehearse()

    def close(self) -> None:
        self.closed += 1
        super().close()


class Doorman:
    """Holds a script inside a step until it is let go, once `armed`."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.armed = False
        self.inside, self.go = threading.Event(), threading.Event()

    def __call__(self, *arguments: Any) -> tuple[Arrays, Arrays]:
        if self.armed:
            self.inside.set()
            assert self.go.wait(PATIENCE)
        return self._script(*arguments)


class Thread(threading.Thread):
    """A thread whose result, or error, its maker gets."""

    def __init__(self, call: Callable[[], Any], name: str = "another") -> None:
        super().__init__(name=name, daemon=True)
        self._call = call
        self._result: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:  # noqa: BLE001 - raised by `result`
            self._error = error

    def result(self) -> Any:
        self.join(PATIENCE)
        assert not self.is_alive(), f"{self.name} hangs"
        if self._error is not None:
            raise self._error
        return self._result


@contextmanager
def busy(doorman: Doorman, step: Callable[[], Any], name: str = "first") -> Iterator[Thread]:
    """While the block runs, a thread of this name is inside a step; afterwards the step has ended."""
    doorman.armed = True
    thread = Thread(step, name)
    try:
        assert doorman.inside.wait(PATIENCE)
        yield thread
    finally:
        doorman.armed = False
        doorman.go.set()
        thread.join(PATIENCE)


def said(prediction: Prediction) -> tuple[bytes, object, float]:
    """What a prediction says, bit for bit, and nothing about time."""
    return prediction.scores.tobytes(), prediction.box, prediction.track.presence


def told(prediction: Prediction) -> tuple[object, ...]:
    """All that a prediction says but when."""
    return (*said(prediction), prediction.frame_index, prediction.first_after_reset, prediction.reset_reason)


def film(frames: NDArray[np.uint8], *, start: int = 10**9, source: str = "camera", first: int = 0) -> list[Frame]:
    """Frames of one source, numbered from `first` and captured long ago, a period apart."""
    return [
        Frame(pixels, index, start + index * PERIOD, source=source) for index, pixels in enumerate(frames, start=first)
    ]


def timed(spec: ModelSpec) -> ModelSpec:
    """Return a network that asks for the time since its last frame."""
    return replace(spec, dt=TensorSpec("dt", (spec.batch, 1), "float32"))


def telling_time(script: Script, heard: list[float]) -> Script:
    """Return a script that notes the time since the last frame, and remembers it too."""

    def timely(pixels: Pixels, state: Arrays, dt: float) -> tuple[Arrays, Arrays]:
        heard.append(dt)
        outputs, after = script(pixels, state)
        return outputs, {**after, "c": np.asarray(after["c"], np.float32) + np.float32(dt)}

    return timely


def for_streams(graph: bytes, streams: int) -> bytes:
    """Rewrite the tiny network's graph for so many streams at once."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(graph)
    for tensor in (*model.graph.input, *model.graph.output):
        axis = 1 if tensor.name in ("h", "c", "h_next", "c_next") else 0
        tensor.type.tensor_type.shape.dim[axis].dim_value = streams
    shapes = {"flat": [streams, -1], "memory": [1, streams, -1]}
    for constant in model.graph.initializer:
        if constant.name in shapes:
            constant.CopyFrom(numpy_helper.from_array(np.array(shapes[constant.name], np.int64), constant.name))
    return bytes(model.SerializeToString())
