"""`python -m export CHECKPOINT -o OUT.edge`: a trained network becomes a bundle that a robot can run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from edge_cnnlstm.cli import console
from edge_cnnlstm.spec import StateRules
from edge_cnnlstm.training.checkpoint import load_checkpoint, load_recipe_of
from edge_cnnlstm.training.data.corpora import open_corpus
from export.document import document
from export.pack import all_or_nothing, refuse_existing
from export.pipeline import Exported, Settings, export
from export.plan import Wanted
from export.quantize import Method
from export.report import write_report

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
DEFAULT = Settings()


@app.command()
def main(
    checkpoint: Annotated[Path, typer.Argument(help="The folder that `edge-cnnlstm train --output` wrote.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The bundle to write, such as model.edge.")],
    precision: Annotated[Wanted, typer.Option(help="auto: the fastest within the budget.")] = DEFAULT.precision,
    budget: Annotated[
        float,
        typer.Option(min=0, max=1, help="Accuracy that quantization may cost: 0.005 is half a point."),
    ] = DEFAULT.budget,
    calibration: Annotated[Method, typer.Option(help="How a range follows from what was seen.")] = DEFAULT.calibration,
    qat: Annotated[int, typer.Option(min=0, help="Epochs of fine-tuning with quantization.")] = 0,
    keep: Annotated[list[str] | None, typer.Option(help="A layer not to make int8; repeat for more.")] = None,
    clips: Annotated[int, typer.Option(min=1, help="Test clips that measure what is shipped.")] = DEFAULT.test_clips,
    validation_clips: Annotated[
        int, typer.Option(min=1, help="Validation clips that choose the precision.")
    ] = DEFAULT.validation_clips,
    sensitivity_clips: Annotated[
        int, typer.Option(min=0, help="Validation clips for each layer's share in the loss; 0: no such scan.")
    ] = DEFAULT.sensitivity_clips,
    steps: Annotated[int, typer.Option(min=128, help="Steps of the proof beside torch.")] = DEFAULT.steps,
    gap_ms: Annotated[
        float, typer.Option(min=0, help="A stream forgets when its last frame was captured longer ago; 0: never.")
    ] = DEFAULT.rules.gap_ms or 0,
    idle_ms: Annotated[
        float, typer.Option(min=0, help="It forgets when no frame came for longer, whenever captured; 0: never.")
    ] = DEFAULT.rules.idle_ms or 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export of that name.")] = False,
) -> None:
    """Quantize a checkpoint, lower it to every target, prove each graph, and pack one bundle.

    Beside OUT.edge stand OUT.export_report.html and .json: the precisions compared and the choice, parity, drift,
    sensitivity, sizes. Nothing stands anywhere unless every proof held.
    """
    started = time.time()
    logging.getLogger("edge_cnnlstm.gpu").setLevel(logging.ERROR)  # what it refuses is raised; its hints are no news
    files = (output, output.with_suffix(".export_report.json"), output.with_suffix(".export_report.html"))
    if not overwrite:
        refuse_existing(*files)
    model, recipe = load_checkpoint(checkpoint), load_recipe_of(checkpoint)
    corpus = open_corpus(recipe.data, recipe.model, recipe.seed)
    rules = StateRules(gap_ms=gap_ms or None, idle_ms=idle_ms or None)
    settings = Settings(
        precision, budget, calibration, qat, tuple(keep or ()), clips, validation_clips, sensitivity_clips, steps, rules
    )
    with all_or_nothing(*files) as (bundle, as_json, as_page), _progress() as bars:
        found = export(
            model,
            recipe,
            corpus,
            bundle,
            output.stem,
            settings,
            progress=lambda step: console.console.print(f"[dim]·[/] {step}"),
            track=lambda what, parts: _tracked(bars, what, parts),
        )
        report = document(found, bundle, output.name, started=started)
        console.write_json(as_json, report)
        write_report(report, as_page)
    _show(found)
    console.output.print(f"[bold]{output}[/] proven in a fresh process: {report['bundle']['bytes']:,} bytes")
    console.output.print(f"What was compared and why: {files[2]}")


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console.console, transient=True, disable=not console.console.is_terminal)


def _tracked(bars: Progress, what: str, parts: int) -> Callable[[], None]:
    task = bars.add_task(what, total=parts)
    return lambda: bars.advance(task)


def _show(found: Exported) -> None:
    names = (Column(name, justify="right", overflow="fold") for name in found.tested)
    table = Table(Column("on the test clips", no_wrap=True), *names)
    for score in found.tested["fp32"].quality:
        table.add_row(score, *(f"{measured.quality[score]:.1%}" for measured in found.tested.values()))
    table.add_section()
    table.add_row("KiB", *(f"{found.graphs[name].ByteSize() / 1024:,.0f}" for name in found.tested))
    table.add_row("from torch, typically", *(f"{found.parity[name].typical:.1g}" for name in found.tested))
    table.add_row("from torch, at worst", *(f"{found.parity[name].largest:.1g}" for name in found.tested))
    console.output.print(table)
    for target, why in found.plan.reasons.items():
        console.output.print(f"[bold]{target}[/]: {why}.", highlight=False, soft_wrap=True)
    for name, built in found.builds.items():
        console.output.print(
            f"{built.plan.version} built {name}: {len(built.plan.data):,} bytes in {built.plan.seconds:.2f} s",
            highlight=False,
        )


if __name__ == "__main__":
    console.run(app)
