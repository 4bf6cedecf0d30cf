"""The network: convolutional features, stacked LSTM cells, one head per task; one definition of time.

`CnnLstm.step` takes one frame and the memory, and returns the heads' outputs and the new memory. The
sequence form is that step repeated, with the convolutions batched over all frames for training speed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from edge_cnnlstm.training.backbones import Backbone
from edge_cnnlstm.training.config import HeadConfig, ModelConfig

Outputs = dict[str, Tensor]
MOST_MISSED = 16.0
"""Missed frames beyond which more make no difference to a network that is told of them."""


class State(NamedTuple):
    """The memory between two frames: `h` and `c`, float32 [layers, batch, hidden]."""

    h: Tensor
    c: Tensor


class NormaliseFrame(nn.Module):
    """uint8 [batch, height, width, 3] → (x − 128) / 64 as float32 [batch, 3, height, width].

    A uint8 frame with scale 1/64 and zero point 128 *is* this tensor, so no quantizer is needed here.
    """

    def forward(self, frame: Tensor) -> Tensor:
        # Cast before transpose: TensorRT accepts uint8 into a cast and nowhere else. The float copy is ours,
        # so the arithmetic is in place: on a CPU, three large temporaries cost more than the first convolution.
        return frame.float().sub_(128).mul_(1 / 64).permute(0, 3, 1, 2)


class LstmCell(nn.Module):
    """One LSTM cell: a single linear map of [x, h] named `gates`, in the order input, forget, cell, output.

    x [batch, inputs], h and c [batch, hidden], None while empty → new h, new c. `shift`, [batch, 4 × hidden], is added
    to what the gates sum up. Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000, whose bias starts
    at 1 so that a fresh network remembers.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.gates = nn.Linear(inputs + hidden, 4 * hidden)
        with torch.no_grad():
            self.gates.bias.zero_()[hidden : 2 * hidden] = 1.0
            nn.init.orthogonal_(self.gates.weight[:, inputs:])

    def forward(
        self, x: Tensor, h: Tensor | None, c: Tensor | None, shift: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        seen = nn.functional.pad(x, (0, self.gates.out_features // 4)) if h is None else torch.cat([x, h], dim=1)
        gates = self.gates(seen)
        return lstm_update(gates if shift is None else gates + shift, c)


def lstm_update(gates: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
    """Turn gate sums [batch, 4 × hidden] and the cell state, None while it is empty, into the new h and c.

    h keeps the precision of the gates; c grows without bound and stays in FP32 where everything else is FP16.
    """
    input_gate, forget_gate, candidate, output_gate = gates.chunk(4, dim=1)
    added = (torch.sigmoid(input_gate) * torch.tanh(candidate)).float()
    c_next = added if c is None else torch.sigmoid(forget_gate).float() * c + added
    return torch.sigmoid(output_gate) * torch.tanh(c_next).to(gates.dtype), c_next


class MissedFrames(nn.Module):
    """Seconds since the last frame, [batch, 1] → what missed frames add to the gates' sums, [batch, 4 × hidden].

    As if the number of frames missed were one more input of the first cell; kept apart, it stays in floating point
    where that cell is quantized. It starts at zero: an untrained network makes no difference.
    """

    def __init__(self, frame_rate: float, hidden: int) -> None:
        super().__init__()
        self.frame_rate = frame_rate
        self.weight = nn.Parameter(torch.zeros(1, 4 * hidden))

    def forward(self, dt: Tensor) -> Tensor:
        return torch.clamp(dt * self.frame_rate - 1, 0, MOST_MISSED) @ self.weight


class Head(nn.Linear):
    """A linear map from the memory, or from the features where there is none, to one task's outputs."""

    def __init__(self, name: str, features: int, width: int) -> None:
        super().__init__(features, width)
        self.name = name

    def outputs(self, features: Tensor) -> Outputs:
        """Return the head's outputs by their names in the graph."""
        raise NotImplementedError


class ClassifyHead(Head):
    """Class scores before the softmax: `<name>_logits` [batch, classes].

    Two classes are one number, [batch, 1], before the sigmoid: how much the second label is the likelier.
    """

    def __init__(self, config: HeadConfig, features: int) -> None:
        super().__init__(config.name, features, len(config.labels) if len(config.labels) > 2 else 1)

    def outputs(self, features: Tensor) -> Outputs:
        return {f"{self.name}_logits": self(features)}


class RegressHead(Head):
    """Real values in their own units: `<name>_values` [batch, values]."""

    centre: Tensor
    spread: Tensor

    def __init__(self, config: HeadConfig, features: int) -> None:
        super().__init__(config.name, features, len(config.labels))
        self.register_buffer("centre", torch.tensor(config.centre), persistent=False)
        self.register_buffer("spread", torch.tensor(config.spread), persistent=False)

    def outputs(self, features: Tensor) -> Outputs:
        return {f"{self.name}_values": self(features) * self.spread + self.centre}


class TrackHead(Head):
    """One target: `<name>_box` [batch, 4], centre x, centre y, width, height in 0..1 of the frame, and
    `<name>_presence` [batch, 1], the logit of the target being in sight.
    """

    def __init__(self, config: HeadConfig, features: int) -> None:
        super().__init__(config.name, features, 5)

    def outputs(self, features: Tensor) -> Outputs:
        values = self(features)
        return {f"{self.name}_box": torch.sigmoid(values[:, :4]), f"{self.name}_presence": values[:, 4:]}


HEADS: dict[str, type[ClassifyHead | RegressHead | TrackHead]] = {
    "classify": ClassifyHead,
    "regress": RegressHead,
    "track": TrackHead,
}


class CnnLstm(nn.Module):
    """CNN features → stacked LSTM layers → heads.

    With `layers = 0` a dense layer of the same width stands where the LSTM was: the network without memory.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.normalise: nn.Module = NormaliseFrame()
        self.backbone = Backbone(config.backbone, config.height, config.width, by_rows=config.scan == "rows")
        features, hidden = self.backbone.features, config.hidden
        self.cells = nn.ModuleList(LstmCell(features if i == 0 else hidden, hidden) for i in range(config.layers))
        self.missed = MissedFrames(config.frame_rate, hidden) if config.dt_input else None
        self.dense = nn.Sequential(nn.Linear(features, hidden), nn.ReLU()) if config.layers == 0 else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.heads = nn.ModuleList(HEADS[head.task](head, hidden) for head in config.heads)

    def initial_state(self, batch: int = 1) -> State:
        """Return the empty memory: zeros, on the device that the network is on."""
        shape, device = (self.config.layers, batch, self.config.hidden), next(self.parameters()).device
        return State(torch.zeros(shape, device=device), torch.zeros(shape, device=device))

    def step(self, frame: Tensor, state: State, dt: Tensor | None = None) -> tuple[Outputs, State]:
        """Advance by one frame: uint8 [batch, height, width, 3] and state → outputs [batch, …] and new state.

        `dt`, float32 [batch, 1], is the time since the last frame in seconds, 0 for the first; None says that no frame
        was missed, and only a network with `dt_input` asks. With `scan = "rows"` each frame is a picture of its own:
        its rows are remembered from an empty memory, and `state` comes back as it was.
        """
        return self.remember(self.see(frame), state, dt)

    def sequence(self, frames: Tensor, state: State, dt: Tensor | None = None) -> tuple[Outputs, State]:
        """Advance by many: uint8 [batch, time, height, width, 3] → outputs [batch, time, …] and final state.

        Equal to `step` repeated, `dt` being [batch, time, 1]: the convolutions do not look across frames, so they run
        as one batch.
        """
        return self.roll(self.features(frames), state, dt)

    def see(self, frames: Tensor) -> Tensor:
        """Return what the convolutions see: uint8 [n, height, width, 3] → [n, features], or [n, rows, features]."""
        seen: Tensor = self.backbone(self.normalise(frames))
        return seen

    def features(self, frames: Tensor) -> Tensor:
        """Return what the convolutions see in each frame of each clip: [batch, time, features], or with rows."""
        seen = self.see(frames.flatten(0, 1))
        return seen.reshape(*frames.shape[:2], *seen.shape[1:])

    def roll(self, features: Tensor, state: State, dt: Tensor | None = None) -> tuple[Outputs, State]:
        """Advance the memory over the features of many frames → outputs [batch, time, …] and final state."""
        shown = []
        for at, moment in enumerate(features.unbind(1)):
            x, state = self.advance(moment, state, None if dt is None else dt[:, at])
            shown.append(x)
        outputs = self.read(torch.stack(shown, dim=1).flatten(0, 1))
        return {name: value.reshape(*features.shape[:2], -1) for name, value in outputs.items()}, state

    def remember(self, features: Tensor, state: State, dt: Tensor | None = None) -> tuple[Outputs, State]:
        """Advance the memory by one frame's features and read the heads."""
        x, state = self.advance(features, state, dt)
        return self.read(x), state

    def advance(self, features: Tensor, state: State, dt: Tensor | None = None) -> tuple[Tensor, State]:
        """Advance the memory by one frame's features; return what its last layer shows, [batch, hidden], and it."""
        if not self.cells:
            return self.dense(features), state
        if self.config.scan == "frames":
            return self._remember(features, state, None if dt is None or self.missed is None else self.missed(dt))
        within = None  # not zeros, which would fix the number of streams in a traced graph
        for row in features.unbind(1):
            x, within = self._remember(row, within)
        return x, state

    def read(self, x: Tensor) -> Outputs:
        """Read every head from what the memory shows, [batch, hidden]."""
        x = self.dropout(x)
        heads = cast("list[Head]", self.heads)
        return {name: value for head in heads for name, value in head.outputs(x).items()}

    def _remember(self, x: Tensor, state: State | None, shift: Tensor | None = None) -> tuple[Tensor, State]:
        memory: Iterable[tuple[Tensor | None, Tensor | None]] = [(None, None)] * len(self.cells)
        if state is not None:
            memory = zip(state.h.unbind(0), state.c.unbind(0), strict=True)
        h_next, c_next = [], []
        for cell, (h, c) in zip(self.cells, memory, strict=True):
            x, after = cell(x, h, c, shift)
            shift = None  # the first layer sees the frames, and tells the others
            h_next.append(x)
            c_next.append(after)
        return x, State(torch.stack(h_next), torch.stack(c_next))
