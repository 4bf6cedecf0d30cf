"""Somebody else's `torch.nn.LSTM` becomes our memory: the same weights, laid out for our cells."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor

from edge_cnnlstm.errors import CheckpointError, ConfigError
from edge_cnnlstm.training.model import CnnLstm, LstmCell

PLAIN = re.compile(r"(?:weight|bias)_(?:ih|hh)_l(\d+)")
"""What the tensors of a plain nn.LSTM are called; the number is their layer."""
FIRST = "weight_ih_l0"


def adopt_lstm(model: CnnLstm, weights: Mapping[str, Tensor], prefix: str = "") -> None:
    """Give a network the memory of a trained `torch.nn.LSTM`: from equal features and state, equal outputs, h and c.

    `weights` is a state dict: the LSTM's own, `lstm.state_dict()`, or that of all the network around it, which holds
    the LSTM's tensors under `prefix`, such as "lstm.". They are copied, as float32. Both cells are one, with the gates
    in one order (`W_ii|W_if|W_ig|W_io`, torch.nn.LSTM's documentation); its two biases, if it has any, are added up.
    `batch_first` makes no difference to the weights. `dropout` between the layers has no weights and acts in training
    only: in evaluation mode the networks are equal, and further training goes without it.

    Raises ConfigError for an LSTM that is bidirectional, has projections or more than plain weights, or has not the
    network's layers and sizes, and CheckpointError for a tensor that is missing, not of floating point, NaN or
    infinite. The network is then as it was.
    """
    own = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    layers = [int(found[1]) for found in map(PLAIN.fullmatch, own) if found]
    if not layers:
        raise _not_here(weights, prefix)
    _refuse_special(own.keys(), prefix)
    cells = cast("list[LstmCell]", list(model.cells))
    if max(layers) + 1 != len(cells):
        raise ConfigError(
            f"an LSTM with num_layers = {max(layers) + 1}",
            expected=f"{len(cells)}, as model.layers says",
            fix=f"set model.layers to {max(layers) + 1}",
        )
    biased = any(name.startswith("bias") for name in own)
    # All is read before anything is written.
    adopted = [_gates(own, prefix, layer, cell, biased=biased) for layer, cell in enumerate(cells)]
    with torch.no_grad():
        for cell, (weight, bias) in zip(cells, adopted, strict=True):
            cell.gates.weight.copy_(weight)
            cell.gates.bias.copy_(bias)


def _gates(
    own: Mapping[str, Tensor], prefix: str, layer: int, cell: LstmCell, *, biased: bool
) -> tuple[Tensor, Tensor]:
    """Return the weight and bias of a cell's `gates`."""
    rows, hidden = len(cell.gates.bias), len(cell.gates.bias) // 4
    inputs = cell.gates.in_features - hidden

    def read(kind: str, *shape: int) -> Tensor:
        return _checked(own.get(f"{kind}_l{layer}"), f"{prefix}{kind}_l{layer}", shape)

    weight = torch.cat([read("weight_ih", rows, inputs), read("weight_hh", rows, hidden)], dim=1)
    return weight, read("bias_ih", rows) + read("bias_hh", rows) if biased else torch.zeros(rows)


def _checked(tensor: Tensor | None, name: str, shape: tuple[int, ...]) -> Tensor:
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        raise CheckpointError(
            f"tensor {name!r} is {'missing' if tensor is None else getattr(tensor, 'dtype', type(tensor).__name__)}",
            expected="every weight and bias of each layer, in floating point",
            fix="save the whole state dict of the LSTM, before it is quantized",
        )
    if tensor.shape != shape:
        raise ConfigError(
            f"tensor {name!r} has shape {tuple(tensor.shape)}",
            expected=f"{shape}: four gates of model.hidden rows each, which read the backbone's features or h",
            fix="set model.hidden to the LSTM's hidden size, and let frame size and backbone make its input size",
        )
    values = tensor.detach().float()
    if not torch.isfinite(values).all():
        raise CheckpointError(
            f"tensor {name!r} holds values that are NaN or infinite as float32",
            expected="finite weights",
            fix="take a checkpoint from before the training diverged",
        )
    return values


def _refuse_special(names: Iterable[str], prefix: str) -> None:
    """Refuse an LSTM that computes more than ours does, by the first tensor that a plain one does not have."""
    for name in names:
        if PLAIN.fullmatch(name):
            continue
        if name.endswith("_reverse"):
            kind, fix = "a bidirectional LSTM", "train one that runs forward only: a stream's future cannot be seen"
        elif name.startswith("weight_hr_l"):
            kind, fix = "an LSTM with projections", "train one with proj_size = 0 and a smaller hidden size"
        else:
            kind, fix = "more than a plain LSTM", "give the state dict, or the prefix, of an nn.LSTM alone"
        raise ConfigError(f"{kind}: tensor {prefix + name!r}", expected="the tensors of a plain nn.LSTM only", fix=fix)


def _not_here(weights: Iterable[str], prefix: str) -> ConfigError:
    elsewhere = [name.removesuffix(FIRST) for name in weights if name.endswith(FIRST)]
    return ConfigError(
        f"no weights of an LSTM under the prefix {prefix!r}",
        expected=f"{prefix}{FIRST} and the others of an nn.LSTM's state dict",
        fix=f"give the prefix {' or '.join(map(repr, elsewhere))}"
        if elsewhere
        else "give the state dict of an nn.LSTM",
    )
