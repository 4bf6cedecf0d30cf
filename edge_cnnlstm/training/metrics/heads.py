"""What is counted for each task: one meter per head, made of torchmetrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, MeanMetric, Metric, R2Score
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryF1Score,
    BinaryStatScores,
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
)

from edge_cnnlstm.training.config import HeadConfig
from edge_cnnlstm.training.data.clip import UNKNOWN
from edge_cnnlstm.training.metrics.boxes import OVERLAP_THRESHOLDS, centre_error, iou, precision_pixels

CALIBRATION_BINS = 15
"""As many as Guo et al. 2017, On Calibration of Modern Neural Networks."""

Values = Mapping[str, Tensor]


def probabilities(logits: Tensor) -> Tensor:
    """Return each label's probability, [..., labels], from a `classify` head's logits, [..., labels] or [..., 1]."""
    logits = logits.float()
    if logits.shape[-1] == 1:
        return torch.cat([torch.sigmoid(-logits), torch.sigmoid(logits)], dim=-1)
    return logits.softmax(-1)


class HeadMeter(nn.Module):
    """The scores of one head. Those that are not defined on what was counted are missing or NaN."""

    def __init__(self, head: HeadConfig, metrics: Mapping[str, Metric]) -> None:
        super().__init__()
        self.head = head
        self.metrics = nn.ModuleDict(metrics)

    def update(self, outputs: Values, truth: Values, chosen: Tensor) -> None:
        """Count the frames that are `chosen`, bool [clips, time], and whose truth is known."""
        raise NotImplementedError

    def compute(self) -> dict[str, Tensor]:
        """Return the scores by name."""
        raise NotImplementedError

    def _add(self, metric: str, *values: Tensor) -> None:
        cast("Metric", self.metrics[metric]).update(*values)

    def _value(self, metric: str) -> Tensor:
        return cast("Tensor", cast("Metric", self.metrics[metric]).compute())


class ClassifyMeter(HeadMeter):
    """Accuracy, top-3 or top-5 accuracy where there are many labels, macro F1 and AUROC, expected calibration error."""

    def __init__(self, head: HeadConfig, *_: int) -> None:
        labels = len(head.labels)
        # torchmetrics skips what is not known by itself: it refuses a batch in which nothing is.
        how: dict[str, Any] = {"ignore_index": UNKNOWN, "validate_args": False}
        metrics: dict[str, Metric] = {"accuracy": MulticlassAccuracy(labels, average="micro", **how)}
        if labels > 5:
            top = 5 if labels > 10 else 3
            metrics[f"top{top}"] = MulticlassAccuracy(labels, top_k=top, average="micro", **how)
        metrics["f1"] = MulticlassF1Score(labels, average="macro", **how)
        metrics["calibration_error"] = MulticlassCalibrationError(labels, CALIBRATION_BINS, **how)
        super().__init__(head, metrics)
        self.auroc = MulticlassAUROC(labels, average=None, **how)
        self.confusion = MulticlassConfusionMatrix(labels, **how)

    def update(self, outputs: Values, truth: Values, chosen: Tensor) -> None:
        labels = torch.where(chosen, truth[self.head.name], UNKNOWN).flatten()
        found = probabilities(outputs[f"{self.head.name}_logits"]).flatten(0, 1)
        # Frames that only fill a shorter clip up may hold NaN, which would look like logits.
        found = torch.where((labels != UNKNOWN)[:, None], found, 0)
        for metric in (*self.metrics.values(), self.auroc, self.confusion):
            metric.update(found, labels)  # type: ignore[operator]  # a module's attribute could be anything

    def compute(self) -> dict[str, Tensor]:
        support: Tensor = self.confusion.compute().sum(1)
        if not support.any():
            return {}
        scores = {name: self._value(name) for name in self.metrics}
        split = (support > 0) & (support < support.sum())
        if split.any():
            scores["auroc"] = self.auroc.compute()[split].mean()
        return scores


class RegressMeter(HeadMeter):
    """Mean absolute error in the values' own units and R², of each value and averaged over them."""

    def __init__(self, head: HeadConfig, *_: int) -> None:
        indices = range(len(head.labels))
        errors = {f"mae {index}": MeanAbsoluteError() for index in indices}
        super().__init__(head, errors | {f"r2 {index}": _R2() for index in indices})

    def update(self, outputs: Values, truth: Values, chosen: Tensor) -> None:
        found, true = outputs[f"{self.head.name}_values"].float(), truth[self.head.name]
        for index, (centre, spread) in enumerate(zip(self.head.centre, self.head.spread, strict=True)):
            known = chosen & ~true[..., index].isnan()
            value, truly = found[..., index][known], true[..., index][known]
            self._add(f"mae {index}", value, truly)
            # R² is the same in any unit, and squares of large numbers would drown their differences.
            self._add(f"r2 {index}", (value - centre) / spread, (truly - centre) / spread)

    def compute(self) -> dict[str, Tensor]:
        scores: dict[str, Tensor] = {}
        for metric in ("mae", "r2"):
            values = [self._value(f"{metric} {index}") for index in range(len(self.head.labels))]
            scores[metric] = torch.stack(values).nanmean()
            if len(values) > 1:
                scores |= {f"{metric}.{label}": value for label, value in zip(self.head.labels, values, strict=True)}
        return scores


