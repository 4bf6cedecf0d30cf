"""From a normalised frame to features: plain convolutions, inverted residuals, or the user's own module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.training.config import Activation, BackboneConfig, ConvConfig, ModuleConfig, ResidualConfig
from edge_cnnlstm.training.imported import called, imported

ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "tanh": nn.Tanh,
}


class Backbone(nn.Module):
    """Convolutional stages, and a readout that turns the last feature map into a row of numbers, or into many.

    float32 [batch, 3, height, width] → [batch, features]. The readout is either the flattened map, or
    *what and where*: the map's maximum over space (what is there, wherever it is) beside a narrow flattened
    map (where it is). The second learns position-free classes from far fewer samples. With `by_rows` it is the map
    row by row: [batch, rows, features], each row its channels × columns.
    """

    def __init__(self, config: BackboneConfig, height: int, width: int, *, by_rows: bool = False) -> None:
        super().__init__()
        self.by_rows = by_rows
        self.stages = _stages(config)
        shape = _map_shape(self.stages, config, height, width)
        self.where: nn.Module | None = None
        if by_rows:
            self.features = shape[0] * shape[2]
        elif config.where_channels:
            self.where = nn.Sequential(nn.Conv2d(shape[0], config.where_channels, 1), ACTIVATIONS[config.activation]())
            self.features = shape[0] + config.where_channels * shape[1] * shape[2]
        else:
            self.features = shape.numel()

    def forward(self, image: Tensor) -> Tensor:
        feature_map: Tensor = self.stages(image)
        if self.by_rows:
            return feature_map.permute(0, 2, 1, 3).flatten(2)
        if self.where is None:
            return feature_map.flatten(1)
        what = nn.functional.adaptive_max_pool2d(feature_map, 1)
        where = self.where(feature_map)
        return torch.cat([what.flatten(1), where.flatten(1)], dim=1)


class InvertedResidual(nn.Module):
    """Widen by a 1×1 convolution, filter each channel on its own, narrow by another; with a way around.

    Sandler et al. 2018, arXiv 1801.04381. The way around exists where input and output have one shape.
    """

    def __init__(self, inputs: int, outputs: int, expand: int, stride: int, activation: Activation) -> None:
        super().__init__()
        inner = inputs * expand
        widen = _convolution(inputs, inner, 1, 1, activation) if expand > 1 else []
        self.narrowed = nn.Sequential(
            *widen,
            *_convolution(inner, inner, 3, stride, activation, groups=inner),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.around = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        narrowed: Tensor = self.narrowed(x)
        return x + narrowed if self.around else narrowed


def _stages(config: BackboneConfig) -> nn.Sequential:
    if isinstance(config, ConvConfig):
        return _plain(config)
    if isinstance(config, ResidualConfig):
        return _residual(config)
    return nn.Sequential(_users(config))


def _plain(config: ConvConfig) -> nn.Sequential:
    stages: list[nn.Module] = []
    channels = 3
    for width, stride in zip(config.channels, config.strides, strict=True):
        stages += _convolution(channels, width, 3, stride, config.activation, batch_norm=config.batch_norm)
        if config.max_pool:
            stages.append(nn.MaxPool2d(2))
        channels = width
    return nn.Sequential(*stages)


def _residual(config: ResidualConfig) -> nn.Sequential:
    stages = _convolution(3, config.stem, 3, 2, config.activation)
    channels = config.stem
    for stage in config.stages:
        for repeat in range(stage.repeats):
            stride = stage.stride if repeat == 0 else 1
            stages.append(InvertedResidual(channels, stage.channels, stage.expand, stride, config.activation))
            channels = stage.channels
    return nn.Sequential(*stages)


def _convolution(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int,
    activation: Activation,
    *,
    groups: int = 1,
    batch_norm: bool = True,
) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=not batch_norm)
    return [convolution, *([nn.BatchNorm2d(outputs)] if batch_norm else []), ACTIVATIONS[activation]()]


def _users(config: ModuleConfig) -> nn.Module:
    """Build the user's module; only an `nn.Module` class is ever called."""
    expected = "`package.module:Class`, an nn.Module that can be imported and built with these options"
    found = imported(config.module, expected)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ConfigError(f"backbone {config.module!r} is {found!r}", expected=expected, fix="name an nn.Module class")
    module: nn.Module = called(config.module, found, config.options, expected)
    return module


def _map_shape(stages: nn.Sequential, config: BackboneConfig, height: int, width: int) -> torch.Size:
    """Return [channels, rows, columns] of the last feature map; a vector is a map of one cell."""
    modes = {module: module.training for module in stages.modules()}
    stages.eval()
    try:
        with torch.no_grad():
            found = stages(torch.zeros(1, 3, height, width))
    except Exception as error:  # whatever a user's module raises
        raise ConfigError(
            f"the {config.kind} backbone fails on a frame of {height}×{width}: {error}",
            expected="a feature map of one cell or more",
            fix="use larger frames, or fewer strides and poolings",
        ) from error
    for module, training in modes.items():
        module.training = training
    if not isinstance(found, Tensor) or found.ndim not in {2, 4} or found.shape[0] != 1 or not found.numel():
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ConfigError(
            f"the {config.kind} backbone makes {shape} of one frame",
            expected="a tensor [1, channels, rows, columns] or [1, features]",
            fix="let the module return its last feature map",
        )
    if found.ndim == 2:
        if config.where_channels:
            raise ConfigError(
                "a backbone that returns a vector",
                expected="a feature map to read where from",
                fix="where_channels = 0",
            )
        stages.append(nn.Unflatten(1, (found.shape[1], 1, 1)))
        return torch.Size((found.shape[1], 1, 1))
    return found.shape[1:]
