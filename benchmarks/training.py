"""What the shipped recipes reach, from several seeds: trained in full, scored once on clips that nothing has seen."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from edge_cnnlstm import provenance
from edge_cnnlstm.cli import console
from edge_cnnlstm.errors import ConfigError

SCHEMA_VERSION = 1
MADE_WITH = ("edge-cnnlstm", "torch", "lightning", "torchmetrics", "numpy", "opencv-python-headless", "scikit-learn")


@dataclass(frozen=True, slots=True)
class Goal:
    """A score on the test split, and the value that it should reach in the mean over the seeds."""

    score: str
    value: float
    at_most: bool = False

    def reached(self, mean: float) -> bool:
        """Whether a mean reaches this goal."""
        return mean <= self.value if self.at_most else mean >= self.value


@dataclass(frozen=True, slots=True)
class Case:
    """One recipe, with changes, and what it should reach."""

    name: str
    recipe: str
    changes: tuple[str, ...]
    goals: tuple[Goal, ...]


CASES = (
    Case(
        "occluded digits, nano",
        "occluded-digits",
        (),
        (
            Goal("digit.accuracy.visible", 0.97),
            Goal("digit.accuracy.hidden", 0.92),
            Goal("target.centre_error_px.hidden_3", 2.0, at_most=True),
        ),
    ),
    Case("recall, nano", "recall", (), (Goal("digit.accuracy", 0.95),)),
    Case("recall, nano without memory", "recall", ("model.layers=0",), (Goal("digit.accuracy", 0.13, at_most=True),)),
    Case("digit images, the article's network along rows", "reference", (), (Goal("digit.accuracy", 0.98),)),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One training: its seed, how long it took, the share of its loop that did not wait for data, its test scores.

    `commit` is that of the sources it was trained with.
    """

    case: str
    seed: int
    seconds: float
    compute_share: float
    epochs: int
    clips: int
    commit: str | None
    scores: dict[str, float]


def training(
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each recipe.")] = 3,
    only: Annotated[
        list[str] | None, typer.Option("--recipe", help="A recipe; repeat for more. All by default.")
    ] = None,
    kept: Annotated[Path, typer.Option(help="Where trainings are kept: the same command goes on from them.")] = Path(
        "runs/training"
    ),
    destination: Annotated[Path | None, typer.Option("-o", "--output", help="Write everything to this file.")] = None,
) -> None:
    """Train the shipped recipes in full, from several seeds, and hold their test scores against their goals."""
    began, started = time.monotonic(), datetime.now(timezone.utc).isoformat(timespec="seconds")
    cases = [case for case in CASES if only is None or case.recipe in only]
    found = []
    for case in cases:
        for seed in range(seeds):
            console.console.print(f"[bold]{case.name}[/], seed {seed}")
            found.append(_cell(case, seed, kept / f"{_slug(case.name)}-{seed}"))
    rows = summary(cases, found)
    console.output.print(_table(rows, found))
    command = f"python -m benchmarks training --seeds {seeds}" + "".join(f" --recipe {name}" for name in only or [])
    console.output.print(command, highlight=False)
    if destination is not None:
        document = {
            "schema_version": SCHEMA_VERSION,
            "command": command,
            "started": started,
            "seconds": round(time.monotonic() - began, 1),
            "goals": rows,
            "trainings": [asdict(cell) for cell in found],
            "machine": provenance.machine(),
            "versions": provenance.versions(*MADE_WITH),
            "commit": provenance.git_commit(Path(__file__).parent),
        }
        console.write_json(destination, document)


def summary(cases: list[Case], found: list[Cell]) -> list[dict[str, Any]]:
    """Return one row per goal: its mean over the seeds, the range, and whether it was reached."""
    rows = []
    for case in cases:
        for goal in case.goals:
            values = [cell.scores[goal.score] for cell in found if cell.case == case.name]
            mean = statistics.fmean(values)
            measured = {"mean": mean, "least": min(values), "most": max(values), "reached": goal.reached(mean)}
            rows.append({"case": case.name, "recipe": case.recipe, "changes": case.changes, **asdict(goal), **measured})
    return rows


def _cell(case: Case, seed: int, folder: Path) -> Cell:
    from edge_cnnlstm.training import checkpoint, run
    from edge_cnnlstm.training.data.corpora import open_corpus
    from edge_cnnlstm.training.evaluate import evaluate, torch_answer
    from edge_cnnlstm.training.recipe import load_recipe

    recipe = load_recipe(case.recipe, [*case.changes, f"seed={seed}"])
    if (folder / checkpoint.RECIPE).is_file() and checkpoint.load_recipe_of(folder) != recipe:
        raise ConfigError(
            f"{folder} holds a training of another recipe",
            expected=f"{case.recipe} as it ships now",
            fix="delete that folder, or choose another with --kept",
        )
    if (folder / checkpoint.RESUME).is_file():
        run.resume(folder)
    elif not run.is_complete(folder):
        run.train(recipe, folder)
    model, report = checkpoint.load_checkpoint(folder), checkpoint.load_json(folder / checkpoint.REPORT)
    corpus = open_corpus(recipe.data, recipe.model, recipe.seed)
    tested = evaluate(torch_answer(model), corpus.clips(corpus.splits["test"], training=False), model.config.heads)
    return Cell(
        case.name,
        seed,
        round(report["seconds"], 1),
        round(report["compute_share"], 4),
        len(report["history"]),
        tested.clips,
        report["commit"],
        tested.scores,
    )


def _table(rows: list[dict[str, Any]], found: list[Cell]) -> Table:
    table = Table("recipe", Column("test score", overflow="fold"), "mean (range)", "goal")
    for row in rows:
        sign = "≤" if row["at_most"] else "≥"
        table.add_row(
            row["case"],
            row["score"],
            f"{row['mean']:.4g} ({row['least']:.4g}–{row['most']:.4g})",
            f"{sign} {row['value']:g}, {'reached' if row['reached'] else 'missed'}",
        )
    slowest = max(cell.seconds for cell in found)
    waiting = min(cell.compute_share for cell in found)
    table.caption = f"longest training {slowest:.0f} s; at least {waiting:.1%} of the training loop was compute"
    return table


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)
