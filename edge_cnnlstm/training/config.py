"""What a network is made of: backbone, memory, heads; and the named presets."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.spec import FitMode, Task

Activation = Literal["relu", "relu6", "leaky_relu", "elu", "gelu", "silu", "hardswish", "tanh"]
Importable = Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]
"""The user's own code: `package.module:name`."""
Options = Mapping[str, bool | int | float | str]
"""What the user's own code is given, by name."""


class Section(BaseModel):
    """Base of every part of a configuration: immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ConvConfig(Section):
    """Plain convolutional stages: a width and a stride each, and how the last feature map is read.

    `where_channels = 0` flattens the map; more reads it as *what and where* (see `backbones.Backbone`).
    """

    kind: Literal["conv"] = "conv"
    channels: tuple[int, ...] = Field(min_length=1)
    strides: tuple[int, ...]
    max_pool: bool = False
    batch_norm: bool = True
    where_channels: int = Field(default=0, ge=0)
    activation: Activation = "relu"

    @model_validator(mode="after")
    def _one_stride_per_stage(self) -> ConvConfig:
        if len(self.strides) != len(self.channels):
            raise ValueError(f"{len(self.channels)} stages need as many strides, not {len(self.strides)}")
        return self


class ResidualStage(Section):
    """`repeats` inverted residual blocks of one width; the first has the stride."""

    expand: int = Field(default=4, gt=0)
    channels: int = Field(gt=0)
    repeats: int = Field(default=1, gt=0)
    stride: int = Field(default=1, gt=0)


class ResidualConfig(Section):
    """Depthwise-separable inverted residuals (MobileNetV2, arXiv 1801.04381) behind a strided stem."""

    kind: Literal["residual"] = "residual"
    stem: int = Field(gt=0)
    stages: tuple[ResidualStage, ...] = Field(min_length=1)
    where_channels: int = Field(default=8, ge=0)
    activation: Activation = "relu6"


class ModuleConfig(Section):
    """Any `nn.Module` that is installed: `module = "package.module:Class"`, built with `options`.

    It maps the normalised frame, float32 [batch, 3, height, width], to a feature map [batch, channels, rows,
    columns] or to a vector [batch, features].
    """

    kind: Literal["module"] = "module"
    module: Importable
    options: Options = Field(default={})
    where_channels: int = Field(default=0, ge=0)
    activation: Activation = "relu"


BackboneConfig = Annotated[ConvConfig | ResidualConfig | ModuleConfig, Field(discriminator="kind")]


class HeadConfig(Section):
    """One head: its name, its task, and what its numbers mean.

    `labels` are the classes of a `classify` head, in the order of its scores (two labels make it binary), and the
    names of the values of a `regress` head. `per = "clip"` asks for the answer at a clip's last frame only. A
    `regress` head answers `centre + spread · output`, so that the network itself works on numbers near 1.
    """

    name: str = Field(pattern=r"^\w+$")
    task: Task
    labels: tuple[str, ...] = ()
    per: Literal["frame", "clip"] = "frame"
    centre: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _labels_fit_the_task(self) -> HeadConfig:
        if self.task == "classify" and len(self.labels) < 2:
            raise ValueError(f"a classify head needs two labels or more, not {len(self.labels)}")
        if self.task == "regress" and not len(self.labels) == len(self.centre) == len(self.spread) > 0:
            raise ValueError("a regress head needs a label, a centre and a spread for each value")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"the labels {', '.join(self.labels)} are not all different")
        return self


class NetworkConfig(Section):
    """Everything about a network but its heads, which the data brings.

    Whatever is not given comes from the preset. `layers = 0` is the same network without memory. `scan` says what
    the memory runs along: the frames of a video, or the rows of one image's feature map, from an empty memory for
    each image. With `dt_input` the network is told the time since its last frame, and so how many frames of a video at
    `frame_rate`, the rate of the clips that it learns from, it has missed.
    """

    preset: str = "nano"
    height: int = Field(gt=0)
    width: int = Field(gt=0)
    fit: FitMode = "crop"
    scan: Literal["frames", "rows"] = "frames"
    backbone: BackboneConfig
    layers: int = Field(ge=0)
    hidden: int = Field(gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    dt_input: bool = False
    frame_rate: float = Field(default=30.0, gt=0, le=1000)

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        name = given.get("preset", "nano") if isinstance(given, Mapping) else None
        return _merged(_preset(name), given) if isinstance(name, str) else given

    @model_validator(mode="after")
    def _rows_can_be_scanned(self) -> NetworkConfig:
        if self.scan == "rows" and self.layers == 0:
            raise ValueError("scanning rows needs an LSTM layer or more")
        if self.scan == "rows" and self.backbone.where_channels:
            raise ValueError("scanning rows reads the whole feature map: set backbone.where_channels to 0")
        return self

    @model_validator(mode="after")
    def _time_is_told_to_a_memory(self) -> NetworkConfig:
        if self.dt_input and (self.layers == 0 or self.scan == "rows"):
            raise ValueError("dt_input tells a memory how long ago the last frame was: it needs one, along frames")
        return self


class ModelConfig(NetworkConfig):
    """A whole network."""

    heads: tuple[HeadConfig, ...] = Field(min_length=1)

    @field_validator("heads")
    @classmethod
    def _names_differ(cls, heads: tuple[HeadConfig, ...]) -> tuple[HeadConfig, ...]:
        if len({head.name for head in heads}) != len(heads):
            raise ValueError(f"the heads {', '.join(head.name for head in heads)} are not all different")
        return heads


PRESETS: dict[str, dict[str, Any]] = {
    # The article's network. Repaired: its listing never connects its layers, so here each reads the one before it;
    # its LSTMs would have been given a four-dimensional map, which is flattened (or scanned by rows) here; and its
    # second and third LSTM need a sequence, so each hands on its output at every step and not only at the last.
    "reference": {
        "height": 32,
        "width": 32,
        "backbone": {
            "kind": "conv",
            "channels": (32, 64, 128),
            "strides": (1, 1, 1),
            "max_pool": True,
            "batch_norm": False,
        },
        "layers": 3,
        "hidden": 256,
    },
    "nano": {
        "height": 64,
        "width": 64,
        "backbone": {"kind": "conv", "channels": (16, 32, 64, 64), "strides": (2, 2, 2, 1), "where_channels": 8},
        "layers": 1,
        "hidden": 96,
    },
    "small": {
        "height": 112,
        "width": 112,
        "backbone": {
            "kind": "conv",
            "channels": (16, 32, 64, 128, 128),
            "strides": (2, 2, 2, 2, 1),
            "where_channels": 8,
        },
        "layers": 1,
        "hidden": 128,
    },
    "base": {
        "height": 224,
        "width": 224,
        "backbone": {
            "kind": "residual",
            "stem": 32,
            "stages": (
                {"expand": 1, "channels": 16, "repeats": 1, "stride": 1},
                {"expand": 6, "channels": 24, "repeats": 2, "stride": 2},
                {"expand": 6, "channels": 32, "repeats": 3, "stride": 2},
                {"expand": 6, "channels": 64, "repeats": 4, "stride": 2},
                {"expand": 6, "channels": 96, "repeats": 3, "stride": 1},
                {"expand": 6, "channels": 160, "repeats": 3, "stride": 2},
            ),
            "where_channels": 8,
        },
        "layers": 1,
        "hidden": 256,
    },
}


def preset_config(name: str, heads: tuple[HeadConfig, ...], *, layers: int | None = None) -> ModelConfig:
    """Return the configuration of a preset with these heads, and another number of LSTM layers if given.

    Raises ConfigError for an unknown preset or a layer count below 0.
    """
    if layers is not None and layers < 0:
        raise ConfigError(f"{layers} LSTM layers", expected="0 or more", fix="use 0 for the network without memory")
    other = {} if layers is None else {"layers": layers}
    return ModelConfig.model_validate({"preset": name, "heads": heads, **other})


def nearest(name: str, known: Iterable[str]) -> str:
    """Return what to tell a person who wrote `name` where one of `known` belongs."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else "choose one of these"


def _preset(name: str) -> dict[str, Any]:
    if name not in PRESETS:
        raise ConfigError(
            f"unknown preset {name!r}", expected=f"one of {', '.join(PRESETS)}", fix=nearest(name, PRESETS)
        )
    return PRESETS[name]


def _merged(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with what is `given` laid over it, table by table; a table of another kind replaces the old one."""
    merged = dict(base)
    for key, value in given.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            # The backbone is the one table in a preset, and it has a kind.
            merged[key] = _merged(old, value) if value.get("kind", old["kind"]) == old["kind"] else value
        else:
            merged[key] = value
    return merged
