"""`python -m benchmarks memory`: trains every network on every set, and shows what its memory is worth."""

from __future__ import annotations

import shlex
import time
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from edge_cnnlstm import provenance
from edge_cnnlstm.cli import console

if TYPE_CHECKING:
    from benchmarks.memory.plan import Plan
    from benchmarks.memory.summary import Row

SCHEMA_VERSION = 1
OF_ONE_CELL: dict[str, Any] = {"seed": True, "tune": True, "model": {"layers": True}}
"""What a recipe says of one training alone, or not at all."""
MADE_WITH = (
    "edge-cnnlstm",
    "torch",
    "lightning",
    "torchmetrics",
    "numpy",
    "scipy",
    "opencv-python-headless",
    "scikit-learn",
)
BUDGET = (
    "Equal budget: within a set and a seed every network learns from the same clips in the same order, by the same "
    "optimizer, schedule and number of batches, and is scored on the same test clips, whose digit images no training "
    "saw. The weights of the last epoch are scored: nothing is chosen on held-out data."
)
CERTAINTY = (
    "Accuracy is the mean over seeds, and ± half its 95 % confidence interval by Student's t over seeds. A seed draws "
    "the weights, the clips and their order."
)
COST = (
    "MACs are the multiply-accumulates of convolutions and matrix products in one streaming step, batch 1; the TCN's "
    "are those of one output, with its history cached."
)
METHOD = (BUDGET, CERTAINTY, COST)


def memory(
    sets: Annotated[list[str] | None, typer.Option("--set", help="A set; repeat for more. All by default.")] = None,
    networks: Annotated[list[str] | None, typer.Option("--network", help="A network; likewise.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each network on each set.")] = 3,
    clips: Annotated[int | None, typer.Option(min=32, help="Clips an epoch, instead of each set's number.")] = None,
    test_clips: Annotated[int, typer.Option(min=1, help="Clips of the test split.")] = 1000,
    processes: Annotated[int, typer.Option(min=1, help="Trainings at a time, each on one core.")] = 2,
    kept: Annotated[
        Path, typer.Option(help="Where finished trainings are kept: the same command goes on from them.")
    ] = Path("runs/memory"),
    destination: Annotated[Path | None, typer.Option("-o", "--output", help="Write everything to this file.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw accuracy against MACs into this file.")] = None,
    table: Annotated[Path | None, typer.Option(help="Write the table to this file, as Markdown.")] = None,
) -> None:
    """Train a CNN with seven kinds of memory on three sets of clips: accuracy against cost.

    The sets ask for more and more memory: a digit that hides for some frames, a movement, and the first of many
    digits. Needs the extras `training` and `report`.
    """
    from benchmarks.memory import show, summary
    from benchmarks.memory.networks import KINDS
    from benchmarks.memory.plan import TASKS, Plan
    from benchmarks.memory.trials import run

    plan = Plan(tuple(sets or TASKS), tuple(networks or KINDS), seeds, clips, test_clips)
    began, started = time.monotonic(), datetime.now(timezone.utc).isoformat(timespec="seconds")
    with _progress() as progress:
        task = progress.add_task("training", total=len(plan.cells))
        trials = run(plan.cells, kept, processes, lambda: progress.advance(task))
    rows = summary.rows(trials)
    titles, chance = _titles(plan), {trial["set"]: trial["chance"] for trial in trials}
    console.output.print(show.table(rows, titles))
    for line in METHOD:
        console.output.print(f"[dim]{line}[/]", highlight=False)
    console.output.print(command(plan), highlight=False, markup=False, soft_wrap=True)
    if destination is not None:
        about = {"started": started, "seconds": round(time.monotonic() - began, 1)}
        console.write_json(destination, {**about, **document(plan, rows, trials)})
    if picture is not None:
        show.draw(rows, titles, chance, picture)
    if table is not None:
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text(show.markdown(rows, titles))


def command(plan: Plan) -> str:
    """Return the command that repeats a run, with what decides its numbers spelled out."""
    words = ["python", "-m", "benchmarks", "memory"]
    for option, values in (("--set", plan.sets), ("--network", plan.networks)):
        words += [word for value in values for word in (option, value)]
    words += ["--seeds", str(plan.seeds), "--test-clips", str(plan.test_clips)]
    return shlex.join(words if plan.clips is None else [*words, "--clips", str(plan.clips)])


def document(plan: Plan, rows: list[Row], trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the results as JSON data: rows first, then every training, and what all of it was made with."""
    return {
        "schema_version": SCHEMA_VERSION,
        "command": command(plan),
        "method": METHOD,
        "rows": [asdict(row) for row in rows],
        "trials": trials,
        "recipes": {cell.set: cell.recipe.model_dump(mode="json", exclude=OF_ONE_CELL) for cell in plan.cells},
        "machine": provenance.machine(),
        "versions": provenance.versions(*MADE_WITH),
        "commit": provenance.git_commit(Path(__file__).parent),
    }


def _titles(plan: Plan) -> dict[str, str]:
    from benchmarks.memory.plan import TASKS

    return {name: ", ".join(filter(None, (name, TASKS[name].condition))) for name in plan.sets}


def _progress() -> Progress:
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    interactive = console.console.is_terminal
    return Progress(*columns, console=console.console, transient=True, disable=not interactive)
