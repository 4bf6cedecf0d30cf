"""Whether the answers that LoadGen got are those of a stream that nobody measures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.loadgen.library import Library
from benchmarks.loadgen.plan import Plan
from benchmarks.loadgen.system import numbers, open_camera

FILE = "mlperf_log_accuracy.json"


def compare(plan: Plan, library: Library, streams: int, folder: Path) -> dict[str, Any]:
    """Step a lone `Stream` through the frames of each stream of a run, in the order in which they were issued.

    Returns the `answers` compared, how many are `unlike` bit by bit, and the `largest_difference` of their numbers.
    """
    logged = sorted(json.loads((folder / FILE).read_text()), key=lambda each: int(each["seq_id"]))
    answers = [np.frombuffer(bytes.fromhex(each["data"]), np.float32) for each in logged]
    frames = [int(each["qsl_idx"]) for each in logged]
    library.load(set(frames))
    expected: dict[int, NDArray[np.float32]] = {}
    cameras = open_camera(plan)
    try:
        for stream in range(streams):
            cameras.reset()
            for place in range(stream, len(frames), streams):
                (prediction,) = cameras.step([library.frames[frames[place]]])
                expected[place] = np.array(numbers(prediction), np.float32)
    finally:
        cameras.close()
    return {"answers": len(answers)} | _difference(answers, expected)


def _difference(answers: Iterable[NDArray[np.float32]], expected: Mapping[int, NDArray[np.float32]]) -> dict[str, Any]:
    apart = [float(np.abs(answer - expected[place]).max()) for place, answer in enumerate(answers)]
    return {"unlike": sum(each != 0 for each in apart), "largest_difference": max(apart)}
