"""A checkpoint: a folder with `weights.safetensors` and `config.json`, and nothing that can run code."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from edge_cnnlstm.errors import CheckpointError
from edge_cnnlstm.training.config import ModelConfig
from edge_cnnlstm.training.model import CnnLstm

WEIGHTS = "weights.safetensors"
CONFIG = "config.json"


def save_checkpoint(model: CnnLstm, folder: Path) -> None:
    """Write the network's weights and configuration into `folder`, which is made if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(model.config.model_dump_json(indent=2) + "\n")


def load_checkpoint(folder: Path) -> CnnLstm:
    """Return the network in evaluation mode.

    Raises CheckpointError when a file is missing or damaged, when weights and configuration disagree, or
    when a weight is NaN or infinite.
    """
    config = _read_config(folder / CONFIG)
    model = CnnLstm(config)
    weights = _read_weights(folder / WEIGHTS)
    _check_weights(weights, model.state_dict(), folder)
    model.load_state_dict(weights)
    return model.eval()


def _read_config(path: Path) -> ModelConfig:
    try:
        return ModelConfig.model_validate_json(_require(path).read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise CheckpointError(
            f"{path}: {where}: {first['msg']}",
            expected="a model configuration as `edge-cnnlstm train` writes it",
            fix="train again, or restore the file",
        ) from error


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(_require(path))
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: {error}",
            expected="a complete safetensors file",
            fix="the file is damaged or was cut short: copy it again, or train again",
        ) from error


def _require(path: Path) -> Path:
    if not path.is_file():
        raise CheckpointError(
            f"no file {path}",
            expected=f"a checkpoint folder with {CONFIG} and {WEIGHTS}",
            fix="give the folder that `edge-cnnlstm train --output` wrote",
        )
    return path


def _check_weights(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], folder: Path) -> None:
    for name in sorted(found.keys() | expected.keys()):
        have = tuple(found[name].shape) if name in found else None
        want = tuple(expected[name].shape) if name in expected else None
        if have != want:
            raise CheckpointError(
                f"{folder}: tensor {name!r} has shape {have}",
                expected=f"shape {want}, as {CONFIG} says (labels, layers and sizes must match the weights)",
                fix="keep the weights and the configuration of one training run together",
            )
        if not torch.isfinite(found[name]).all():
            raise CheckpointError(
                f"{folder}: tensor {name!r} holds NaN or infinite values",
                expected="finite weights",
                fix="training diverged: train again with a lower learning rate",
            )
