"""What each kernel of an engine takes, by the engine's own profiler, as a worker's process.

The engine is opened exactly as a stream opens it, but for the profiler.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.processes import Message, Turn, serve
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.runtime.backends import ov
from edge_cnnlstm.runtime.backends.base import Backend, advance
from edge_cnnlstm.runtime.optional import load_onnxruntime
from edge_cnnlstm.runtime.selection import load_engine

KERNEL_TIME = "_kernel_time"
"""How ONNX Runtime's profile calls a kernel's own time, behind the node's name."""


def main(path: str, graph: str, backend: str, threads: str) -> tuple[Message, Turn]:
    """Read a bundle; a turn opens its engine anew, and answers the microseconds of each kernel.

    A kernel has a `name`, those of the operators that were fused into it (`made_of`), a `kind`, and `us`. `profiler_us`
    is what the profiler itself added to each, already taken off.
    """
    bundle = bundle_format.read(path)
    measure = {"onnxruntime": _in_onnxruntime, "openvino": _in_openvino}[backend]

    def turn(asked: Message) -> Message:
        frames = islice(cycle(bundle.golden.frames), asked["warm_up"] + asked["steps"])
        return measure(
            lambda: load_engine(bundle, bundle.manifest.graph(graph), backend, threads=int(threads)),
            list(frames),
            asked["warm_up"],
        )

    return {}, turn


def _in_onnxruntime(load: Callable[[], Backend], frames: Sequence[Any], warm_up: int) -> Message:
    ort = load_onnxruntime()
    plain = ort.SessionOptions

    def profiled() -> Any:
        options = plain()
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        return options

    with tempfile.TemporaryDirectory() as folder, patch.object(ort, "SessionOptions", profiled):
        engine: Any = load()
        for frame in frames:
            advance(engine, frame)
        file = engine._session.end_profiling()  # noqa: SLF001 - a backend has no profiler, and needs none elsewhere
        engine.close()
        events = json.loads(Path(file).read_text(encoding="utf-8"))
    return onnxruntime_kernels(events, warm_up)


def onnxruntime_kernels(events: Sequence[dict[str, Any]], warm_up: int) -> Message:
    """Return what ONNX Runtime's profile says of each kernel: the mean of the middle half of its runs.

    Its clock adds microseconds to every kernel. The shortest kernels only pass a tensor on, so that what they seem to
    take is that cost; it is taken off all.
    """
    runs, kinds = defaultdict[str, list[float]](list), dict[str, str]()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL_TIME):
            name = event["name"].removesuffix(KERNEL_TIME)
            runs[name].append(event["dur"])
            kinds[name] = event["args"]["op_name"]
    typical = {name: _middle(durations[warm_up:]) for name, durations in runs.items()}
    cost = min(typical.values(), default=0.0)
    return {
        "profiler_us": cost,
        "kernels": [
            {"name": name, "made_of": [], "kind": kinds[name], "us": us - cost} for name, us in typical.items()
        ],
    }


def _middle(durations: Sequence[float]) -> float:
    quarter = len(durations) // 4
    return float(np.mean(sorted(durations)[quarter : len(durations) - quarter]))


def _in_openvino(load: Callable[[], Backend], frames: Sequence[Any], warm_up: int) -> Message:
    """OpenVINO keeps a mean over all runs, those too that packed the weights: they are taken out of it again."""
    with patch.dict(ov.SETTINGS, PERF_COUNT=True):
        engine: Any = load()
    for frame in frames[:warm_up]:
        advance(engine, frame)
    request = engine._requests[0]  # noqa: SLF001 - as above
    cold = _means_us(request)
    for frame in frames[warm_up:]:
        advance(engine, frame)
    warm, count = _means_us(request), len(frames)
    model = request.get_compiled_model().get_runtime_model()
    made_of = {node.friendly_name: _originals(node) for node in model.get_ops()}
    kinds = {each.node_name: f"{each.node_type} {each.exec_type}" for each in request.profiling_info}
    engine.close()
    return {
        "profiler_us": 0.0,
        "kernels": [
            {
                "name": name,
                "made_of": made_of.get(name, []),
                "kind": kinds[name],
                "us": max(0.0, (us * count - cold[name] * warm_up) / (count - warm_up)),
            }
            for name, us in warm.items()
        ],
    }


def _means_us(request: Any) -> dict[str, float]:
    return {each.node_name: each.real_time.total_seconds() * 1e6 for each in request.profiling_info}


def _originals(node: Any) -> list[str]:
    info = node.rt_info
    return info["originalLayersNames"].astype(str).split(",") if "originalLayersNames" in info else []


if __name__ == "__main__":
    serve(main)
