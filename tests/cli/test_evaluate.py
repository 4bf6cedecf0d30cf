"""`evaluate` prints one table for checkpoints of any heads, and leaves what the reports read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from edge_cnnlstm.cli.drops import parsed_loads
from edge_cnnlstm.cli.evaluate import evaluate
from edge_cnnlstm.errors import CheckpointError, ConfigError, DataError
from edge_cnnlstm.training.checkpoint import save_checkpoint, save_recipe
from edge_cnnlstm.training.config import HeadConfig, preset_config
from edge_cnnlstm.training.data.occluded_digits import HEADS
from edge_cnnlstm.training.model import CnnLstm
from edge_cnnlstm.training.recipe import load_recipe

CLIPS = 5


def save(folder: Path, *, layers: int = 1, heads: tuple[HeadConfig, ...] = HEADS) -> Path:
    """An untrained network on a few short clips of digits."""
    torch.manual_seed(layers)
    overrides = (f"model.layers={layers}", f"data.held_out={CLIPS}", "data.frames=12")
    save_checkpoint(CnnLstm(preset_config("nano", heads, layers=layers)), folder)
    save_recipe(load_recipe("occluded-digits", overrides), folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    save(folder / "checkpoint")
    save(folder / "cnn-only", layers=0)
    save(folder / "tracker", heads=HEADS[1:])
    return folder


@pytest.fixture(scope="module")
def evaluation(folder: Path) -> Any:
    evaluate([folder / "checkpoint", folder / "cnn-only"], destination=folder / "new" / "evaluation.json")
    return json.loads((folder / "new" / "evaluation.json").read_text())


def test_each_network_is_evaluated_on_the_clips_of_its_recipe(evaluation: Any) -> None:
    assert evaluation["split"] == "test"
    assert list(evaluation["networks"]) == ["checkpoint", "cnn-only"]
    for network in evaluation["networks"].values():
        assert (network["clips"], network["frames"]) == (CLIPS, 12 * CLIPS)
        assert {"digit.accuracy.visible", "digit.accuracy.hidden", "target.centre_error_px.hidden_3"} <= set(
            network["scores"]
        )
    made = evaluation["made_with"]
    assert made["networks"]["checkpoint"]["data_digest"] == made["networks"]["cnn-only"]["data_digest"]
    assert "layers = 0" in made["networks"]["cnn-only"]["recipe"]
    assert {"torch", "torchmetrics"} <= set(made["versions"])


def test_the_same_checkpoint_gets_the_same_scores(folder: Path, evaluation: Any) -> None:
    evaluate([folder / "checkpoint"], destination=folder / "again.json")

    again = json.loads((folder / "again.json").read_text())
    assert again["networks"]["checkpoint"]["scores"] == evaluation["networks"]["checkpoint"]["scores"]


def test_the_demo_report_reads_what_evaluate_writes(folder: Path, evaluation: Any) -> None:
    from edge_cnnlstm.report import gather

    read = gather.Evaluation.model_validate_json((folder / "new" / "evaluation.json").read_bytes())

    scores = evaluation["networks"]["cnn-only"]["scores"]
    assert read.networks.cnn_only.scores.hidden == scores["digit.accuracy.hidden"]
    assert read.networks.checkpoint.heads.digit.across.frames[0] == -6


def test_a_report_is_a_page_with_its_numbers_beside_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = folder / "report"
    evaluate([folder / "tracker"], clips=2, split="validation", report=report)

    page = (report / "evaluation.html").read_text(encoding="utf-8")
    document = json.loads((report / "evaluation.json").read_text())
    assert document["networks"]["tracker"]["clips"] == 2
    assert document["split"] == "validation"
    assert "Evaluation of tracker" in page
    assert "held_out = 5" in page
    assert len(re.findall('src="data:image/jpeg', page)) == 2
    assert "centre error" in capsys.readouterr().out


def test_networks_with_different_heads_share_one_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate([folder / "checkpoint", folder / "tracker"], clips=1)

    out = capsys.readouterr().out
    assert len(re.findall(r"mean IoU", out)) == 1
    assert len(re.findall(r"│ tracker", out)) > 3


def test_the_data_can_be_changed_and_nothing_else(folder: Path) -> None:
    evaluate([folder / "checkpoint"], overrides=["data.frames=3"], destination=folder / "short.json", clips=2)
    assert json.loads((folder / "short.json").read_text())["networks"]["checkpoint"]["frames"] == 6

    with pytest.raises(ConfigError, match=r"override 'model\.hidden=4'"):
        evaluate([folder / "checkpoint"], overrides=["model.hidden=4"])
    with pytest.raises(ConfigError, match="unknown key"):
        evaluate([folder / "checkpoint"], overrides=["data.frame=3"])


def test_labels_in_another_order_are_refused(tmp_path: Path) -> None:
    reversed_ = HeadConfig(name="digit", task="classify", labels=tuple("9876543210"))
    other = save(tmp_path / "other", heads=(reversed_,))

    with pytest.raises(
        DataError, match=r"the network answers 'digit' \(classify: 9, 8, 7, …\); the clips tell 'digit'"
    ):
        evaluate([other])


def test_folders_of_one_name_are_told_apart(folder: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "checkpoint")

    evaluate([folder / "checkpoint", other], clips=1, destination=tmp_path / "both.json")

    names = list(json.loads((tmp_path / "both.json").read_text())["networks"])
    assert names == [str(folder / "checkpoint"), str(other)]
    with pytest.raises(ConfigError, match="twice"):
        evaluate([other, other])


def test_late_frames_are_scored_by_policy(folder: Path, tmp_path: Path) -> None:
    networks = {"checkpoint": {"kept", "emptied"}, "cnn-only": {"none"}}
    evaluate([folder / name for name in networks], clips=2, drop="50,0", destination=tmp_path / "drops.json")

    document = json.loads((tmp_path / "drops.json").read_text())
    assert document["drops"]["empty_after"] == 2
    for name, memories in networks.items():
        rows = document["drops"]["networks"][name]
        assert len(rows) == 2 * 3 * len(memories)
        assert {row["memory"] for row in rows} == memories
        assert [row["load"] for row in rows[:2]] == [0, 0.5]
        for row in rows:
            unharmed = row["scores"] == document["networks"][name]["scores"]
            assert unharmed == (row["load"] == 0)


def test_late_frames_have_a_picture_and_a_section(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate([folder / "tracker"], clips=1, drop="0,30", empty_after=3, report=tmp_path)

    page = (tmp_path / "evaluation.html").read_text(encoding="utf-8")
    assert (tmp_path / "drops.png").read_bytes().startswith(b"\x89PNG")
    assert "Frames that come too fast" in page
    assert "emptied is so after 3 missed frames in a row" in page
    printed = capsys.readouterr().out
    for column in ("skip-k", "emptied", "30%", "settled"):
        assert column in printed


def test_nothing_is_said_of_late_frames_unless_it_is_asked(folder: Path, evaluation: Any) -> None:
    assert "drops" not in evaluation


@pytest.mark.parametrize("drop", ["120", "100", "a", "-5", "", "0,,10", "nan", "10%"])
def test_a_share_of_frames_is_a_percentage(folder: Path, drop: str) -> None:
    with pytest.raises(ConfigError, match="is no share of frames") as raised:
        evaluate([folder / "nothing"], drop=drop)
    assert "--drop 0,10,20,30,50" in str(raised.value)


def test_shares_are_sorted_and_each_is_measured_once() -> None:
    assert parsed_loads("50, 0,12.5,50") == [0, 0.125, 0.5]


def test_bad_input_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no file"):
        evaluate([tmp_path / "nothing"])
    with pytest.raises(ConfigError, match="split 'tset'"):
        evaluate([folder / "checkpoint"], split="tset")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot use"):
        evaluate([folder / "checkpoint"], report=tmp_path / "file")
