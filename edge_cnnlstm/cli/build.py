"""Build a bundle's graphs with TensorRT, by hand: what a run would otherwise wait for at its first start."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle.format import Bundle
from edge_cnnlstm.bundle.manifest import Graph
from edge_cnnlstm.cli.console import console, errors, output, unusable_path
from edge_cnnlstm.errors import ConfigError, EdgeError, PlanError
from edge_cnnlstm.gpu import audit, context, tensorrt
from edge_cnnlstm.gpu.engine import DEFAULT, MIB, Configuration, build_plan
from edge_cnnlstm.gpu.plans import StoredPlan
from edge_cnnlstm.gpu.private import write_whole
from edge_cnnlstm.gpu.progress import Progress
from edge_cnnlstm.runtime.backends.trt import plan_on_device, watched
from edge_cnnlstm.runtime.selection import DIALECTS, preferred_graph


def build(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, such as model.edge.")],
    graph: Annotated[str | None, typer.Option(help="Only this one of the bundle's graphs, see `inspect`.")] = None,
    ahead_of_time: Annotated[
        bool,
        typer.Option(
            "--ahead-of-time",
            help="With TensorRT-RTX, which needs no GPU: proves that TensorRT's parser and builder take the graphs.",
        ),
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Build even what the cache has.")] = False,
    destination: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="PLAN", help="Write the plan of one graph here, not into the cache."),
    ] = None,
    streams: Annotated[int, typer.Option(help="Streams that are stepped together.")] = 1,
    optimization_level: Annotated[
        int | None, typer.Option(help="0, quick to build, to 5, tries the most; TensorRT's own choice unless given.")
    ] = None,
    workspace_mib: Annotated[
        int, typer.Option(help="Scratch memory that a layer may ask for.")
    ] = DEFAULT.workspace_bytes // MIB,
    tactic_mib: Annotated[
        int | None,
        typer.Option(help="Memory to try out tactics in, a power of two; TensorRT's own limit unless given."),
    ] = None,
) -> None:
    """Build the graphs that TensorRT runs, and keep the plans for what this user runs on this device.

    Exit 0 only if every graph that was asked for was built, and kept.
    """
    bundle = bundle_format.read(path)
    graphs = [bundle.manifest.graph(graph)] if graph else _for_tensorrt(bundle)
    tactic_bytes = None if tactic_mib is None else tactic_mib * MIB
    configuration = Configuration(streams, workspace_mib * MIB, tactic_bytes, optimization_level)
    if destination is not None:
        _prepare(destination, graphs)
    # What is missing is missing for every graph.
    if not ahead_of_time:
        context.describe()
    tensorrt.load(ahead_of_time)
    order = _Order(bundle, configuration, ahead_of_time, again, destination)
    done = [order.carry_out(each) for each in graphs]
    if ahead_of_time and any(done):
        output.print(
            "Proven: TensorRT's parser and builder take what is listed. These are not plans for a device: "
            "its own TensorRT has to build them there.",
            soft_wrap=True,
        )
    if not all(done):
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class _Order:
    bundle: Bundle
    configuration: Configuration
    ahead_of_time: bool
    again: bool
    destination: Path | None

    def carry_out(self, graph: Graph) -> bool:
        """Build one graph and print what came of it; return whether it is now where it was asked for."""
        try:
            found = self._plan(graph)
        except EdgeError as error:
            errors.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
            return False
        output.print(_line(graph.name, found), highlight=False, markup=False, soft_wrap=True)
        return self.ahead_of_time or found.file is not None

    def _plan(self, graph: Graph) -> StoredPlan:
        if not self.ahead_of_time and self.destination is None:
            with building(graph.name) as progress:
                found = plan_on_device(self.bundle, graph, self.configuration, progress, again=self.again)
            for words in _strays(graph.name, found):
                console.print(f"[yellow]{escape(words)}[/]", highlight=False, soft_wrap=True)
            return found
        with building(graph.name) as progress:
            plan = build_plan(
                self.bundle.graph(graph.name),
                graph.name,
                self.configuration,
                watch=watched(self.bundle),
                ahead_of_time=self.ahead_of_time,
                progress=progress,
            )
        if self.destination is not None:
            _write(self.destination, plan.data)
        return StoredPlan(plan, self.destination, why="")


def _strays(name: str, found: StoredPlan) -> list[str]:
    """Say which layers do not run as planned; an engine that is not understood may be sound."""
    try:
        return [str(stray) for stray in audit.examine(found.plan, name, tensorrt.load())[1]]
    except PlanError:
        raise
    except EdgeError as error:
        return [f"graph {name!r} was built, but what it runs in was not looked at: {error.found}"]


def _for_tensorrt(bundle: Bundle) -> list[Graph]:
    """Return every graph that TensorRT may be given; its own come with the last resort, which is portable."""
    fitting = [graph for graph in bundle.manifest.graphs if graph.dialect in DIALECTS["tensorrt"]]
    return fitting or [preferred_graph(bundle.manifest, "tensorrt")]


@contextmanager
def building(name: str) -> Iterator[Progress]:
    """Show, from the first word that a build gives of itself, how far it is."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:

        def show(phase: str, done: int, total: int) -> None:
            task = bars.task_ids[0] if bars.task_ids else bars.add_task(name)
            bars.update(task, description=f"{name}: {phase}", completed=done, total=total)

        yield show


def _line(name: str, found: StoredPlan) -> str:
    plan = found.plan
    built = f"{plan.version} built {name}: {len(plan.data):,} bytes in {plan.seconds:.2f} s"
    how = "from the cache" if found.why is None else found.why
    where = f"in {found.file}" if found.file is not None else "kept nowhere" if found.why else None
    return ", ".join(filter(None, (built, how, where)))


def _prepare(destination: Path, graphs: list[Graph]) -> None:
    if len(graphs) != 1:
        raise ConfigError(
            f"one output for {len(graphs)} graphs: {', '.join(graph.name for graph in graphs)}",
            expected="one graph",
            fix="name it with --graph, or leave out -o",
        )
    if destination.exists() and not destination.is_file():
        raise ConfigError(f"{destination} is no plain file", expected="a file", fix="choose another path")
    destination.parent.mkdir(parents=True, exist_ok=True)


def _write(path: Path, data: bytes) -> None:
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            write_whole(folder, path.name, data, mode=0o644)
        finally:
            os.close(folder)
    except OSError as error:
        raise unusable_path(OSError(error.errno, error.strerror, str(path))) from error
