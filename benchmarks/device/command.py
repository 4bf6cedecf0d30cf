"""`python -m benchmarks device`: what a step takes on a GPU, and what the runtime adds to it there."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks import goals, machine
from benchmarks.bundle import identity, reference_of
from benchmarks.device import peers, step
from benchmarks.device.figures import TAILS, Case, Rounds, figures, summary
from benchmarks.device.stand_in import NAME as STAND_IN
from benchmarks.runtime.processes import measure
from edge_cnnlstm import provenance
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle.format import Bundle
from edge_cnnlstm.cli import console
from edge_cnnlstm.errors import BackendError
from edge_cnnlstm.gpu import context
from edge_cnnlstm.runtime.account import SAMPLES
from edge_cnnlstm.runtime.telemetry.nvml import Nvml
from edge_cnnlstm.runtime.wiring import AS_FOUND

SCHEMA_VERSION = 1
BATCHES = (1, 2, 4, 8, 16, 32)
MADE_WITH = (
    *("numpy", "pycuda", "cuda-bindings", "tensorrt", "tensorrt-rtx", "torch", "onnxruntime", "onnxruntime-gpu"),
    "edge-cnnlstm",
)
DRIVER = Path("/proc/driver/nvidia/version")
NOTE = (
    "The median round, and all rounds; p99.9 over all rounds together. Every measurement has a process of its own, in "
    f"an order drawn anew each round; {step.WARM_UP_S:g} s and {step.WARM_UP} calls a turn to warm up, frames back to "
    "back. Peers run one stream, with their default settings: torch the checkpoint in FP32, ONNX Runtime the bundle."
)
STANDING_IN = (
    "TensorRT does not run this bundle here: four small kernels stand in for it, and tell of the wrapper only."
)
Measurement = Callable[[], dict[str, Any]]


def device(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, such as model.edge.")],
    checkpoint: Annotated[Path | None, typer.Option(help="The same network's checkpoint, for torch.")] = None,
    batches: Annotated[
        list[int] | None, typer.Option("--batch", min=1, help="Streams in a step; repeat for more. 1 always runs.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often everything has its turn.")] = 7,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order of turns.")] = 0,
    destination: Annotated[Path | None, typer.Option("-o", "--output", help="Write everything to this file.")] = None,
) -> None:
    """Measure a step on the GPU: from host to host, its launch, the GPU's own time; beside torch and ONNX Runtime."""
    gpu, bundle, found = context.describe(), bundle_format.read(path), engine_for(path)
    transfer, wanted = "mapped" if AS_FOUND.maps(gpu) else "copied", sorted({1, *(batches or BATCHES)})
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "command": command(path, checkpoint, wanted, rounds, seed),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "bundle": identity(bundle, path),
        **found,
        "gpu": asdict(gpu) | {"kernel_module": provenance.read_text(DRIVER)},
        "machine": asdict(machine.describe()) | {"load_before": machine.load_average()},
        "versions": provenance.versions(*MADE_WITH),
        "warm_up": {"seconds": step.WARM_UP_S, "calls_a_turn": step.WARM_UP},
    }
    begun = time.monotonic()
    measurements, missing = measurements_of(path, bundle, found["graph"], checkpoint, wanted, rounds)
    measured, order, telemetry = take_turns(measurements, rounds, seed, missing)
    report["seconds"] = round(time.monotonic() - begun, 1)
    report["machine"]["load_after"] = machine.load_average()
    shown = figures(measured, found["engine"], transfer, [*peers.TORCH, *peers.ONNX_RUNTIME])
    report |= {
        "ratios": [figure.document() for figure in shown],
        "cases": {name: summary(answers) | _copied(answers) for name, answers in measured.items()},
        "missing": missing,
        "order": order,
        "telemetry": telemetry,
    }
    _show(report, shown)
    if destination is not None:
        console.write_json(destination, report)


def engine_for(path: Path) -> dict[str, Any]:
    """Return which engine is measured, and why others are not; one that takes its process with it is passed over."""
    try:
        return measure("benchmarks.device.opened", path.resolve())
    except BackendError as error:
        return {"engine": STAND_IN, "graph": None, "refused": {"TensorRT": _words(error)}}


def command(path: Path, checkpoint: Path | None, batches: Sequence[int], rounds: int, seed: int) -> str:
    """Return the command that repeats a run, with no folder of this machine."""
    words = ["python", "-m", "benchmarks", "device", path.name]
    words += ["--checkpoint", checkpoint.name] if checkpoint else []
    words += [word for batch in batches for word in ("--batch", str(batch))]
    return shlex.join([*words, "--rounds", str(rounds), "--seed", str(seed)])


