"""`python -m benchmarks device`: what a step takes on a GPU, and what the runtime adds to it there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.bundle import reference_of
from benchmarks.device import peers, step
from benchmarks.device.figures import Case, Rounds, figures, summary
from benchmarks.device.show import section
from benchmarks.device.stand_in import NAME as STAND_IN
from benchmarks.processes import run
from benchmarks.progress import bar
from benchmarks.record import keep, recording
from benchmarks.show import print_section
from edge_cnnlstm import provenance
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle.format import Bundle
from edge_cnnlstm.errors import BackendError
from edge_cnnlstm.gpu import context
from edge_cnnlstm.runtime.account import SAMPLES
from edge_cnnlstm.runtime.device_step import AS_FOUND
from edge_cnnlstm.runtime.telemetry.nvml import Nvml

BATCHES = (1, 2, 4, 8, 16, 32)
MADE_WITH = (
    *("numpy", "pycuda", "cuda-bindings", "tensorrt", "tensorrt-rtx", "torch", "onnxruntime", "onnxruntime-gpu"),
    "edge-cnnlstm",
)
DRIVER = Path("/proc/driver/nvidia/version")
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
    with recording("device", words(checkpoint, wanted, rounds, seed), path, MADE_WITH) as report:
        report |= {
            **found,
            "gpu": asdict(gpu) | {"kernel_module": provenance.read_text(DRIVER)},
            "warm_up": {"seconds": step.WARM_UP_S, "calls_a_turn": step.WARM_UP},
        }
        measurements, missing = measurements_of(path, bundle, found["graph"], checkpoint, wanted, rounds)
        measured, order, telemetry = take_turns(measurements, rounds, seed, missing)
        shown = figures(measured, found["engine"], transfer, [*peers.TORCH, *peers.ONNX_RUNTIME])
        report |= {
            "ratios": [figure.document() for figure in shown],
            "cases": {name: summary(answers) | _copied(answers) for name, answers in measured.items()},
            "missing": missing,
            "order": order,
            "gpu_telemetry": telemetry,
        }
    print_section(section(report), report)
    keep(report, destination)


def engine_for(path: Path) -> dict[str, Any]:
    """Return which engine is measured, and why others are not; one that takes its process with it is passed over."""
    try:
        return run("benchmarks.device.opened", path.resolve())
    except BackendError as error:
        return {"engine": STAND_IN, "graph": None, "refused": {"TensorRT": _words(error)}}


def words(checkpoint: Path | None, batches: Sequence[int], rounds: int, seed: int) -> list[str]:
    """Return the options that repeat a run, with no folder of this machine."""
    named = ["--checkpoint", checkpoint.name] if checkpoint else []
    named += [word for batch in batches for word in ("--batch", str(batch))]
    return [*named, "--rounds", str(rounds), "--seed", str(seed)]


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
        found[case.name] = partial(run, "benchmarks.device.step", *how)
    missing = {peer: "no --checkpoint was given" for peer in peers.TORCH if checkpoint is None}
    read_by = dict.fromkeys(peers.TORCH, checkpoint) | dict.fromkeys(peers.ONNX_RUNTIME, path)
    graphs = dict(zip(peers.ONNX_RUNTIME, (reference_of(bundle), graph or reference_of(bundle)), strict=True))
    for peer, file in read_by.items():
        if file is not None:
            found[peer] = partial(run, "benchmarks.device.peers", peer, file.resolve(), graphs.get(peer, ""), samples)
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
    with bar("measuring") as started:
        advance = started(rounds * len(measurements))
        for _ in range(rounds):
            order.append([list(measurements)[index] for index in draw.permutation(len(measurements))])
            for name in order[-1]:
                advance(name)
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
