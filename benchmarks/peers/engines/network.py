"""The trained network as the torch-based peers read it: a plain module with flat inputs and outputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, fx, nn

from benchmarks.bundle import reference_of
from benchmarks.engines.peer import calibration_feeds
from benchmarks.peers.engines.memory import normalise
from benchmarks.peers.peer import Material
from edge_cnnlstm.bundle.format import Bundle
from edge_cnnlstm.bundle.golden import Arrays
from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.spec import ModelSpec
from edge_cnnlstm.training.checkpoint import load_checkpoint
from edge_cnnlstm.training.fold import fold
from edge_cnnlstm.training.step import StepModule

Call = Callable[..., Sequence[Tensor]]


class Chained:
    """A function of torch tensors in the order of `StepModule`; the memory that it returns is what it is given next."""

    def __init__(self, call: Call, spec: ModelSpec) -> None:
        self._call, self._spec = call, spec
        inputs = [torch.from_numpy(tensor.zeros()) for tensor in spec.inputs]
        self._inputs, (self._frame, *self._dt) = inputs, [tensor.numpy() for tensor in inputs]
        self._answers: Sequence[Tensor] = ()
        self.reset()

    def reset(self) -> None:
        self._memory: Sequence[Tensor] = [torch.from_numpy(pair.zeros()) for pair in self._spec.states]

    def lay(self, pixels: Pixels, dt: float = 0.0) -> None:
        self._frame[0] = pixels
        for seconds in self._dt:
            seconds.fill(dt)

    def run(self) -> None:
        self._answers = answers = self._call(*self._inputs, *self._memory)
        self._memory = answers[len(self._spec.outputs) :]

    def outputs(self) -> Arrays:
        names = [output.name for output in self._spec.outputs] + [pair.output for pair in self._spec.states]
        return {name: answer.numpy() for name, answer in zip(names, self._answers, strict=True)}


def step_module(material: Material) -> nn.Module:
    """Return the step with its batch norms folded, frozen; raises ConfigError without a checkpoint."""
    if material.checkpoint is None:
        raise ConfigError(
            "no checkpoint", expected="the one that the bundle was exported from", fix="give it with --checkpoint"
        )
    return StepModule(fold(load_checkpoint(material.checkpoint))).eval().requires_grad_(requires_grad=False)


class Normalised(Chained):
    """The same for a step made by `convertible`: frames are normalised while they are laid, outside of the run."""

    def __init__(self, call: Call, spec: ModelSpec) -> None:
        super().__init__(call, spec)
        self._inputs[0] = torch.zeros(spec.frame.shape)
        self._frame = self._inputs[0].numpy()

    def lay(self, pixels: Pixels, dt: float = 0.0) -> None:
        super().lay(pixels, dt)
        normalise(self._frame)


def convertible(material: Material) -> nn.Module:
    """Return the step as converters for devices like it best.

    Frames come as normalised floats [batch, height, width, 3], since their kernels for uint8 are slow; and the maximum
    over an image is taken by a window of its size, since they know no adaptive pooling.
    """
    step = step_module(material)
    step.set_submodule("model.normalise", _ChannelsFirst())
    backbone = step.get_submodule("model.backbone")
    if isinstance(backbone, fx.GraphModule):
        for node in backbone.graph.nodes:
            if node.target is nn.functional.adaptive_max_pool2d and node.args[1] == 1:
                node.target, node.args, node.kwargs = _maximum, (node.args[0],), {}
        backbone.recompile()
    return step


class _ChannelsFirst(nn.Module):
    def forward(self, frame: Tensor) -> Tensor:
        return frame.permute(0, 3, 1, 2)


def _maximum(image: Tensor) -> Tensor:
    return nn.functional.max_pool2d(image, image.shape[-2:])


def example(spec: ModelSpec, frame: torch.dtype = torch.uint8) -> tuple[Tensor, ...]:
    """Return inputs of the right shapes, all zero."""
    told = [torch.zeros(tensor.shape) for tensor in spec.inputs[1:]]
    return (torch.zeros(spec.frame.shape, dtype=frame), *told, *(torch.zeros(pair.shape) for pair in spec.states))


@contextmanager
def quietly() -> Iterator[None]:
    """Silence a compiler's deprecation notices about itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def convertible_feeds(bundle: Bundle) -> list[tuple[Tensor, ...]]:
    """Return what a step made by `convertible` is given in the golden rollout, the memory being that of FP32."""
    spec, steps = bundle.manifest.model, []
    for feeds in calibration_feeds(bundle, reference_of(bundle)):
        frame = feeds[spec.frame.name].astype(np.float32)
        normalise(frame)
        told = [] if spec.dt is None else [feeds[spec.dt.name]]
        arrays = [frame, *told, *(feeds[pair.input] for pair in spec.states)]
        # Not as views: the exporters look at strides, even at those of a dimension of one.
        steps.append(tuple(torch.from_numpy(array.copy()) for array in arrays))
    return steps
