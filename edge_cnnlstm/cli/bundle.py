"""Look into a bundle, and prove it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle.format import Bundle
from edge_cnnlstm.cli.build import building
from edge_cnnlstm.cli.console import output
from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.gpu import audit, tensorrt
from edge_cnnlstm.gpu.engine import Configuration
from edge_cnnlstm.runtime.backends.ort import quantizes_fp16
from edge_cnnlstm.runtime.backends.trt import plan_on_device
from edge_cnnlstm.runtime.proof import prove
from edge_cnnlstm.runtime.selection import load_engine, preferred_graph
from edge_cnnlstm.spec import StateRules

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, such as model.edge.")]


def inspect(
    path: BundlePath,
    engine: Annotated[
        bool, typer.Option("--engine", help="Show the layers that TensorRT runs on this device instead.")
    ] = False,
    graph_name: Annotated[
        str | None, typer.Option("--graph", help="With --engine: of this graph, not of the one that `run` takes.")
    ] = None,
) -> None:
    """Show what a bundle holds: frame, memory, heads, graphs, what was measured of them, and why these."""
    bundle = bundle_format.read(path)
    if engine:
        _inspect_engine(bundle, graph_name)
        return
    if graph_name is not None:
        raise ConfigError("--graph without --engine", expected="both, or neither", fix="add --engine")
    manifest, model = bundle.manifest, bundle.manifest.model
    output.print(f"[bold]{manifest.name}[/]  format {manifest.format_version}, {path.stat().st_size:,} bytes")
    output.print(f"frame   {model.frame.dtype} {list(model.frame.shape)} RGB, other sizes by {model.fit}")
    if model.dt:
        output.print(f"time    {model.dt.dtype} {list(model.dt.shape)} seconds since the last frame")
    for pair in model.states:
        output.print(f"memory  {pair.input} → {pair.output}  {pair.dtype} {list(pair.shape)}")
    output.print(f"forgets {_rules(model.rules)}")
    for head in model.heads:
        labels = f", labels {' '.join(head.labels)}" if head.labels else ""
        output.print(f"head    {head.name}: {head.task} from {', '.join(head.outputs)}{labels}", highlight=False)
    output.print("made by " + ", ".join(f"{name} {version}" for name, version in manifest.made_with.items()))
    table = Table("graph", "dialect", "precision", Column("bytes", justify="right"))
    for graph in manifest.graphs:
        table.add_row(graph.name, graph.dialect, graph.precision, f"{len(bundle.graph(graph.name)):,}")
    output.print(table)
    names = (Column(graph.name, justify="right", overflow="fold") for graph in manifest.graphs)
    scores = Table(Column("on the test clips", no_wrap=True), *names)
    for name in dict.fromkeys(name for graph in manifest.graphs for name in graph.accuracy):
        found = [graph.accuracy.get(name) for graph in manifest.graphs]
        scores.add_row(name, *("–" if value is None else f"{value:.1%}" for value in found))
    output.print(scores)
    for target, why in manifest.plan.reasons.items() if manifest.plan else ():
        output.print(f"[bold]{target}[/]: {why}.", highlight=False, soft_wrap=True)


def _inspect_engine(bundle: Bundle, name: str | None) -> None:
    """Show the layers of one graph's engine, and those that do not run in the precision that the graph says."""
    graph = bundle.manifest.graph(name) if name else preferred_graph(bundle.manifest, "tensorrt")
    with building(graph.name) as progress:
        plan = plan_on_device(bundle, graph, Configuration(), progress).plan
    layers, strays = audit.examine(plan, graph.name, tensorrt.load())
    sizes = (Column(title, justify="right") for title in ("bytes a step", "of these weights"))
    table = Table("layer", "kind", "precision", Column("tactic", overflow="fold"), *sizes)
    for layer in layers:
        table.add_row(
            *map(escape, (layer.name, layer.kind, layer.precision, layer.tactic or "–")),
            *("–" if size is None else f"{size:,}" for size in (layer.bytes, layer.weight_bytes)),
        )
    output.print(table)
    for stray in strays:
        output.print(f"[yellow]{escape(str(stray))}[/]", highlight=False, soft_wrap=True)
    output.print(
        f"{plan.version} runs {graph.name} in {len(layers)} layers; "
        f"{len(strays)} of {len(plan.precisions)} that multiply not as planned",
        soft_wrap=True,
    )


def _rules(rules: StateRules) -> str:
    """Return in words when a stream's memory is emptied."""
    limits = ((rules.gap_ms, "ms between frames"), (rules.idle_ms, "ms without one"))
    events = (
        (rules.source_change, "another source"),
        (rules.seek, "a frame again or an earlier one"),
        (rules.not_finite, "NaN or infinity"),
    )
    when = [f"{limit:g} {what}" for limit, what in limits if limit] + [what for applies, what in events if applies]
    return f"after {', '.join(when)}" if when else "never"


def verify(path: BundlePath) -> None:
    """Verify every byte, then replay the golden rollout on every graph in ONNX Runtime. Exit 0 only if all is well.

    Releases of ONNX Runtime before 1.30 compute the TensorRT graph wrong; there it is named as not proven.
    """
    bundle = bundle_format.read(path)
    table = Table("graph", "largest difference: outputs", "memory", "allowed", "")
    proven = 0
    for graph in bundle.manifest.graphs:
        if graph.dialect == "tensorrt" and not quantizes_fp16():
            table.add_row(graph.name, "–", "–", "–", "[yellow]not proven: needs onnxruntime 1.30 or newer[/]")
            continue
        proven += 1
        backend = load_engine(bundle, graph, "onnxruntime")
        found = prove(backend, bundle.golden, bundle.golden.expected[graph.name], graph.tolerance)
        table.add_row(graph.name, f"{found.output:.2g}", f"{found.state:.2g}", f"{graph.tolerance:.2g}", "[green]ok[/]")
        backend.close()
    output.print(table)
    graphs = "every graph" if proven == len(bundle.manifest.graphs) else f"{proven} graphs"
    output.print(f"[bold]{path}[/]: every byte as written, {graphs} proven over {len(bundle.golden.frames)} frames")
