"""A checkpoint: a folder that holds a network and how it came to be, without pickle.

weights.safetensors   the network's weights
config.json           the network: backbone, memory, heads; and the version of this format
training.toml         the whole recipe: training it again gives the same weights
training.json         data digest, versions, commit, course and scores of the training
resume.safetensors    while training is unfinished: the last weights, the optimizer's moments, the carried memory
resume.json           while training is unfinished: where it stands
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from edge_cnnlstm.errors import CheckpointError
from edge_cnnlstm.training.config import ModelConfig
from edge_cnnlstm.training.model import CnnLstm
from edge_cnnlstm.training.recipe import Recipe, dump_recipe, load_recipe

WEIGHTS = "weights.safetensors"
CONFIG = "config.json"
RECIPE = "training.toml"
REPORT = "training.json"
RESUME = "resume.safetensors"

FORMAT_VERSION = 1
"""The format that is written here. A config.json that names none is of format 1."""


def save_checkpoint(model: CnnLstm, folder: Path) -> None:
    """Write the network's weights and configuration into `folder`, which is made if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(model.state_dict(), folder / WEIGHTS)
    save_json({"format_version": FORMAT_VERSION, **model.config.model_dump(mode="json")}, folder / CONFIG)


def load_checkpoint(folder: Path) -> CnnLstm:
    """Return the network in evaluation mode.

    Raises CheckpointError when a file is missing or damaged, when the format is newer than this package, when
    weights and configuration disagree, or when a weight is NaN or infinite.
    """
    config = _read_config(folder / CONFIG)
    model = CnnLstm(config)
    weights = load_tensors(folder / WEIGHTS)
    _check_weights(weights, model.state_dict(), folder)
    model.load_state_dict(weights)
    return model.eval()


def save_recipe(recipe: Recipe, folder: Path) -> None:
    """Write the recipe beside the weights that it makes."""
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / RECIPE, dump_recipe(recipe))


def load_recipe_of(folder: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Return the recipe that a checkpoint was trained with, after overrides `a.b=value`."""
    return load_recipe(_require(folder / RECIPE), overrides)


def save_json(document: Mapping[str, Any], path: Path) -> None:
    """Write a document; a reader sees the old file or the new one, never half of it."""
    _replace(path, json.dumps(document, indent=2) + "\n")


def load_json(path: Path) -> dict[str, Any]:
    """Read a document of a checkpoint; raises CheckpointError when it is missing or damaged."""
    try:
        document = json.loads(_require(path).read_bytes())
    except (ValueError, RecursionError) as error:  # not JSON, no text, a number or nesting beyond all bounds
        raise _damaged(path, error) from error
    if not isinstance(document, dict):
        raise _damaged(path, TypeError("not a JSON object"))
    return document


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path, about: dict[str, str] | None = None) -> None:
    """Write tensors, and text `about` them; a reader sees the old file or the new one, never half of it."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    # Written by Python, with the permissions that this user's files have: the library's own would be private.
    unfinished.write_bytes(save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, about))
    unfinished.replace(path)


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read tensors; raises CheckpointError when the file is missing or damaged."""
    try:
        return load_file(_require(path))
    except SafetensorError as error:
        raise _damaged(path, error) from error


def load_about(path: Path) -> dict[str, str]:
    """Read the text about a file's tensors; raises CheckpointError when the file is missing or damaged."""
    try:
        with safe_open(_require(path), "pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise _damaged(path, error) from error


def _replace(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text)
    unfinished.replace(path)


def _read_config(path: Path) -> ModelConfig:
    document = load_json(path)
    _check_format(document.pop("format_version", 1), path)
    try:
        return ModelConfig.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise CheckpointError(
            f"{path}: {where}: {first['msg']}",
            expected="a model configuration as `edge-cnnlstm train` writes it",
            fix="train again, or restore the file",
        ) from error


def _check_format(version: object, path: Path) -> None:
    if type(version) is not int or version < 1:
        raise CheckpointError(
            f"{path}: format_version is {version!r}",
            expected=f"a whole number from 1 to {FORMAT_VERSION}",
            fix="the file is damaged: copy it again, or train again",
        )
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path.parent}: checkpoint format {version}",
            expected=f"format {FORMAT_VERSION} or older",
            fix="update edge-cnnlstm",
        )


def _damaged(path: Path, error: Exception) -> CheckpointError:
    kind = "safetensors" if path.suffix == ".safetensors" else "JSON"
    return CheckpointError(
        f"{path}: {error}",
        expected=f"a complete {kind} file",
        fix="the file is damaged or was cut short: copy it again, or train again",
    )


def _require(path: Path) -> Path:
    if not path.is_file():
        raise CheckpointError(
            f"no file {path}",
            expected=f"a checkpoint folder with {CONFIG}, {WEIGHTS} and {RECIPE}",
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
