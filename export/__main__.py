"""`python -m export CHECKPOINT -o OUT.edge`: a trained network becomes a bundle that a robot can run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from edge_cnnlstm.cli import console
from edge_cnnlstm.cli.evaluate import scores_table
from edge_cnnlstm.training.checkpoint import load_checkpoint, load_recipe_of
from edge_cnnlstm.training.data.corpora import open_corpus
from export.pipeline import as_report, export

app = typer.Typer(add_completion=False)


@app.command()
def main(
    checkpoint: Annotated[Path, typer.Argument(help="The folder that `edge-cnnlstm train --output` wrote.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The bundle to write, such as model.edge.")],
    clips: Annotated[int, typer.Option(min=1, help="Test clips that measure each graph's accuracy.")] = 400,
    budget: Annotated[
        float, typer.Option(min=0, max=1, help="Accuracy that a quantized graph may lose, as a share.")
    ] = 0.01,
) -> None:
    """Quantize a checkpoint, lower it to every target, prove each graph, and pack one bundle.

    Beside OUT.edge it writes OUT.export.json: accuracy, parity and size per graph, and the TensorRT build.
    Nothing stands at OUT.edge unless every proof held.
    """
    started = time.time()
    model, recipe = load_checkpoint(checkpoint), load_recipe_of(checkpoint)
    corpus = open_corpus(recipe.data, recipe.model, recipe.seed)

    def progress(step: str) -> None:
        console.console.print(f"[dim]·[/] {step}")

    exported = export(model, corpus, output, clips=clips, budget=budget, progress=progress)
    report = as_report(exported, output) | {"started": started, "seconds": time.time() - started}
    console.write_json(output.with_suffix(".export.json"), report)
    console.output.print(scores_table({name: found.document() for name, found in exported.evaluations.items()}))
    built = report["tensorrt_aot"]
    console.output.print(
        f"{built['version']} built int8_tensorrt ahead of time: {built['plan_bytes']:,} bytes, {built['seconds']:.2f} s"
    )
    console.output.print(f"[bold]{output}[/] proven in a fresh process: {report['bundle']['bytes']:,} bytes")


if __name__ == "__main__":
    console.run(app)
