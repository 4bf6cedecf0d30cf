"""What each head is trained to do: its loss, from the network's outputs and the truth.

What is not known, −1 among labels and NaN among numbers, costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, distributed
from torch.nn import functional

from edge_cnnlstm.training.config import HeadConfig
from edge_cnnlstm.training.data.clip import UNKNOWN
from edge_cnnlstm.training.model import Outputs

BOX_WEIGHT = 10.0
BOX_BETA = 0.05
OVERLAP_WEIGHT = 1.0
PRESENCE_WEIGHT = 0.3

Truth = Mapping[str, Tensor]
"""The truth about a batch of clips: as in `data.clip.Clip`, with [clips, time] in front of each shape."""


def losses(
    heads: tuple[HeadConfig, ...],
    outputs: Outputs,
    truth: Truth,
    *,
    whole: Truth | None = None,
    label_smoothing: float = 0.0,
) -> dict[str, Tensor]:
    """Return each head's loss over every frame whose truth is known, hidden ones too: there memory is learnt.

    Means are over what is known in `whole`, so that the losses of a clip's windows add up to the clip's loss.
    """
    whole = truth if whole is None else whole
    found = {}
    for head in heads:
        if head.task == "classify":
            found[head.name] = _classify_loss(head, outputs, truth, whole, label_smoothing)
        elif head.task == "regress":
            found[head.name] = _regress_loss(head, outputs, truth, whole)
        else:
            found[head.name] = _track_loss(head, outputs, truth, whole)
    return found


def truth_names(head: HeadConfig) -> tuple[str, ...]:
    """Return the names under which a clip tells the truth about this head."""
    return (f"{head.name}_box", f"{head.name}_visible") if head.task == "track" else (head.name,)


def due(heads: tuple[HeadConfig, ...], truth: Truth) -> Truth:
    """Return the truth with a per-clip head's kept at the last known frame of each clip alone."""
    asked = dict(truth)
    for head in heads:
        if head.per == "clip":
            for name in truth_names(head):
                asked[name] = _at_the_end(truth[name])
    return asked


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Return the generalized intersection over union, −1..1, of boxes [..., 4] as centre x, centre y, width, height.

    Rezatofighi et al. 2019, arXiv 1902.09630.
    """
    a_low, a_high = a[..., :2] - a[..., 2:] / 2, a[..., :2] + a[..., 2:] / 2
    b_low, b_high = b[..., :2] - b[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2
    shared = (torch.minimum(a_high, b_high) - torch.maximum(a_low, b_low)).clamp(min=0).prod(-1)
    union = a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - shared
    hull = (torch.maximum(a_high, b_high) - torch.minimum(a_low, b_low)).prod(-1)
    tiny = torch.finfo(a.dtype).tiny
    return shared / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)


def _classify_loss(head: HeadConfig, outputs: Outputs, truth: Truth, whole: Truth, label_smoothing: float) -> Tensor:
    logits, labels = outputs[f"{head.name}_logits"].float(), truth[head.name]
    if logits.shape[-1] == 1:
        target = labels.float() * (1 - label_smoothing) + label_smoothing / 2
        costs = functional.binary_cross_entropy_with_logits(logits.squeeze(-1), target, reduction="none")
    else:
        flat = functional.cross_entropy(
            logits.flatten(0, 1),
            labels.flatten(),
            ignore_index=UNKNOWN,
            label_smoothing=label_smoothing,
            reduction="none",
        )
        costs = flat.reshape(labels.shape)
    return _mean(costs, labels != UNKNOWN, whole[head.name] != UNKNOWN)


def _regress_loss(head: HeadConfig, outputs: Outputs, truth: Truth, whole: Truth) -> Tensor:
    values = truth[head.name]
    difference = (outputs[f"{head.name}_values"].float() - values.nan_to_num()) / values.new_tensor(head.spread)
    costs = functional.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none")
    return _mean(costs, ~values.isnan(), ~whole[head.name].isnan())


def _track_loss(head: HeadConfig, outputs: Outputs, truth: Truth, whole: Truth) -> Tensor:
    box, true_box = outputs[f"{head.name}_box"].float(), truth[f"{head.name}_box"]
    presence, visible = outputs[f"{head.name}_presence"].float().squeeze(-1), truth[f"{head.name}_visible"]
    boxed, all_boxed = (~boxes.isnan().any(-1) for boxes in (true_box, whole[f"{head.name}_box"]))
    seen, all_seen = (~sight.isnan() for sight in (visible, whole[f"{head.name}_visible"]))
    true_box = torch.where(boxed[..., None], true_box, 0.5)
    distance = functional.smooth_l1_loss(box, true_box, beta=BOX_BETA, reduction="none").mean(-1)
    in_sight = functional.binary_cross_entropy_with_logits(presence, visible.nan_to_num(), reduction="none")
    return (
        BOX_WEIGHT * _mean(distance, boxed, all_boxed)
        + OVERLAP_WEIGHT * _mean(1 - giou(box, true_box), boxed, all_boxed)
        + PRESENCE_WEIGHT * _mean(in_sight, seen, all_seen)
    )


def _mean(costs: Tensor, known: Tensor, whole: Tensor) -> Tensor:
    """Return the sum of the known costs over the number of `whole`; 0, with a gradient of 0, when nothing is known.

    Of several processes each returns its share times their number, so that their mean is the mean over all clips.
    """
    count = whole.sum().float()
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(count)
        count = count / distributed.get_world_size()
    return torch.where(known, costs, 0).sum() / count.clamp(min=torch.finfo(count.dtype).tiny)


def _at_the_end(values: Tensor) -> Tensor:
    unknown = values == UNKNOWN if not values.is_floating_point() else values.isnan()
    known = ~unknown if values.ndim == 2 else ~unknown.flatten(2).any(-1)
    time = torch.arange(values.shape[1], device=values.device)
    last = torch.where(known, time, -1).amax(dim=1, keepdim=True)
    missing = UNKNOWN if not values.is_floating_point() else torch.nan
    keep = (time == last).reshape(known.shape + (1,) * (values.ndim - 2))
    return torch.where(keep, values, torch.tensor(missing, dtype=values.dtype, device=values.device))
