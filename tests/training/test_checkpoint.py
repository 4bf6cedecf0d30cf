from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from edge_cnnlstm.errors import CheckpointError
from edge_cnnlstm.training.checkpoint import CONFIG, WEIGHTS, load_checkpoint, save_checkpoint
from edge_cnnlstm.training.config import ModelConfig, preset_config
from edge_cnnlstm.training.data.occluded_digits import HEADS
from edge_cnnlstm.training.model import CnnLstm

DIGITS = HEADS[0].labels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_checkpoint(CnnLstm(preset_config("nano", HEADS)), tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def edit(folder: Path, **keys: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | keys))


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


BROKEN = {
    "empty": b"",
    "cut short": b"{",
    "a list": b"[]",
    "no text": b"\xff",
    "too deep": b"[" * 100_000,
    "too large a number": b"9" * 5000,
    "not all of a network": b'{"height": 64}',
    "an impossible size": b'{"height": -1}',
    "a format alone": b'{"format_version": 1}',
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_config_is_refused(folder: Path, case: str) -> None:
    (folder / CONFIG).write_bytes(BROKEN[case])

    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_checkpoint(folder)


def test_a_checkpoint_names_its_format_beside_the_network(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())

    assert config.pop("format_version") == 1
    assert ModelConfig.model_validate(config) == preset_config("nano", HEADS)


def test_a_checkpoint_without_a_format_is_of_the_first(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    del config["format_version"]
    (folder / CONFIG).write_text(json.dumps(config))

    assert load_checkpoint(folder).config == preset_config("nano", HEADS)


def test_a_newer_format_is_refused_before_anything_else_is_judged(folder: Path) -> None:
    (folder / CONFIG).write_text('{"format_version": 2, "layers": "as many as it takes"}')
    (folder / WEIGHTS).unlink()

    with pytest.raises(CheckpointError) as refused:
        load_checkpoint(folder)

    assert refused.value.found == f"{folder}: checkpoint format 2"
    assert refused.value.expected == "format 1 or older"
    assert refused.value.fix == "update edge-cnnlstm"


@pytest.mark.parametrize("version", ["1", "2", "", -1, 0, True, False, None, 1.0, 2.5, [1], {}])
def test_a_format_that_is_no_number_is_damage(folder: Path, version: object) -> None:
    edit(folder, format_version=version)

    with pytest.raises(CheckpointError, match=r"(?s)config\.json: format_version is .*damaged"):
        load_checkpoint(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path, value: float) -> None:
    model = CnnLstm(preset_config("nano", HEADS))
    with torch.no_grad():
        model.cells[0].gates.bias[7] = value
    save_checkpoint(model, tmp_path)

    with pytest.raises(CheckpointError, match=r"cells\.0\.gates\.bias"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(("labels", "expected"), [(DIGITS[:-1], 9), ((*DIGITS, "ten"), 11), (DIGITS[:2], 1)])
def test_labels_that_do_not_match_the_weights_are_refused_by_the_head(
    folder: Path, labels: tuple[str, ...], expected: int
) -> None:
    edit(folder, heads=[HEADS[0].model_dump() | {"labels": labels}, *(head.model_dump() for head in HEADS[1:])])

    with pytest.raises(CheckpointError) as refused:
        load_checkpoint(folder)

    assert refused.value.found == f"{folder}: tensor 'heads.0.bias' has shape (10,)"
    assert refused.value.expected.startswith(f"shape ({expected},), as {CONFIG} says (labels")


def test_layers_that_the_weights_do_not_have_are_refused(folder: Path) -> None:
    edit(folder, layers=2)

    with pytest.raises(CheckpointError, match=r"cells\.1\.gates"):
        load_checkpoint(folder)
