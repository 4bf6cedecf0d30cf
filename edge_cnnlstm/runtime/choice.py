"""Which engine is faster here, and on which graph: measured once on each machine, and remembered.

A bundle's order of graphs is what its workstation measured; a robot's processor may multiply integers four times
faster. Each engine is tried in a process of its own: their thread pools would fight over the cores in one, and a crash
of one (OpenVINO has crashed on processors that it was not tested on) must not take the robot's software along.
"""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_cnnlstm.bundle.manifest import Graph, Manifest
from edge_cnnlstm.gpu.private import user_folder
from edge_cnnlstm.provenance import cpu_model, versions
from edge_cnnlstm.runtime.optional import is_installed

log = logging.getLogger(__name__)
ENGINES = ("onnxruntime", "openvino")
ON_A_GPU = "onnxruntime-cuda"
TURNS = 2
PATIENCE_S = 120
TRIAL = 2
"""What a trial measures: speeds of another kind are not comparable."""
HOME = Path(__file__).parents[2]
"""Where this package lies: a trial must not import what happens to lie in the folder that we were started in."""
Speeds = dict[str, float]
"""A typical step in microseconds, by "backend graph"."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine, and a graph for it."""

    backend: str
    graph: Graph

    @property
    def name(self) -> str:
        """What it is called in what is remembered."""
        return f"{self.backend} {self.graph.name}"


def fastest(path: Path, manifest: Manifest, graphs: Sequence[Graph], *, threads: int, streams: int) -> Candidate:
    """Return the engine and the graph whose step takes the least on this machine.

    Nothing is measured where there is no choice. What was measured is kept in `edge-cnnlstm/fastest.json` of the user's
    cache folder, by the graphs' digests, the processor and the versions; removing the file makes it measure again.
    Where nothing runs, the first is returned, so that opening it says why.
    """
    installed = [engine for engine in ENGINES if is_installed(engine)] or ["onnxruntime"]
    found = versions(*ENGINES, "onnxruntime-gpu")
    installed += [ON_A_GPU] if "onnxruntime-gpu" in found else []
    candidates = [Candidate(engine, graph) for graph in graphs for engine in installed if _suits(engine, graph)] or [
        Candidate("onnxruntime", graphs[0])
    ]
    if len(candidates) == 1:
        return candidates[0]
    digests = [f"{each.name}={manifest.members[each.graph.file].sha256[:16]}" for each in candidates]
    made_with = [f"{name}={version}" for name, version in found.items()]
    key = " ".join(
        [*digests, f"threads={threads}", f"streams={streams}", f"trial={TRIAL}", f"cpu={cpu_model()}", *made_with]
    )
    names = {each.name for each in candidates}
    speeds: Speeds | Any = _remembered().get(key)
    if not _usable(speeds, names):
        speeds = _measure(path, candidates, threads, streams)
        if speeds:
            _remember(key, speeds)
    return min(candidates, key=lambda each: speeds.get(each.name, float("inf")))


def _suits(engine: str, graph: Graph) -> bool:
    """Whether an engine is worth trying on a graph; ONNX Runtime runs each on a processor, if some as written only."""
    if engine == ON_A_GPU:
        return graph.dialect == "portable"
    return engine == "onnxruntime" or graph.dialect != "tensorrt"


def _usable(speeds: Any, names: set[str]) -> bool:
    return (
        isinstance(speeds, dict)
        and bool(speeds)
        and all(name in names and isinstance(speed, float) and 0 < speed < math.inf for name, speed in speeds.items())
    )


def _measure(path: Path, candidates: Sequence[Candidate], threads: int, streams: int) -> Speeds:
    """Let them take turns, and keep each one's best: noise only ever adds."""
    log.info("measuring once which is faster here: %s", ", ".join(each.name for each in candidates))
    speeds: Speeds = {}
    failed: set[str] = set()
    for _ in range(TURNS):
        for each in candidates:
            found = None if each.name in failed else _try(path, each, threads, streams)
            if found is None:
                failed.add(each.name)
                speeds.pop(each.name, None)
            else:
                speeds[each.name] = min(found, speeds.get(each.name, found))
    return speeds


def _try(path: Path, candidate: Candidate, threads: int, streams: int) -> float | None:
    """Return a typical step in microseconds, None when the engine fails."""
    backend, graph = candidate.backend, candidate.graph.name
    words = [sys.executable, "-m", "edge_cnnlstm.runtime.trial", path.resolve(), graph, backend, threads, streams]
    try:
        done = subprocess.run(
            [str(word) for word in words], capture_output=True, text=True, timeout=PATIENCE_S, check=True, cwd=HOME
        )
        return _speed(done.stdout)
    except subprocess.CalledProcessError as error:
        last = (error.stderr or "").strip().splitlines()[-1:] or [""]
        log.warning("%s cannot run graph %r here (exit status %d) %s", backend, graph, error.returncode, last[0])
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        log.warning("%s could not be tried on graph %r: %s", backend, graph, error)
    return None


def _speed(said: str) -> float:
    speed = float(said.rsplit(maxsplit=1)[-1])
    if not 0 < speed < math.inf:
        raise ValueError(f"it says that a step takes {speed} µs")
    return speed


def _file() -> Path:
    return user_folder() / "fastest.json"


def _remembered() -> dict[str, Any]:
    try:
        found = json.loads(_file().read_text())
    except (OSError, ValueError, RuntimeError):  # RuntimeError: a user without a home
        return {}
    return found if isinstance(found, dict) else {}


def _remember(key: str, speeds: Speeds) -> None:
    try:
        file = _file()
        # Plans are kept in it too, and only if others cannot write it, which some umasks would let them.
        for folder in (*reversed(file.parent.parents), file.parent):
            folder.mkdir(0o700, exist_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            temporary.write_text(json.dumps(_remembered() | {key: speeds}, indent=1) + "\n")
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        log.info("could not remember which engine is faster: %s", error)