class TrackMeter(HeadMeter):
    """Overlap and centre error of the boxes, hidden or not, and how well the network knows what is in sight.

    `success_auc` and `precision` are those of Wu et al. 2013, Online Object Tracking: A Benchmark, the second within
    `precision_pixels`.
    """

    def __init__(self, head: HeadConfig, height: int, width: int) -> None:
        means: dict[str, Metric] = {
            name: MeanMetric("disable") for name in ("iou", "success_auc", "centre_error_px", "precision")
        }
        presence: dict[str, Metric] = {
            "presence_accuracy": BinaryAccuracy(ignore_index=UNKNOWN, validate_args=False),
            "presence_f1": BinaryF1Score(ignore_index=UNKNOWN, validate_args=False),
        }
        super().__init__(head, means | presence)
        self.presence = BinaryStatScores(ignore_index=UNKNOWN, validate_args=False)
        self.height, self.width = height, width

    def update(self, outputs: Values, truth: Values, chosen: Tensor) -> None:
        name = self.head.name
        self._count_boxes(outputs[f"{name}_box"].float(), truth[f"{name}_box"], chosen)
        visible = truth[f"{name}_visible"]
        known = chosen & ~visible.isnan()
        seen = torch.where(known, visible, UNKNOWN).long().flatten()
        # Probabilities, because torchmetrics would take logits between 0 and 1 for them.
        found = torch.where(known, torch.sigmoid(outputs[f"{name}_presence"][..., 0].float()), 0).flatten()
        self._add("presence_accuracy", found, seen)
        self._add("presence_f1", found, seen)
        self.presence.update(found, seen)

    def compute(self) -> dict[str, Tensor]:
        scores = {name: self._value(name) for name in self.metrics}
        *_, in_sight = counts = self.presence.compute()
        if not counts[:4].sum():
            del scores["presence_accuracy"]
        if not 0 < in_sight < counts[:4].sum():
            del scores["presence_f1"]
        return scores

    def _count_boxes(self, box: Tensor, true_box: Tensor, chosen: Tensor) -> None:
        known = chosen & ~true_box.isnan().any(-1)
        box, true_box = box[known], true_box[known]
        overlap = iou(box, true_box)
        error = centre_error(box, true_box, self.height, self.width)
        self._add("iou", overlap)
        self._add("success_auc", (overlap[:, None] > overlap.new_tensor(OVERLAP_THRESHOLDS)).float().mean(1))
        self._add("centre_error_px", error)
        self._add("precision", (error <= precision_pixels(self.height, self.width)).float())


class _R2(R2Score):
    """R², or NaN of fewer than two samples, or of samples that are all alike."""

    def compute(self) -> Tensor:
        spread = self.sum_squared_error - self.sum_error**2 / self.total
        if self.total < 2 or spread <= 1e-6 * self.sum_squared_error:
            return torch.tensor(torch.nan)
        return super().compute()


METERS: dict[str, type[ClassifyMeter | RegressMeter | TrackMeter]] = {
    "classify": ClassifyMeter,
    "regress": RegressMeter,
    "track": TrackMeter,
}
