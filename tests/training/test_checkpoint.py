from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from edge_cnnlstm.errors import CheckpointError
from edge_cnnlstm.training.checkpoint import CONFIG, WEIGHTS, load_checkpoint, save_checkpoint
from edge_cnnlstm.training.config import preset_config
from edge_cnnlstm.training.data.occluded_digits import HEADS
from edge_cnnlstm.training.model import CnnLstm


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_checkpoint(CnnLstm(preset_config("nano", HEADS)), tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_a_checkpoint_survives_the_disk(folder: Path) -> None:
    torch.manual_seed(0)
    expected = CnnLstm(preset_config("nano", HEADS)).state_dict()

    loaded = load_checkpoint(folder)

    assert not loaded.training
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, WEIGHTS]


def test_a_missing_checkpoint_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="edge-cnnlstm train"):
        load_checkpoint(tmp_path / "nothing")


@pytest.mark.parametrize("kept", [0, 4, 7, 100, 5000, -1])
def test_truncated_weights_are_refused(folder: Path, kept: int) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:kept])

    with pytest.raises(CheckpointError, match="safetensors"):
        load_checkpoint(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"height": 64}', '{"height": -1}'])
def test_a_broken_config_is_refused(folder: Path, text: str) -> None:
    (folder / CONFIG).write_text(text)

    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_checkpoint(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path, value: float) -> None:
    model = CnnLstm(preset_config("nano", HEADS))
    with torch.no_grad():
        model.cells[0].gates.bias[7] = value
    save_checkpoint(model, tmp_path)

    with pytest.raises(CheckpointError, match=r"cells\.0\.gates\.bias"):
        load_checkpoint(tmp_path)


def test_a_label_too_many_is_refused_by_the_head_it_belongs_to(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    config["heads"][0]["labels"].append("ten")
    (folder / CONFIG).write_text(json.dumps(config))

    with pytest.raises(CheckpointError, match=r"(?s)heads\.0.*\(10.*labels"):
        load_checkpoint(folder)


def test_layers_that_the_weights_do_not_have_are_refused(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"layers": 2}))

    with pytest.raises(CheckpointError, match=r"cells\.1\.gates"):
        load_checkpoint(folder)
