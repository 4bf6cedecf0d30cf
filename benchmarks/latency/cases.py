"""What is measured: which engines run which graphs, on how many threads, for how many streams, and in which loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.processes import Message
from edge_cnnlstm import provenance
from edge_cnnlstm.bundle.manifest import Graph, Manifest
from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.runtime.backends.trt import missing_for_tensorrt
from edge_cnnlstm.runtime.opening import open_stream
from edge_cnnlstm.runtime.optional import is_installed
from edge_cnnlstm.runtime.selection import BACKENDS, DIALECTS

LOOPS = {
    "closed": "closed",
    "window": "closed, window",
    "open": "open, tuned",
    "untuned": "open, untuned",
}
"""Each loop, and what it is called where it is shown."""
OPEN = ("open", "untuned")
WINDOW_SHARE = 10
"""A turn of windows is ten times shorter: each window costs as many steps as it has frames."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What somebody asked for; empty backends or graphs are left to `chosen`. All threads go with all batches."""

    backends: Sequence[str] = ()
    graphs: Sequence[str] = ()
    threads: Sequence[int] = (1,)
    batches: Sequence[int] = (1,)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    In each round every case has a turn in each loop: `steps` timed frames in the closed one, a tenth of it windows of
    `window` frames, and `seconds` of `rate` frames a second in the open ones. `seed` draws the order of turns.
    """

    loops: tuple[str, ...] = tuple(LOOPS)
    rounds: int = 7
    steps: int = 300
    window: int = 16
    rate: float = 30
    seconds: float = 10
    seed: int = 0

    def request(self, loop: str) -> Message:
        """Return what a worker is asked for in one turn."""
        steps = {"closed": self.steps, "window": max(1, self.steps // WINDOW_SHARE)}
        paced = max(1, round(self.rate * self.seconds))
        return {"loop": loop, "steps": steps.get(loop, paced), "window": self.window, "rate": self.rate}

    def agenda(self) -> list[str]:
        """Return the loops of all rounds, in an order drawn anew in each."""
        draw = np.random.default_rng(self.seed)
        return [self.loops[index] for _ in range(self.rounds) for index in draw.permutation(len(self.loops))]


@dataclass(frozen=True, slots=True)
class Case:
    """One graph in one engine; a `batch` above one is a group of streams, stepped together.

    A control is another case once more, in a process of its own: what it differs by is what this machine makes of no
    difference.
    """

    backend: str
    graph: Graph
    threads: int = 1
    batch: int = 1
    control: bool = False

    @property
    def name(self) -> str:
        """The case's name in every result; one thread and one stream go without saying."""
        threads = f", {self.threads} threads" if self.threads > 1 else ""
        batch = f", {self.batch} streams" if self.batch > 1 else ""
        return f"{self.backend} {self.graph.name}{threads}{batch}{', control' if self.control else ''}"

    @property
    def words(self) -> tuple[object, ...]:
        """What its worker is started with, after the bundle."""
        return self.backend, self.graph.name, self.threads, self.batch


def chosen(path: Path, manifest: Manifest, choice: Choice) -> list[Case]:
    """Return the cases to measure, the control last.

    Without a backend and a graph that is what `auto` takes, and every graph that ONNX Runtime is meant to run. Graphs
    alone go with every installed backend that is meant to run them, backends alone with the graphs that they are meant
    to run; named together, each goes with each. Raises ConfigError for a backend that does not exist, and when nothing
    is left; BundleError for a graph that does not.
    """
    named = [manifest.graph(name) for name in choice.graphs]
    pairs: list[tuple[str, str]] = []
    for backend in choice.backends or (installed() if named else ("auto", "onnxruntime")):
        if backend not in BACKENDS:
            raise ConfigError(
                f"backend {backend!r}", expected=f"one of {', '.join(BACKENDS)}", fix="choose one of these"
            )
        if backend == "auto":
            pairs.append(_taken(path, choice.threads[0]))
        elif choice.backends and named:
            pairs += [(backend, graph.name) for graph in named]
        else:
            fitting = [graph for graph in named or manifest.graphs if graph.dialect in DIALECTS[backend]]
            pairs += [(backend, graph.name) for graph in fitting]
    if not pairs:
        raise ConfigError(
            f"no backend that is meant to run {', '.join(choice.graphs) or 'any graph of this bundle'}",
            expected="at least one",
            fix="name a backend, with --backend, and a graph, with --graph",
        )
    cases = [
        Case(backend, manifest.graph(graph), threads, batch)
        for (backend, graph), threads, batch in product(dict.fromkeys(pairs), choice.threads, choice.batches)
    ]
    return [*cases, replace(reference(cases), control=True)]


def reference(cases: Sequence[Case]) -> Case:
    """Return the case that others are compared with: FP32 in ONNX Runtime, or the first."""
    return next((case for case in cases if (case.backend, case.graph.precision) == ("onnxruntime", "fp32")), cases[0])


def installed() -> list[str]:
    """Return the backends that this machine can run."""
    on_a_gpu = "onnxruntime-gpu" in provenance.versions("onnxruntime-gpu")
    here = {
        "onnxruntime": is_installed("onnxruntime"),
        "openvino": is_installed("openvino"),
        "tensorrt": missing_for_tensorrt() is None,
    }
    return [backend for backend in DIALECTS if here.get(backend, on_a_gpu)]


def _taken(path: Path, threads: int) -> tuple[str, str]:
    """Return the backend and the graph that `auto` takes here."""
    with open_stream(path, threads=threads) as stream:
        return stream.backend.name, str(stream.graph)
