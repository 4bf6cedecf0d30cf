"""What each head is trained to do: its loss, from the network's outputs and the truth."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from edge_cnnlstm.training.config import HeadConfig
from edge_cnnlstm.training.model import Outputs

BOX_WEIGHT = 10.0
BOX_BETA = 0.05
PRESENCE_WEIGHT = 0.3
LABEL_SMOOTHING = 0.05


class Truth(NamedTuple):
    """What a batch of clips shows: `boxes` float32 [batch, time, 4], centre x, centre y, width, height in 0..1;
    `visible` bool [batch, time]; `labels` int64 [batch].
    """

    boxes: Tensor
    visible: Tensor
    labels: Tensor


def loss(heads: tuple[HeadConfig, ...], outputs: Outputs, truth: Truth) -> Tensor:
    """Return the sum of all heads' losses over every frame, hidden ones too: that is where memory is learnt."""
    return torch.stack([_LOSSES[head.task](head.name, outputs, truth) for head in heads]).sum()


def _classify_loss(name: str, outputs: Outputs, truth: Truth) -> Tensor:
    logits = outputs[f"{name}_logits"]
    labels = truth.labels[:, None].expand(logits.shape[:2])
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=LABEL_SMOOTHING)


def _track_loss(name: str, outputs: Outputs, truth: Truth) -> Tensor:
    box = functional.smooth_l1_loss(outputs[f"{name}_box"], truth.boxes, beta=BOX_BETA)
    presence = functional.binary_cross_entropy_with_logits(
        outputs[f"{name}_presence"].squeeze(-1), truth.visible.float()
    )
    return BOX_WEIGHT * box + PRESENCE_WEIGHT * presence


_LOSSES = {"classify": _classify_loss, "track": _track_loss}
