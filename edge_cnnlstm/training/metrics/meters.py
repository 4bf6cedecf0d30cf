"""Scores over an epoch, counted by torchmetrics: over everything, and for each condition alone."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.training.config import HeadConfig, nearest
from edge_cnnlstm.training.metrics.heads import METERS, HeadMeter
from edge_cnnlstm.training.tasks import due

HIGHER_IS_BETTER = {
    "accuracy": True,
    "top3": True,
    "top5": True,
    "f1": True,
    "auroc": True,
    "calibration_error": False,
    "mae": False,
    "r2": True,
    "iou": True,
    "success_auc": True,
    "precision": True,
    "centre_error_px": False,
    "presence_accuracy": True,
    "presence_f1": True,
}
"""Every metric, by the name that follows the head's."""


def higher_is_better(metric: str) -> bool:
    """Whether "loss", or a score such as "digit.accuracy" or "target.iou.hidden", is better when it is higher.

    Raises ConfigError for a name that no head's score can have.
    """
    if metric == "loss":
        return False
    _, dot, name = metric.partition(".")
    kind = name.partition(".")[0] if dot else metric
    if dot and kind in HIGHER_IS_BETTER:
        return HIGHER_IS_BETTER[kind]
    raise ConfigError(
        f"unknown metric {metric!r}",
        expected=f"loss, or <head>.<score> with one of {', '.join(HIGHER_IS_BETTER)}",
        fix=nearest(kind, ["loss", *HIGHER_IS_BETTER]),
    )


class Meters(nn.Module):
    """The scores of every head, of a network whose frames are `height` × `width` pixels.

    Being torchmetrics inside, they follow the module to its device and add up over processes, all of which must
    name the same conditions.
    """

    def __init__(self, heads: tuple[HeadConfig, ...], height: int, width: int) -> None:
        super().__init__()
        self.heads = heads
        self.height, self.width = height, width
        self.conditions = [""]
        self.groups = nn.ModuleList([self._group()])

    def update(
        self,
        outputs: Mapping[str, Tensor],
        truth: Mapping[str, Tensor],
        conditions: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Count a batch of clips: outputs as `CnnLstm.sequence` gives them, truth as `tasks.Truth`.

        `conditions` are bool [clips, time]. What is not known is not counted, and of a per-clip head only the last
        known frame of each clip is. Raises ConfigError for a condition that has the name of a regress head's value.
        """
        asked = due(self.heads, truth)
        first = next(iter(truth.values()))
        everything = torch.ones(first.shape[:2], dtype=torch.bool, device=first.device)
        for condition, chosen in {"": everything, **(conditions or {})}.items():
            if condition not in self.conditions:
                self._add_condition(condition, first.device)
            for meter in self._meters(condition):
                meter.update(outputs, asked, chosen)

    def compute(self) -> dict[str, float]:
        """Return the scores by name, `<head>.<score>` and `<head>.<score>.<condition>`; see `HIGHER_IS_BETTER`.

        Several values have a score each, too: `<head>.mae.<value>`. What is not defined on the data, such as the
        area under the curve of a single class, is left out.
        """
        scores = {}
        with warnings.catch_warnings():
            # torchmetrics warns of what is not defined on the data, which is left out.
            warnings.simplefilter("ignore")
            for condition in self.conditions:
                for head, meter in zip(self.heads, self._meters(condition), strict=True):
                    for metric, value in meter.compute().items():
                        scores[".".join(filter(None, (head.name, metric, condition)))] = float(value)
        return {name: value for name, value in scores.items() if math.isfinite(value)}

    def reset(self) -> None:
        """Forget everything that was counted."""
        for module in self.modules():
            if isinstance(module, Metric):
                module.reset()

    def _add_condition(self, condition: str, device: torch.device) -> None:
        for head in self.heads:
            if head.task == "regress" and condition in head.labels:
                raise ConfigError(
                    f"{condition!r} is a condition of the clips and a value of the head {head.name!r}",
                    expected="scores whose names tell one from the other",
                    fix="rename one of them",
                )
        self.conditions.append(condition)
        self.groups.append(self._group().to(device))

    def _meters(self, condition: str) -> list[HeadMeter]:
        return list(cast("nn.ModuleList", self.groups[self.conditions.index(condition)]))  # type: ignore[arg-type]

    def _group(self) -> nn.ModuleList:
        return nn.ModuleList(METERS[head.task](head, self.height, self.width) for head in self.heads)
