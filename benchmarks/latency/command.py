"""`python -m benchmarks latency BUNDLE`: one frame's latency, in closed and open loops, for each engine and graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.latency import WARM_UP_FRAMES, document
from benchmarks.latency.cases import LOOPS, Case, Choice, Plan, chosen
from benchmarks.latency.compare import compared
from benchmarks.latency.early_stopping import samples_needed
from benchmarks.latency.figures import figures, measured
from benchmarks.latency.show import section
from benchmarks.processes import Message, Turns, Worker, disturbance, take_turns
from benchmarks.progress import bar
from benchmarks.record import keep, recording
from benchmarks.show import print_section
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.errors import BackendError, ConfigError

MADE_WITH = ("numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "pycuda", "cuda-bindings")


def latency(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, such as model.edge.")],
    backends: Annotated[
        list[str] | None,
        typer.Option("--backend", help="Repeat for more; by default what `auto` takes, and onnxruntime."),
    ] = None,
    graphs: Annotated[
        list[str] | None,
        typer.Option("--graph", help="Repeat for more; by default all that the backend is meant to run."),
    ] = None,
    threads: Annotated[
        list[int] | None, typer.Option(min=1, help="Cores one step may use; repeat. 1 by default.")
    ] = None,
    batches: Annotated[
        list[int] | None,
        typer.Option("--batch", min=1, help="Streams that are stepped together; repeat. 1 by default."),
    ] = None,
    loops: Annotated[
        list[str] | None, typer.Option("--loop", help=f"Repeat for more; all by default: {', '.join(LOOPS)}.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often every case has its turn in every loop.")] = 7,
    steps: Annotated[
        int, typer.Option(min=1, help="Timed frames of a closed loop's turn; a tenth of it windows.")
    ] = 300,
    window: Annotated[int, typer.Option(min=2, help="Frames in the window that is run again.")] = 16,
    rate: Annotated[float, typer.Option(min=1, max=1000, help="Frames a second of an open loop.")] = 30,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of an open loop's turn.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order of turns.")] = 0,
    older: Annotated[
        Path | None, typer.Option("--compare", metavar="OLD.json", help="Say what moved beyond noise since this run.")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Draw the report on this HTML page.")] = None,
    destination: Annotated[Path | None, typer.Option("-o", "--output", help="Write every sample to this file.")] = None,
) -> None:
    """Time one frame: back to back, at a camera's rate from when it was due, and by running the last frames again.

    The frames are the bundle's golden frames: uint8 in, decoded prediction out, all of it in Python. Exits with 1 when
    the machine throttled meanwhile, which makes the figures invalid.
    """
    plan = Plan(_known(loops or list(LOOPS)), rounds, steps, window, rate, seconds, seed)
    choice = Choice(backends or (), graphs or (), threads or (1,), batches or (1,))
    before = None if older is None else document.read(older)
    samples_needed(50)  # what computes it is missed before ten minutes of measuring, not after
    cases = chosen(path, bundle_format.read(path).manifest, choice)
    with recording("latency", words(choice, plan), path, MADE_WITH) as report:
        report.update(results(path, cases, plan))
    if before is not None:
        report["comparison"] = compared(before, document.parse(report)).model_dump()
    print_section(section(report, drawn=False), report)
    keep(report, destination, page)
    if report["valid"] is False:
        raise typer.Exit(1)


def words(choice: Choice, plan: Plan) -> list[str]:
    """Return the options that repeat a run."""
    repeated = {
        "backend": choice.backends,
        "graph": choice.graphs,
        "threads": choice.threads,
        "batch": choice.batches,
        "loop": plan.loops,
    }
    once = {name: (value,) for name, value in asdict(plan).items() if name != "loops"}
    return [
        word for name, values in (repeated | once).items() for value in values for word in (f"--{name}", f"{value}")
    ]


def results(path: Path, cases: Sequence[Case], plan: Plan) -> dict[str, Any]:
    """Measure, and return the results as JSON data; times in the unit that their name ends with.

    `order` has the cases of each turn of each loop; `skipped` says why, by case. Raises BackendError when no case runs,
    or the process of one dies.
    """
    agenda = plan.agenda()
    turns = _measure(path, cases, plan, agenda)
    found = {
        case.name: measured(case, _by_loop(turns.answers[case.name], agenda), plan)
        for case in cases
        if case.name in turns.answers
    }
    if not found:
        raise BackendError(
            f"no case that runs: {'; '.join(f'{name}: {why}' for name, why in turns.refused.items())}",
            expected="at least one",
            fix="choose another backend or graph, or export the bundle again",
        )
    return {
        "plan": asdict(plan) | {"warm_up_frames": WARM_UP_FRAMES},
        "ratios": [figure.document() for figure in figures(cases, found, plan.window)],
        "cases": [one.model_dump() for one in found.values()],
        "order": [{"loop": loop, "cases": order} for loop, order in zip(agenda, turns.order, strict=True)],
        "skipped": turns.refused,
        "disturbances": [kept] if (kept := disturbance(_alone(cases, turns, agenda))) else [],
    }


def _alone(cases: Sequence[Case], turns: Turns, agenda: Sequence[str]) -> dict[str, list[Message]]:
    """Return the answers of cases that one thread ran back to back."""
    return {
        case.name: [
            answer
            for answer, loop in zip(turns.answers[case.name], agenda, strict=True)
            if loop in ("closed", "window")
        ]
        for case in cases
        if case.threads == 1 and case.name in turns.answers
    }


def _measure(path: Path, cases: Sequence[Case], plan: Plan, agenda: Sequence[str]) -> Turns:
    workers = [Worker(case.name, "benchmarks.latency.worker", path.resolve(), *case.words) for case in cases]
    requests = {case.name: iter([plan.request(loop) for loop in agenda]) for case in cases}
    with bar("measuring") as started:
        return take_turns(workers, lambda name: next(requests[name]), len(agenda), plan.seed, started)


def _by_loop(answers: Sequence[Message], agenda: Sequence[str]) -> dict[str, list[Message]]:
    return {
        loop: [answer for answer, asked in zip(answers, agenda, strict=True) if asked == loop]
        for loop in dict.fromkeys(agenda)
    }


def _known(loops: Sequence[str]) -> tuple[str, ...]:
    for loop in loops:
        if loop not in LOOPS:
            raise ConfigError(f"loop {loop!r}", expected=f"one of {', '.join(LOOPS)}", fix="choose one of these")
    return tuple(dict.fromkeys(loops))
