"""What a network is made of: backbone, memory, heads; and the named presets."""

from __future__ import annotations

import difflib
import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.spec import FitMode, Task


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BackboneConfig(_Config):
    """Convolutional stages: a width and a stride each, and how the last feature map is read.

    `where_channels = 0` flattens the map; more reads it as *what and where* (see `model.Backbone`).
    """

    channels: tuple[int, ...] = Field(min_length=1)
    strides: tuple[int, ...]
    max_pool: bool = False
    where_channels: int = Field(default=0, ge=0)
    activation: Literal["relu", "relu6", "silu"] = "relu"

    @model_validator(mode="after")
    def _one_stride_per_stage(self) -> BackboneConfig:
        if len(self.strides) != len(self.channels):
            raise ValueError(f"{len(self.channels)} stages need as many strides, not {len(self.strides)}")
        return self

    def cells(self, height: int, width: int) -> int:
        """Number of positions in the last feature map for frames of this size in pixels."""
        for stride in self.strides:
            height, width = math.ceil(height / stride), math.ceil(width / stride)
            if self.max_pool:
                height, width = height // 2, width // 2
        return height * width


class HeadConfig(_Config):
    """One head: its name, its task, and for `classify` its labels in the order of the scores."""

    name: str
    task: Task
    labels: tuple[str, ...] = ()


class ModelConfig(_Config):
    """A whole network. `layers = 0` is the same network without memory."""

    height: int = Field(gt=0)
    width: int = Field(gt=0)
    fit: FitMode = "crop"
    backbone: BackboneConfig
    layers: int = Field(ge=0)
    hidden: int = Field(gt=0)
    heads: tuple[HeadConfig, ...] = Field(min_length=1)

    @property
    def features(self) -> int:
        """Width of the vector that the backbone hands to the memory."""
        cells = self.backbone.cells(self.height, self.width)
        last = self.backbone.channels[-1]
        return last + self.backbone.where_channels * cells if self.backbone.where_channels else last * cells


class Preset(_Config):
    """Everything about a network but its heads, which the data set brings."""

    side: int
    backbone: BackboneConfig
    layers: int
    hidden: int


PRESETS = {
    "nano": Preset(
        side=64,
        backbone=BackboneConfig(channels=(16, 32, 64, 64), strides=(2, 2, 2, 1), where_channels=8),
        layers=1,
        hidden=96,
    ),
}


def preset_config(name: str, heads: tuple[HeadConfig, ...], *, layers: int | None = None) -> ModelConfig:
    """Return the configuration of a preset with these heads, and another number of LSTM layers if given.

    Raises ConfigError for an unknown preset or a layer count below 0.
    """
    if name not in PRESETS:
        nearest = difflib.get_close_matches(name, PRESETS, n=1)
        raise ConfigError(
            f"unknown preset {name!r}",
            expected=f"one of {', '.join(PRESETS)}",
            fix=f"did you mean {nearest[0]!r}?" if nearest else "choose one of these",
        )
    if layers is not None and layers < 0:
        raise ConfigError(f"{layers} LSTM layers", expected="0 or more", fix="use 0 for the network without memory")
    preset = PRESETS[name]
    return ModelConfig(
        height=preset.side,
        width=preset.side,
        backbone=preset.backbone,
        layers=preset.layers if layers is None else layers,
        hidden=preset.hidden,
        heads=heads,
    )
