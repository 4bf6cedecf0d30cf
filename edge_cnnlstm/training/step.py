"""The step as exporters and other engines read it: a plain module of tensors."""

from __future__ import annotations

from torch import Tensor, nn

from edge_cnnlstm.training.model import CnnLstm, Outputs, State


class StepModule(nn.Module):
    """`CnnLstm.step` with flat inputs and outputs, in the order that `spec_of` names them."""

    def __init__(self, model: CnnLstm) -> None:
        super().__init__()
        self.model = model

    def forward(self, frame: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        told = int(self.model.config.dt_input)
        dt, memory = others[:told], others[told:]
        state = State(*memory) if memory else self.model.initial_state(frame.shape[0])
        outputs, after = self.advance(frame, state, *dt)
        return (*outputs.values(), *(after if memory else ()))

    def advance(self, frame: Tensor, state: State, *dt: Tensor) -> tuple[Outputs, State]:
        """Advance the network by what one run of the graph is given."""
        return self.model.step(frame, state, *dt)
