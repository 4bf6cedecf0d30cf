from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import training as benchmark
from benchmarks.training import CASES, Case, Cell, Goal, summary, training
from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.training.recipe import load_recipe, shipped_recipes

TINY = """
[model]
height = 16
width = 16
hidden = 8
backbone = { channels = [4, 4], strides = [2, 2], where_channels = 2 }

[data]
kind = "occluded-digits"
clips = 16
held_out = 8
frames = 3

[fit]
stages = [{ epochs = 1, batch = 8 }]
workers = 0
accelerator = "cpu"
precision = "fp32"
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    goals = (Goal("digit.accuracy", 0.0), Goal("target.centre_error_px", 0.0, at_most=True))
    cases = (Case("tiny", str(path), (), goals), Case("no memory", str(path), ("model.layers=0",), goals[:1]))
    monkeypatch.setattr(benchmark, "CASES", cases)
    return path


def measured(folder: Path) -> dict[str, Any]:
    training(seeds=2, only=None, kept=folder / "kept", destination=folder / "out.json")
    found: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return found


def test_every_case_is_trained_from_every_seed_and_held_against_its_goals(recipe: Path, tmp_path: Path) -> None:
    found = measured(tmp_path)

    assert [(cell["case"], cell["seed"]) for cell in found["trainings"]] == [
        ("tiny", 0),
        ("tiny", 1),
        ("no memory", 0),
        ("no memory", 1),
    ]
    assert [goal["reached"] for goal in found["goals"]] == [True, False, True]
    assert all(cell["clips"] == 8 and 0 < cell["compute_share"] <= 1 for cell in found["trainings"])
    first = [cell["scores"]["target.centre_error_px"] for cell in found["trainings"][:2]]
    assert first[0] != first[1]
    assert found["goals"][1]["mean"] == pytest.approx(sum(first) / 2)
    assert found["command"] == "python -m benchmarks training --seeds 2"


def test_a_finished_training_is_not_done_again(recipe: Path, tmp_path: Path) -> None:
    before = measured(tmp_path)
    weights = sorted((tmp_path / "kept").rglob("weights.safetensors"))
    written = [path.stat().st_mtime_ns for path in weights]

    after = measured(tmp_path)

    assert len(weights) == 4
    assert [path.stat().st_mtime_ns for path in weights] == written
    assert after["trainings"] == before["trainings"]


def test_a_training_by_another_recipe_is_not_taken_for_this_one(recipe: Path, tmp_path: Path) -> None:
    measured(tmp_path)
    recipe.write_text(TINY.replace("hidden = 8", "hidden = 12"))

    with pytest.raises(ConfigError, match="another recipe"):
        measured(tmp_path)


def test_a_goal_is_held_against_the_mean_over_seeds() -> None:
    case = Case("case", "recipe", (), (Goal("accuracy", 0.9),))
    cells = [Cell("case", seed, 1.0, 1.0, 1, 1, None, {"accuracy": score}) for seed, score in enumerate((0.85, 0.97))]

    (row,) = summary([case], cells)

    assert (row["mean"], row["least"], row["most"]) == (pytest.approx(0.91), 0.85, 0.97)
    assert row["reached"]


def test_the_cases_are_recipes_that_ship() -> None:
    for case in CASES:
        assert case.recipe in shipped_recipes()
        load_recipe(case.recipe, case.changes)
