"""The vocabulary that training, export, bundle and runtime share: what goes in, what is remembered, what comes out.

Plain frozen records, so that the runtime needs nothing but numpy to speak it. `bundle.manifest` reads and
writes them as JSON.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.errors import ConfigError

DType = Literal["uint8", "float32"]
FitMode = Literal["stretch", "crop", "letterbox"]
Task = Literal["classify", "regress", "track"]
BATCH = "batch"
"""The name of the dimension along which streams lie, in every graph: a runtime fixes it before it builds."""


def _check_tensor(name: str, shape: tuple[int, ...]) -> None:
    if not name or not shape or min(shape) < 1:
        raise ConfigError(
            f"tensor {name!r} has shape {shape}",
            expected="a name, and fixed dimensions of at least 1",
            fix="export the graph with static shapes",
        )


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor that crosses a graph's border: name, fixed shape with the batch first, and dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: DType

    def __post_init__(self) -> None:
        _check_tensor(self.name, self.shape)

    def zeros(self) -> NDArray[np.generic]:
        """Return a new zeroed array of this shape and dtype; it is the caller's."""
        return np.zeros(self.shape, self.dtype)


@dataclass(frozen=True, slots=True)
class StatePair:
    """One piece of memory: the graph reads it as `input` and writes the next value as `output`.

    Pairs are listed, never matched by order or by name pattern. Shape [layers, batch, hidden].
    """

    input: str
    output: str
    shape: tuple[int, ...]
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        _check_tensor(self.input, self.shape)
        _check_tensor(self.output, self.shape)

    def zeros(self) -> NDArray[np.generic]:
        """Return a new zeroed array of this shape and dtype; it is the caller's."""
        return np.zeros(self.shape, self.dtype)


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """One question that the network answers at every frame.

    `classify` reads one output of logits, [batch, labels], or [batch, 1] for two labels: the logit of the second.
    `regress` reads one output of values [batch, labels]; the labels name them. `track` reads a box [batch, 4], as
    centre x, centre y, width, height in 0..1 of the frame, and a presence logit [batch, 1].
    """

    name: str
    task: Task
    outputs: tuple[str, ...]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StateRules:
    """When the memory no longer belongs to the frame at hand, and is emptied before it.

    `gap_ms`: the last frame was captured longer ago than this. `idle_ms`: no frame came for longer than this, whenever
    it was captured. None switches either off. `source_change`: the frame comes from another source than the last.
    `seek`: it is the last frame or an earlier one. `not_finite`: the memory or the answer holds NaN or infinity, which
    would poison every answer after it.
    """

    gap_ms: float | None = 1000.0
    idle_ms: float | None = None
    source_change: bool = True
    seek: bool = True
    not_finite: bool = True

    def __post_init__(self) -> None:
        for name, limit in (("gap_ms", self.gap_ms), ("idle_ms", self.idle_ms)):
            if limit is not None and not 0 < limit < math.inf:
                raise ConfigError(f"{name} {limit}", expected="a finite time above 0, or None", fix="change the rule")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Everything a runtime must know about a step graph to feed it, carry its memory and read its answers.

    `frame` is the raw RGB frame, uint8 [batch, height, width, 3]; `fit` is how a camera frame of another
    size was brought to that size in training. `dt`, float32 [batch, 1], is there when the network asks for the time
    since its last frame, in seconds; it is 0 for the first frame after a reset. `rules` say when memory is emptied.
    Raises ConfigError when the parts contradict each other.
    """

    frame: TensorSpec
    fit: FitMode
    states: tuple[StatePair, ...]
    outputs: tuple[TensorSpec, ...]
    heads: tuple[HeadSpec, ...]
    dt: TensorSpec | None = None
    rules: StateRules = StateRules()

    def __post_init__(self) -> None:
        names = [
            self.frame.name,
            *([self.dt.name] if self.dt else []),
            *(name for pair in self.states for name in (pair.input, pair.output)),
        ]
        names += [output.name for output in self.outputs]
        if len(set(names)) != len(names):
            raise ConfigError(
                f"graph tensors {names}", expected="every name once", fix="rename the repeated tensor and export again"
            )
        if self.frame.dtype != "uint8" or len(self.frame.shape) != 4 or self.frame.shape[3] != 3:
            raise ConfigError(
                f"frame input is {self.frame.dtype} {self.frame.shape}",
                expected="uint8 [batch, height, width, 3]",
                fix="keep the preprocessing inside the graph",
            )
        batch = self.frame.shape[0]
        if self.dt is not None and (self.dt.dtype, self.dt.shape) != ("float32", (batch, 1)):
            raise ConfigError(
                f"dt input is {self.dt.dtype} {self.dt.shape}",
                expected=f"float32 [{batch}, 1]",
                fix="give the graph one number of seconds per stream",
            )
        if not self.outputs:
            raise ConfigError("a model without outputs", expected="one or more", fix="give the network a head")
        heads = [head.name for head in self.heads]
        if len(set(heads)) != len(heads):
            raise ConfigError(f"heads {heads}", expected="every name once", fix="rename the repeated head")
        for head in self.heads:
            self._check_head(head)

    @property
    def batch(self) -> int:
        """Streams that one step advances."""
        return self.frame.shape[0]

    @property
    def height(self) -> int:
        """Frame height in pixels."""
        return self.frame.shape[1]

    @property
    def width(self) -> int:
        """Frame width in pixels."""
        return self.frame.shape[2]

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What a caller writes at every step: the frame, and dt where the network asks for it."""
        return (self.frame, self.dt) if self.dt else (self.frame,)

    def batched(self, streams: int) -> ModelSpec:
        """Return what the same graph looks like to so many streams at once."""
        return replace(
            self,
            frame=replace(self.frame, shape=(streams, *self.frame.shape[1:])),
            states=tuple(replace(pair, shape=(pair.shape[0], streams, *pair.shape[2:])) for pair in self.states),
            outputs=tuple(replace(output, shape=(streams, *output.shape[1:])) for output in self.outputs),
            dt=self.dt and replace(self.dt, shape=(streams, 1)),
        )

    def output(self, name: str) -> TensorSpec:
        """Return the output called `name`; raises ConfigError when there is none."""
        for output in self.outputs:
            if output.name == name:
                return output
        raise ConfigError(
            f"no output {name!r} among {[output.name for output in self.outputs]}",
            expected="heads that read outputs of the graph",
            fix="export the bundle again",
        )

    def _check_head(self, head: HeadSpec) -> None:
        read = [self.output(name) for name in head.outputs]
        for output in read:
            if output.dtype != "float32" or len(output.shape) != 2 or output.shape[0] != self.frame.shape[0]:
                raise ConfigError(
                    f"head {head.name!r} reads {output.name!r}, {output.dtype} {output.shape}",
                    expected=f"float32 [{self.frame.shape[0]}, width]",
                    fix="give the head a flat row of numbers per stream",
                )
        widths = tuple(output.shape[1] for output in read)
        possible = _widths(head)
        if widths not in possible:
            raise ConfigError(
                f"head {head.name!r} ({head.task}, {len(head.labels)} labels) reads outputs of width {widths}",
                expected=f"widths {' or '.join(map(str, possible))}",
                fix="give the head one label per score, in the order it was trained with",
            )


def _widths(head: HeadSpec) -> tuple[tuple[int, ...], ...]:
    if head.task == "track":
        return ((4, 1),)
    one_each = (len(head.labels),)
    return (one_each, (1,)) if head.task == "classify" and len(head.labels) == 2 else (one_each,)
