"""Which engine is faster here: measured once for each graph on each machine, and remembered.

Each engine is tried in a process of its own: their thread pools would fight over the cores in one, and a crash of one
(OpenVINO has crashed on processors that it was not tested on) must not take the robot's software along.
"""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from edge_cnnlstm.bundle.manifest import Graph
from edge_cnnlstm.provenance import cpu_model, versions
from edge_cnnlstm.runtime.optional import is_installed

log = logging.getLogger(__name__)
TURNS = 2
PATIENCE_S = 120
Speeds = dict[str, float]
"""The median step in microseconds, by backend."""


def fastest(path: Path, graph: Graph, digest: str, *, threads: int, streams: int) -> str:
    """Return the backend that steps a graph the fastest on this machine.

    Where only one can run it, nothing is measured. What was measured is kept in `edge-cnnlstm/fastest.json` of the
    user's cache folder, by the graph's digest, the processor and the versions; removing the file makes it measure
    again.
    """
    if graph.dialect == "tensorrt" or not is_installed("openvino"):
        return "onnxruntime"
    if not is_installed("onnxruntime"):
        return "openvino"
    key = " ".join(
        [digest, f"threads={threads}", f"streams={streams}", f"cpu={cpu_model()}"]
        + [f"{name}={version}" for name, version in versions("onnxruntime", "openvino").items()]
    )
    speeds = _remembered().get(key)
    if not _usable(speeds):
        speeds = _measure(path, graph, threads, streams)
        _remember(key, speeds)
    return min(speeds, key=speeds.__getitem__) if speeds else "onnxruntime"


def _usable(speeds: Any) -> bool:
    known = {"onnxruntime", "openvino"}
    return (
        isinstance(speeds, dict)
        and bool(speeds)
        and all(name in known and isinstance(speed, float) and 0 < speed < math.inf for name, speed in speeds.items())
    )


def _measure(path: Path, graph: Graph, threads: int, streams: int) -> Speeds:
    """Let the engines take turns, and keep each one's best: noise only ever adds."""
    log.info("measuring once which engine is faster here on graph %r", graph.name)
    speeds: Speeds = {}
    failed: set[str] = set()
    for _ in range(TURNS):
        for backend in ("onnxruntime", "openvino"):
            found = None if backend in failed else _try(path, graph, backend, threads, streams)
            if found is None:
                failed.add(backend)
                speeds.pop(backend, None)
            else:
                speeds[backend] = min(found, speeds.get(backend, found))
    return speeds


def _try(path: Path, graph: Graph, backend: str, threads: int, streams: int) -> float | None:
    """Return the median step in microseconds, None when the engine fails."""
    words = [sys.executable, "-m", "edge_cnnlstm.runtime.trial", str(path), graph.name, backend, threads, streams]
    try:
        done = subprocess.run(
            [str(word) for word in words], capture_output=True, text=True, timeout=PATIENCE_S, check=True
        )
        return _speed(done.stdout)
    except subprocess.CalledProcessError as error:
        last = (error.stderr or "").strip().splitlines()[-1:]
        log.warning(
            "%s cannot run graph %r here (exit status %d) %s", backend, graph.name, error.returncode, *last or [""]
        )
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        log.warning("%s could not be tried on graph %r: %s", backend, graph.name, error)
    return None


def _speed(said: str) -> float:
    speed = float(said.rsplit(maxsplit=1)[-1])
    if not 0 < speed < math.inf:
        raise ValueError(f"it says that a step takes {speed} µs")
    return speed


def _file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-cnnlstm" / "fastest.json"


def _remembered() -> dict[str, Any]:
    try:
        found = json.loads(_file().read_text())
    except (OSError, ValueError, RuntimeError):  # RuntimeError: a user without a home
        return {}
    return found if isinstance(found, dict) else {}


def _remember(key: str, speeds: Speeds) -> None:
    try:
        file = _file()
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            temporary.write_text(json.dumps(_remembered() | {key: speeds}, indent=1) + "\n")
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        log.info("could not remember which engine is faster: %s", error)
