"""Where numbers stop being finite."""

from __future__ import annotations

import torch
from torch import Tensor

from edge_cnnlstm.training.model import CnnLstm, State


def first_unsound_layer(model: CnnLstm, frames: Tensor, state: State, dt: Tensor | None = None) -> str:
    """Return the name of the first layer whose output is not finite on these frames; "the loss" when all are."""
    found: list[str] = []

    def watch(name: str, layer: torch.nn.Module) -> torch.utils.hooks.RemovableHandle:
        def look(_module: object, _inputs: object, output: object) -> None:
            tensors = output if isinstance(output, tuple) else (output,)
            if not all(torch.isfinite(tensor).all() for tensor in tensors if isinstance(tensor, Tensor)):
                found.append(name)

        return layer.register_forward_hook(look)

    hooks = [watch(name, layer) for name, layer in model.named_modules() if not list(layer.children())]
    with torch.no_grad():
        model.sequence(frames, state, dt)
    for hook in hooks:
        hook.remove()
    return found[0] if found else "the loss"
