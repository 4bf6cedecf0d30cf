"""The account of a run as JSON data: what became of every frame, where its time went, and if that can be believed.

`edge-cnnlstm run` writes it, and the streaming report is drawn from it alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from edge_cnnlstm.provenance import machine, versions
from edge_cnnlstm.runtime.backends.base import Backend
from edge_cnnlstm.runtime.backends.trt import TensorRtBackend
from edge_cnnlstm.runtime.histogram import RELATIVE_ERROR, Histogram, summarise
from edge_cnnlstm.runtime.mailbox import Counts
from edge_cnnlstm.runtime.realtime import Realtime
from edge_cnnlstm.runtime.stream import Stream

SCHEMA_VERSION = 1
SAMPLES = {"p99": 2_010, "p99_9": 20_140}
"""Frames behind a percentile that can be depended on: MLPerf's early stopping, with ten frames above it allowed."""
DISTRIBUTIONS = (
    *("edge-cnnlstm", "numpy", "onnxruntime", "openvino", "opencv-python-headless", "opencv-python"),
    *("tensorrt", "tensorrt-rtx", "pycuda", "cuda-bindings", "onnxruntime-gpu"),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run was asked for. `sinks` names what took its predictions; `live` says that no frame waits for it."""

    bundle: str
    source: str
    live: bool
    rate: float | None
    policy: str
    threads: int
    realtime: Realtime
    sinks: tuple[str, ...] = ()


def account(
    stream: Stream,
    counts: Counts,
    settings: Settings,
    *,
    started: datetime,
    telemetry: Mapping[str, Any] | None,
    error: str | None = None,
) -> dict[str, Any]:
    """Return the account of a run that is over.

    Times are in the unit that their name ends with. `lost` are frames that the source itself lost; `response_ms` is
    the age of every frame at the first decision after it, those without an answer included; of the timeline, `lost`
    counts all that are without one. `telemetry` is what its recorder says, None where there was none; `error` is what
    ended the run early; `gpu` is what the engine says of its GPU, None where there is none.
    """
    latency = stream.latency
    ages, response, idle = latency.stages["age"], latency.response, latency.first_after_idle
    because = [] if telemetry is None else list(telemetry["verdict"]["reasons"])
    return {
        "schema_version": SCHEMA_VERSION,
        "started": started.isoformat(timespec="seconds"),
        "bundle": settings.bundle,
        "graph": stream.graph,
        "digest": stream.digest,
        "source": _public(settings.source),
        "live": settings.live,
        "backend": stream.backend.name,
        "passed_over": list(stream.passed_over),
        "threads": settings.threads,
        "rate": settings.rate,
        "policy": settings.policy,
        "rules": asdict(stream.rules),
        "realtime": asdict(settings.realtime) | {"cpus": sorted(settings.realtime.cpus or ()) or None},
        "sinks": list(settings.sinks),
        "error": error,
        "valid": not because,
        "invalid_because": because,
        "frames_in": counts.produced,
        "predicted": counts.predicted,
        "dropped": counts.dropped,
        "refused": counts.refused,
        "lost": counts.lost,
        "resets": dict(stream.resets),
        "clock_faults": latency.clock_faults,
        "deadline_ms": None if latency.deadline_ns is None else latency.deadline_ns / 1e6,
        "deadline_misses": latency.deadline_misses,
        "longest_miss_burst": latency.longest_miss_burst,
        "fps": latency.fps,
        "samples": {name: {"needed": needed, "reached": ages.count >= needed} for name, needed in SAMPLES.items()},
        "relative_error": RELATIVE_ERROR,
        "latency_ms": {stage: _summary(histogram) for stage, histogram in latency.stages.items()},
        "gpu": _gpu(stream.backend),
        "response_ms": _summary(response),
        "response_frames": response.count,
        "jitter_ms": _summary(latency.jitter),
        "first_after_idle_ms": _summary(idle) | {"count": idle.count},
        "age_histogram_ns": ages.buckets(),
        "response_histogram_ns": response.buckets(),
        "timeline": {"started_ns": latency.timeline.start_ns, **latency.timeline.document()},
        "telemetry": telemetry,
        "machine": machine(),
        "versions": versions(*DISTRIBUTIONS),
    }


def _gpu(backend: Backend) -> dict[str, Any] | None:
    if not isinstance(backend, TensorRtBackend):
        return None
    times = backend.device_times
    return {
        "graphs": backend.uses_graphs,
        "bytes_copied": backend.bytes_copied,
        "stages_ms": times and {stage: _summary(histogram) for stage, histogram in times.stages.items()},
    }


def _summary(histogram: Histogram) -> dict[str, float | None]:
    return asdict(summarise(histogram))


def _public(source: str) -> str:
    """Leave the name and the password of a camera out of what may be shown around."""
    return re.sub(r"://[^/@]*@", "://…@", source)
