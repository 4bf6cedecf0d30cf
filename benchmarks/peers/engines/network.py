"""The trained network as the torch-based peers read it: a plain module with flat inputs and outputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from benchmarks.peers.peer import Material
from edge_cnnlstm.bundle.golden import Arrays
from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.spec import ModelSpec
from edge_cnnlstm.training.checkpoint import load_checkpoint
from export.graphs import StepModule
from export.trace import fold

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


def convertible(material: Material) -> nn.Module:
    """Return the step for converters that know no adaptive pooling: the same maximum, taken by a window of its size."""
    step = step_module(material)
    backbone = step.get_submodule("model.backbone")
    if isinstance(backbone, fx.GraphModule):
        for node in backbone.graph.nodes:
            if node.target is nn.functional.adaptive_max_pool2d and node.args[1] == 1:
                node.target, node.args, node.kwargs = _maximum, (node.args[0],), {}
        backbone.recompile()
    return step


def _maximum(image: Tensor) -> Tensor:
    return nn.functional.max_pool2d(image, image.shape[-2:])


def example(spec: ModelSpec) -> tuple[Tensor, ...]:
    """Return inputs of the right shapes, all zero."""
    return tuple(torch.from_numpy(tensor.zeros()) for tensor in (*spec.inputs, *spec.states))


@contextmanager
def quietly() -> Iterator[None]:
    """Silence a compiler's deprecation notices about itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def named(spec: ModelSpec, feeds: Any) -> tuple[Tensor, ...]:
    """Return one step's inputs, arrays by name, in the order of `StepModule`."""
    order = [tensor.name for tensor in spec.inputs] + [pair.input for pair in spec.states]
    return tuple(torch.from_numpy(feeds[name]) for name in order)
