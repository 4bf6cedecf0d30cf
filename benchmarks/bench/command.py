"""`python -m benchmarks bench`: the short set on one bundle, every figure of it, and whether it is within budget."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from benchmarks import budgets, machine
from benchmarks.bench.plan import SHORT, Subject, Suite
from benchmarks.bench.show import section
from benchmarks.processes import ROOT
from benchmarks.record import keep, recording, write_page
from benchmarks.show import print_section
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.cli import console
from edge_cnnlstm.errors import ConfigError

RESULTS = ROOT / "benchmarks" / "results"


def bench(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, such as model.edge.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="The same network's checkpoint: what torch is run with.")
    ] = None,
    suites: Annotated[
        list[str] | None,
        typer.Option("--suite", help=f"Repeat for more; all by default: {', '.join(s.name for s in SHORT)}."),
    ] = None,
    folder: Annotated[Path, typer.Option("--results", help="Where the results go.")] = RESULTS,
) -> None:
    """Run the short set on one bundle: results as JSON and as a page; exit code 1 when a figure is over its budget."""
    chosen, manifest = _chosen(suites), bundle_format.read(path).manifest
    subject, name = Subject(path.resolve(), manifest, checkpoint and checkpoint.resolve()), manifest.name
    named = [word for suite in suites or () for word in ("--suite", suite)]
    named += ["--checkpoint", checkpoint.name] if checkpoint else []
    with TemporaryDirectory() as scratch, recording("bench", named, path, ()) as report:
        reports, missing = run(chosen, subject, Path(scratch))
        ratios = [{"suite": suite} | row for suite, found in reports.items() for row in found["ratios"]]
        report.update({"ratios": ratios, "suites": reports, "missing": missing})
    over = budgets.overruns(ratios, budgets.budget_for(machine.slug(), name))
    report["over_budget"] = [overrun.words for overrun in over]
    stem = f"{machine.slug()}-{name}-{datetime.now(timezone.utc):%Y-%m-%d}"
    keep(report, folder / f"{stem}.json")
    write_page(folder / f"{stem}.html", f"{name} on {machine.slug()}", list(reports.values()), ratios)
    print_section(section(report), report)
    console.output.print(f"written   {stem}.json and {stem}.html", highlight=False)
    if over:
        raise typer.Exit(1)


def run(suites: tuple[Suite, ...], subject: Subject, folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Run suites one after the other, each as its own command: reports by suite, and why one has none."""
    reports, missing = dict[str, dict[str, Any]](), dict[str, str]()
    for number, suite in enumerate(suites, start=1):
        console.console.rule(f"{suite.name}, {number} of {len(suites)}")
        destination = folder / f"{suite.name}.json"
        words = [*suite.words(subject), "-o", str(destination)]
        done = subprocess.run([sys.executable, "-m", "benchmarks", *words], cwd=ROOT, check=False)
        if destination.exists():
            reports[suite.name] = json.loads(destination.read_text())
        else:
            missing[suite.name] = f"it ended with exit code {done.returncode}: what it said stands above"
    return reports, missing


def _chosen(names: list[str] | None) -> tuple[Suite, ...]:
    known = {suite.name: suite for suite in SHORT}
    for name in names or ():
        if name not in known:
            raise ConfigError(f"suite {name!r}", expected=f"one of {', '.join(known)}", fix="choose one of these")
    return SHORT if names is None else tuple(known[name] for name in names)
