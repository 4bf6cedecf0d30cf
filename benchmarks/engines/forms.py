"""The forms of one network that are compared, and the ratios between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.bundle import reference_of
from benchmarks.engines.cases import Case, Measured
from benchmarks.goals import Figure, ratio
from edge_cnnlstm.bundle.format import Bundle
from edge_cnnlstm.bundle.manifest import Graph

ENGINES = ("onnxruntime", "openvino")
FP32, INT8, CONTROL, TENSORRT = "fp32", "int8", "int8 control", "TensorRT dialect"
PEER = "best u8s8 anyone can make"
AS_GOOD_AS_THE_PEER = 1.02


@dataclass(frozen=True, slots=True)
class Goals:
    """The least speed-ups over ONNX Runtime FP32: of int8 in the best engine, and in ONNX Runtime; None for no goal."""

    engine: float | None = None
    ort: float | None = None


def installed_engines() -> tuple[str, ...]:
    """Return the engines that this Python can import."""
    return tuple(engine for engine in ENGINES if find_spec(engine) is not None)


def bundled(bundle: Bundle, engines: Sequence[str], folder: Path) -> list[Case]:
    """Write the bundle's graphs that are compared into a folder; return a case for each form in each engine.

    The control is the CPU dialect once more: how far its ratio to itself is from 1 is noise.
    """
    chosen: dict[str, Graph] = {FP32: bundle.manifest.graph(reference_of(bundle))}
    for_cpu = [graph for graph in bundle.manifest.graphs if graph.dialect == "onnxruntime"]
    if for_cpu:
        chosen |= {INT8: for_cpu[0], CONTROL: for_cpu[0]}
    others = [g for g in bundle.manifest.graphs if g.dialect == "tensorrt" and g.precision.startswith("int8")]
    chosen |= {TENSORRT if len(others) == 1 else f"{TENSORRT}, {graph.name}": graph for graph in others}
    paths = {form: folder / f"graph-{bundle.manifest.graphs.index(graph)}.onnx" for form, graph in chosen.items()}
    for form, graph in chosen.items():
        paths[form].write_bytes(bundle.graph(graph.name))
    return [
        Case(engine, form, paths[form], graph.name, optimize=graph.dialect != "tensorrt")
        for engine in engines
        for form, graph in chosen.items()
    ]


def figures(measured: Iterable[Measured], goals: Goals, threads: int) -> list[Figure]:
    """Return the ratios that the cases allow, each taken within a round."""
    found = {one.case.name: one for one in measured}
    suffix = f", {threads} thread{'s' if threads > 1 else ''}"
    fp32, ours = f"onnxruntime {FP32}", [name for engine in ENGINES if (name := f"{engine} {INT8}") in found]
    pairs: list[tuple[str, str, str, float | None, bool]] = []
    if ours:
        best = min(ours, key=lambda name: found[name].p50_ns)
        pairs.append((fp32, best, " (the best engine)", goals.engine, False))
    pairs.append((fp32, f"onnxruntime {INT8}", "", goals.ort, False))
    pairs.append((f"openvino {FP32}", f"openvino {INT8}", "", None, False))
    pairs += [(f"{engine} {INT8}", f"{engine} {PEER}", "", AS_GOOD_AS_THE_PEER, True) for engine in ENGINES]
    pairs += [(name, f"{name.split()[0]} {INT8}", "", None, False) for name in found if TENSORRT in name]
    pairs += [(f"{engine} {CONTROL}", f"{engine} {INT8}", "", None, False) for engine in ENGINES]
    return [
        ratio(f"{over} / {under}{note}{suffix}", found[over].rounds, found[under].rounds, 50, goal, at_most=at_most)
        for over, under, note, goal, at_most in pairs
        if over in found and under in found
    ]


def fastest(measured: Iterable[Measured], engine: str, forms: Mapping[str, Path]) -> Case | None:
    """Return the peer's case: the quantized form that an engine was fastest with; None when it took none."""
    tried = [one for one in measured if one.case.engine == engine and one.case.source in forms]
    if not tried:
        return None
    best = min(tried, key=lambda one: one.p50_ns).case
    return Case(engine, PEER, best.graph, best.source)