def measurements_of(
    path: Path, bundle: Bundle, graph: str | None, checkpoint: Path | None, batches: Sequence[int], rounds: int
) -> tuple[dict[str, Measurement], dict[str, str]]:
    """Return what to measure, and why something is missing from it, by name; enough samples for a p99.9 in all."""
    samples = -(-SAMPLES["p99_9"] // rounds)
    cases = [Case(batch, transfer, "graph") for batch in batches for transfer in ("copied", "mapped")]
    cases += [Case(1, transfer, "enqueued") for transfer in ("copied", "mapped")]
    found: dict[str, Measurement] = {}
    for case in cases:
        how = (path.resolve(), graph or "", case.batch, case.transfer, case.launched, samples)
        found[case.name] = partial(measure, "benchmarks.device.step", *how)
    missing = {peer: "no --checkpoint was given" for peer in peers.TORCH if checkpoint is None}
    read_by = dict.fromkeys(peers.TORCH, checkpoint) | dict.fromkeys(peers.ONNX_RUNTIME, path)
    graphs = dict(zip(peers.ONNX_RUNTIME, (reference_of(bundle), graph or reference_of(bundle)), strict=True))
    for peer, file in read_by.items():
        if file is not None:
            found[peer] = partial(
                measure, "benchmarks.device.peers", peer, file.resolve(), graphs.get(peer, ""), samples
            )
    return found, missing


def take_turns(
    measurements: dict[str, Measurement], rounds: int, seed: int, missing: dict[str, str]
) -> tuple[Rounds, list[list[str]], list[dict[str, Any]]]:
    """Give every measurement one turn a round, in an order drawn anew: answers, the orders, and what the GPU reported.

    What fails goes to `missing` with the reason, is not tried again, and has no answers.
    """
    draw, order, telemetry = np.random.default_rng(seed), list[list[str]](), list[dict[str, Any]]()
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in measurements}
    nvml = Nvml.find()
    with _progress() as progress:
        task = progress.add_task("measuring", total=rounds * len(measurements))
        for _ in range(rounds):
            order.append([list(measurements)[index] for index in draw.permutation(len(measurements))])
            for name in order[-1]:
                progress.update(task, description=f"measuring {name}", advance=1)
                if name in missing:
                    continue
                try:
                    answers[name].append(measurements[name]())
                except BackendError as error:
                    missing[name] = _words(error)
                if nvml is not None:
                    telemetry.append({"after": name, **asdict(nvml.read())})
    if nvml is not None:
        nvml.close()
    return {name: found for name, found in answers.items() if name not in missing}, order, telemetry


def _words(error: BackendError) -> str:
    """Return a process's last words, without its command line: that names folders of this machine."""
    return error.found.partition(" ended with ")[2] or error.found


def _copied(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"bytes_copied": answers[0]["bytes_copied"]} if "bytes_copied" in answers[0] else {}


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console.console, transient=True, refresh_per_second=1)


def _show(report: dict[str, Any], found: list[goals.Figure]) -> None:
    for name, reason in (report["refused"] | report["missing"]).items():
        console.console.print(f"[yellow]missing[/] {name}: {escape(reason)}", highlight=False)
    table = goals.table(found, "On the GPU", ("figure", "median round", "all rounds"))
    table.caption = f"{STANDING_IN} {NOTE}" if report["engine"] == STAND_IN else NOTE
    for each in (table, _cases(report["cases"])):
        console.output.print(each, highlight=False)
    gpu, host = report["gpu"], report["machine"]
    console.output.print(
        f"bundle    {report['bundle']['name']}: "
        + (f"graph {report['graph']!r} in {report['engine']}" if report["graph"] else STAND_IN)
        + f"\nGPU       {gpu['name']}, compute capability {gpu['compute_capability']}, CUDA {gpu['driver']}\n"
        f"machine   {host['cpu'] or host['architecture']}, {host['cores']} cores, "
        f"load {host['load_before']} before and {host['load_after']} after; {report['seconds']} s in all\n"
        f"versions  {', '.join(f'{name} {version}' for name, version in report['versions'].items())}",
        highlight=False,
    )
    console.output.print(report["command"], highlight=False, markup=False, soft_wrap=True)


def _cases(cases: dict[str, Any]) -> Table:
    table = Table("µs", title="All cases, over all rounds", caption_justify="left")
    for heading in ("host to host, p50", "p99", "p99.9", "GPU, p50", "launch, p50", "bare loop, p50"):
        table.add_column(heading, justify="right")
    for name, case in cases.items():
        tails = [case["step_ns"][f"{tail}_us"] for tail in TAILS]
        medians = [case[series]["p50_us"] if series in case else None for series in ("gpu_ns", "launch_ns", "bare_ns")]
        table.add_row(name, *("" if value is None else f"{value:,.1f}" for value in (*tails, *medians)))
    return table
