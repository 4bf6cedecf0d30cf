"""`python -m benchmarks engines`: one step in every engine and form, interleaved, each in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from benchmarks.bundle import reference_of
from benchmarks.engines import forms, operators, peer
from benchmarks.engines.cases import Bench, Case, Measured, measure
from benchmarks.engines.show import section
from benchmarks.goals import Figure
from benchmarks.latency import WARM_UP_FRAMES
from benchmarks.progress import bar
from benchmarks.record import keep, recording
from benchmarks.show import print_section
from benchmarks.statistics import dependable, percentile
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle.format import Bundle
from edge_cnnlstm.cli import console
from edge_cnnlstm.errors import BackendError

MADE_WITH = ("numpy", "onnxruntime", "openvino", "onnx")
QUICK_ROUNDS = 3
QUICK_SHARE = 5
"""The peer's forms are timed in turns five times shorter; the fastest is then measured anew, like everyone else."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: for each number of threads, so many rounds, in which each case has one turn of `steps`.

    `seed` draws the order of the turns.
    """

    threads: tuple[int, ...] = (1, 2)
    rounds: int = 7
    steps: int = 300
    seed: int = 0
    goals: forms.Goals = field(default_factory=forms.Goals)

    @property
    def quick_steps(self) -> int:
        """Timed steps in a turn that only finds the fastest form."""
        return max(1, self.steps // QUICK_SHARE)


@dataclass(frozen=True, slots=True)
class Run:
    """Everything measured with one number of threads."""

    threads: int
    figures: list[Figure]
    measured: list[Measured]
    order: list[list[str]]
    skipped: dict[str, str]
    tried: list[dict[str, Any]]


def engines(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, such as model.edge.")],
    threads: Annotated[
        list[int] | None, typer.Option(min=1, help="Cores that one step may use; repeat for more. 1 and 2 by default.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often every case has its turn.")] = 7,
    steps: Annotated[int, typer.Option(min=1, help="Timed steps a turn.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order of turns.")] = 0,
    goal_engine: Annotated[
        float | None, typer.Option(help="Least speed-up over ONNX Runtime FP32, in the best engine.")
    ] = None,
    goal_ort: Annotated[float | None, typer.Option(help="Least speed-up over FP32, in ONNX Runtime.")] = None,
    destination: Annotated[Path | None, typer.Option("-o", "--output", help="Write every sample to this file.")] = None,
) -> None:
    """Time one step in ONNX Runtime and OpenVINO: FP32, our int8, and the best int8 that others make of the same FP32.

    The frames are the bundle's golden frames; memory is carried. Needs `onnx`, and `openvino` for its half.
    """
    plan = Plan(tuple(threads or (1, 2)), rounds, steps, seed, forms.Goals(goal_engine, goal_ort))
    bundle = bundle_format.read(path)
    with TemporaryDirectory() as folder, recording("engines", words(plan), path, MADE_WITH) as report:
        report.update(run(bundle, path, plan, Path(folder)))
    print_section(section(report), report)
    keep(report, destination)


def words(plan: Plan) -> list[str]:
    """Return the options that repeat a run, every one spelled out."""
    chosen = [word for count in plan.threads for word in ("--threads", str(count))]
    chosen += ["--rounds", str(plan.rounds), "--steps", str(plan.steps), "--seed", str(plan.seed)]
    for option, goal in (("--goal-engine", plan.goals.engine), ("--goal-ort", plan.goals.ort)):
        chosen += [] if goal is None else [option, str(goal)]
    return chosen


def run(bundle: Bundle, path: Path, plan: Plan, folder: Path) -> dict[str, Any]:
    """Measure a bundle, and return the results as JSON data; `folder` takes the graphs.

    Raises ConfigError for a bundle without an FP32 graph, and BackendError when a process dies.
    """
    reference, missing = reference_of(bundle), dict[str, str]()
    engines_here = forms.installed_engines()
    for engine in set(forms.ENGINES) - set(engines_here):
        missing[engine] = f"pip install {engine}"
    cases, quantized, failed = forms.bundled(bundle, engines_here, folder), dict[str, Path](), dict[str, str]()
    if find_spec("onnx") is None:
        missing["peer"] = "pip install onnx"
    else:
        with console.console.status("quantizing in every form that ONNX Runtime's quantizer knows"):
            quantized, failed = peer.quantize_all(bundle, reference, folder)
    runs = [_run(cases, quantized, Bench(path, reference, threads), plan) for threads in plan.threads]
    skipped = {f"{name}, {_threads(one.threads)}": why for one in runs for name, why in one.skipped.items()}
    if not any(one.measured for one in runs):
        raise BackendError(
            f"no engine ran any graph: {'; '.join(skipped.values())}",
            expected="at least one",
            fix="export the bundle again, or update onnxruntime",
        )
    return {
        "loop": "closed",
        "plan": asdict(plan) | {"warm_up_steps": WARM_UP_FRAMES, "quick_steps": plan.quick_steps},
        "ratios": [figure.document() for one in runs for figure in one.figures],
        "cases": [_case(measured, one.threads) for one in runs for measured in one.measured],
        "operators": _operators(runs) if "peer" not in missing else {},
        "tried": [tried for one in runs for tried in one.tried],
        "not_quantized": failed,
        "order": {str(one.threads): one.order for one in runs},
        "skipped": missing | skipped,
    }


def _run(cases: Sequence[Case], quantized: dict[str, Path], bench: Bench, plan: Plan) -> Run:
    peers, tried = [], []
    for engine in dict.fromkeys(case.engine for case in cases):
        # An engine at a time: the processes of all forms in all engines would not fit a small machine's memory.
        trials = [Case(engine, f"u8s8, {form}", graph, form) for form, graph in quantized.items()]
        quick, _, refused = _measure(
            trials, bench, QUICK_ROUNDS, plan.quick_steps, plan.seed, f"{engine}, trying forms"
        )
        peers.append(forms.fastest(quick, engine, quantized))
        tried += [_tried(one, bench.threads) for one in quick]
        tried += [{"name": name, "threads": bench.threads, "refused": why} for name, why in refused.items()]
    compared = [*cases, *(peer for peer in peers if peer is not None)]
    measured, order, skipped = _measure(compared, bench, plan.rounds, plan.steps, plan.seed, "measuring")
    return Run(bench.threads, forms.figures(measured, plan.goals, bench.threads), measured, order, skipped, tried)


def _measure(
    cases: Sequence[Case], bench: Bench, rounds: int, steps: int, seed: int, doing: str
) -> tuple[list[Measured], list[list[str]], dict[str, str]]:
    with bar(f"{doing}, {_threads(bench.threads)}") as started:
        return measure(cases, bench, rounds, steps, seed, started)


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _case(measured: Measured, threads: int) -> dict[str, Any]:
    case, samples = measured.case, measured.samples
    return {
        "name": case.name,
        "engine": case.engine,
        "form": case.form,
        "graph": case.source,
        "threads": threads,
        "p50_us": measured.p50_ns / 1e3,
        "p99_us": percentile(samples, 99) / 1e3,
        "samples": len(samples),
        "enough_for_p99": dependable(samples, "p99"),
        "deviation": measured.deviation,
        "waiting_cpu_s": [round(seconds, 4) for seconds in measured.waiting_cpu_s],
        "samples_ns": measured.rounds,
    }


def _tried(measured: Measured, threads: int) -> dict[str, Any]:
    return {
        "name": measured.case.name,
        "threads": threads,
        "p50_us": measured.p50_ns / 1e3,
        "samples": len(measured.samples),
        "deviation": measured.deviation,
    }


def _operators(runs: Sequence[Run]) -> dict[str, dict[str, int]]:
    """Count what ONNX Runtime made of each graph that it optimized and ran, by the graph's name."""
    cases = [one.case for run in runs for one in run.measured]
    ran = [case for case in cases if case.engine == "onnxruntime" and case.optimize]
    return {case.source: operators.count_operators(case.graph) for case in {case.source: case for case in ran}.values()}
