from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest
import typer
from typer.testing import CliRunner

from edge_cnnlstm.cli.tune import cross_validate, tune
from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.training.recipe import load_recipe

RECIPE = """
[model]
height = 16
width = 16
backbone = { channels = [4, 4], strides = [2, 2], where_channels = 2 }
hidden = 8

[data]
kind = "occluded-digits"
clips = 16
held_out = 12
frames = 12

[fit]
stages = [{ epochs = 1, batch = 8, frames = 3 }]
workers = 0
accelerator = "cpu"
precision = "fp32"

[tune]
metric = "digit.accuracy"
space = { "fit.learning_rate" = { low = 1e-4, high = 1e-1, log = true }, "model.hidden" = { choices = [4, 8] } }
"""

app = typer.Typer()
app.command()(tune)
app.command()(cross_validate)


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    """The path of a recipe that trains in a fraction of a second."""
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return str(path)


def command(*words: str) -> str:
    """Run a command; return what it printed for programs and for people."""
    result = CliRunner().invoke(app, words, env={"COLUMNS": "160"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def is_picture(path: Path) -> bool:
    """Whether a file is an image that shows something."""
    image = cv2.imread(str(path))
    return image is not None and image.std() > 5


def test_tune_writes_the_best_recipe_and_goes_on_when_called_again(recipe: str, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    said = command("tune", recipe, "-o", str(folder), "--trials", "2", "--set", "fit.carry=0.5")
    assert "The best of 2 trials" in said
    said = command("tune", recipe, "-o", str(folder), "--trials", "3", "--set", "fit.carry=0.5")
    assert "The best of 3 trials" in said
    document = json.loads((folder / "tuning.json").read_text())
    best = load_recipe(folder / "best.toml")
    assert best.fit.carry == 0.5
    assert best.fit.learning_rate == document["trials"][document["best"]]["values"]["fit.learning_rate"]
    assert is_picture(folder / "history.png")
    assert is_picture(folder / "importance.png")


def test_workers_with_folders_of_their_own_share_a_storage(recipe: str, tmp_path: Path) -> None:
    storage = str(tmp_path / "shared.log")
    command("tune", recipe, "-o", str(tmp_path / "a"), "--trials", "1", "--storage", storage)
    command("tune", recipe, "-o", str(tmp_path / "b"), "--trials", "2", "--storage", storage)
    first, both = (json.loads((tmp_path / name / "tuning.json").read_text())["trials"] for name in ("a", "b"))
    assert both[0] == first[0]
    assert len(both) == 2
    assert not (tmp_path / "a" / "study.log").exists()


def test_cross_validate_prints_each_fold_and_the_spread(recipe: str, tmp_path: Path) -> None:
    folder = tmp_path / "folds"
    said = command("cross-validate", recipe, "-o", str(folder), "--folds", "2")
    document = json.loads((folder / "cross-validation.json").read_text())
    spread = document["spread"]["digit.accuracy"]
    assert f"{spread['mean']:.1%} ± {spread['deviation']:.1%}" in said
    assert "fold 1" in said
    assert "fold 2" in said
    assert is_picture(folder / "folds.png")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("tune", "--set", "tune.space={}"), "nothing to search"),
        (("tune", "--set", "tune.metric=digit.acuracy"), "acuracy"),
        (("cross-validate", "--folds", "1"), "--folds 1"),
        (("cross-validate", "--folds", "999"), "999 folds"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    words: tuple[str, ...], found: str, recipe: str, tmp_path: Path
) -> None:
    name, *options = words
    with pytest.raises(ConfigError, match=found):
        command(name, recipe, "-o", str(tmp_path / "out"), *options)
    assert not list((tmp_path / "out").iterdir())


def test_a_folder_that_cannot_be_made_is_refused_before_any_training(recipe: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("tune", "cross-validate"):
        with pytest.raises(ConfigError, match="cannot use"):
            command(name, recipe, "-o", str(tmp_path / "file" / "out"))


def test_both_refuse_to_be_torn_apart_by_torchrun(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("tune", "cross-validate"):
        with pytest.raises(ConfigError, match="torchrun"):
            command(name, recipe, "-o", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
