"""The networks compared: one backbone, one width, seven kinds of memory.

Each is a `CnnLstm`, so that `fit` trains it unchanged, and each is a stream: one frame and a state of fixed size in,
an answer and the next state out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_cnnlstm.training.config import HeadConfig, ModelConfig, NetworkConfig
from edge_cnnlstm.training.model import CnnLstm, LstmCell, Outputs, State

# ruff: noqa: ARG002 - these networks are not told the time since their last frame


class CnnMean(CnnLstm):
    """The CNN without LSTM, reading the mean of the features of all frames so far.

    The state is the mean, `h` [1, batch, features], and how many frames it is of, `c` [1, batch, 1].
    """

    def initial_state(self, batch: int = 1) -> State:
        device = next(self.parameters()).device
        return State(
            torch.zeros(1, batch, self.backbone.features, device=device), torch.zeros(1, batch, 1, device=device)
        )

    def advance(self, features: Tensor, state: State, dt: Tensor | None = None) -> tuple[Tensor, State]:
        count = state.c + 1
        mean = state.h + (features - state.h) / count
        return self.dense(mean[0]), State(mean, count)


class CnnGru(CnnLstm):
    """One GRU layer (Cho et al. 2014, arXiv 1406.1078) where the LSTM was; the state is `h` [1, batch, hidden].

    It begins as our LSTM does: orthogonal recurrent weights, and a gate that remembers.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        hidden = config.hidden
        self.dense = nn.Identity()
        self.cell = nn.GRUCell(self.backbone.features, hidden)
        with torch.no_grad():
            nn.init.orthogonal_(self.cell.weight_hh)
            self.cell.bias_ih.zero_()
            self.cell.bias_hh.zero_()[hidden : 2 * hidden] = 1.0

    def initial_state(self, batch: int = 1) -> State:
        h = torch.zeros(1, batch, self.config.hidden, device=next(self.parameters()).device)
        return State(h, torch.zeros_like(h[:0]))

    def advance(self, features: Tensor, state: State, dt: Tensor | None = None) -> tuple[Tensor, State]:
        h: Tensor = self.cell(features, state.h[0])
        return h, State(h[None], state.c)


class CnnTcn(CnnLstm):
    """A causal convolution over time (Bai et al. 2018, arXiv 1803.01271) where the LSTM was.

    Five residual blocks of one dilated convolution each, which together see 63 frames; around the first, which reads
    the features, leads a dense layer. The state is what the blocks have still to look back at, so that a step
    computes one output only: `c` [2, batch, features] for the first and `h` [60, batch, hidden] for the others.
    """

    KERNEL = 3
    DILATIONS = (2, 4, 8, 16)

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        hidden = config.hidden
        self.first = nn.Conv1d(self.backbone.features, hidden, self.KERNEL)
        self.blocks = nn.ModuleList(nn.Conv1d(hidden, hidden, self.KERNEL, dilation=each) for each in self.DILATIONS)
        for layer in (*self.dense.modules(), self.first, *self.blocks):
            if isinstance(layer, nn.Linear | nn.Conv1d):
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")

    def initial_state(self, batch: int = 1) -> State:
        device, back = next(self.parameters()).device, self.KERNEL - 1
        return State(
            torch.zeros(back * sum(self.DILATIONS), batch, self.config.hidden, device=device),
            torch.zeros(back, batch, self.backbone.features, device=device),
        )

    def roll(self, features: Tensor, state: State, dt: Tensor | None = None) -> tuple[Outputs, State]:
        x, state = self._convolve(features, state)
        outputs = self.read(x.flatten(0, 1))
        return {name: value.reshape(*features.shape[:2], -1) for name, value in outputs.items()}, state

    def advance(self, features: Tensor, state: State, dt: Tensor | None = None) -> tuple[Tensor, State]:
        x, state = self._convolve(features[:, None], state)
        return x[:, 0], state

    def _convolve(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        """Advance over features [batch, time, features] → [batch, time, hidden] and the new state."""
        back = self.KERNEL - 1
        seen = torch.cat([state.c.permute(1, 2, 0), features.transpose(1, 2)], dim=2)
        after = seen[..., -back:].permute(2, 0, 1)
        x = self.dense(features).transpose(1, 2) + functional.relu(self.first(seen))
        pasts = torch.split(state.h.permute(1, 2, 0), [back * each for each in self.DILATIONS], dim=2)
        kept = []
        for block, past in zip(self.blocks, pasts, strict=True):
            seen = torch.cat([past, x], dim=2)
            kept.append(seen[..., -past.shape[2] :])
            x = x + functional.relu(block(seen))
        return x.transpose(1, 2), State(torch.cat(kept, dim=2).permute(2, 0, 1), after)


KINDS: dict[str, tuple[Callable[[ModelConfig], CnnLstm], int]] = {
    "CNN": (CnnLstm, 0),
    "CNN + mean": (CnnMean, 0),
    "CNN-LSTM, 1 layer": (CnnLstm, 1),
    "CNN-LSTM, 2 layers": (CnnLstm, 2),
    "CNN-LSTM, 3 layers": (CnnLstm, 3),
    "CNN-GRU": (CnnGru, 0),
    "CNN-TCN": (CnnTcn, 0),
}
"""Every network by name: its class, and its LSTM layers."""


def build(name: str, network: NetworkConfig, heads: tuple[HeadConfig, ...]) -> CnnLstm:
    """Return a new network with the memory of this name; its weights are drawn from torch's global generator."""
    kind, layers = KINDS[name]
    model = kind(ModelConfig.model_validate({**network.model_dump(), "layers": layers, "heads": heads}))
    for cell in model.cells:
        _begin_as_in_torch(cast("LstmCell", cell))
    return model


def _begin_as_in_torch(cell: LstmCell) -> None:
    """Draw an LSTM's input weights as `nn.LSTM` and `nn.GRUCell` do, so that all kinds of memory begin alike."""
    hidden = cell.gates.out_features // 4
    bound = hidden**-0.5
    with torch.no_grad():
        cell.gates.weight[:, : cell.gates.in_features - hidden].uniform_(-bound, bound)


def parameters(model: nn.Module) -> int:
    """Return how many numbers are learnt."""
    return sum(weights.numel() for weights in model.parameters())


@torch.inference_mode()
def macs_per_frame(model: CnnLstm) -> int:
    """Count the multiply-accumulates of one step in convolutions and matrix products; batch norm and gates add few."""
    from torch.utils.flop_counter import FlopCounterMode

    frame = torch.zeros(1, model.config.height, model.config.width, 3, dtype=torch.uint8)
    training = model.training
    with FlopCounterMode(display=False) as counter:
        model.eval().step(frame, model.initial_state())
    model.train(training)
    return cast("int", counter.get_total_flops()) // 2
