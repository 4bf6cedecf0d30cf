"""What lies behind a `classify` head's scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, roc_curve

from edge_cnnlstm.training.config import HeadConfig
from edge_cnnlstm.training.data.clip import UNKNOWN
from edge_cnnlstm.training.metrics.answered import Answered, Floats, across, mean, plain, worst
from edge_cnnlstm.training.metrics.heads import CALIBRATION_BINS, probabilities

FRACTIONS = 10
"""Steps of the early-prediction curve."""
ROC_LABELS = 12
"""Above this many labels only the mean ROC curve is kept."""
FALSE_POSITIVE_RATES = np.concatenate([[0], np.geomspace(1e-3, 1, 40)])


def classified(head: HeadConfig, clips: Sequence[Answered]) -> dict[str, Any]:
    """Return confusion matrix, per-class table, calibration, ROC, early-prediction curve and worst clips."""
    labels = range(len(head.labels))
    every = [(_probabilities(head, clip), clip.asked[head.name]) for clip in clips]
    found = np.concatenate([scores[truth != UNKNOWN] for scores, truth in every])
    truth = np.concatenate([truth[truth != UNKNOWN] for _, truth in every])
    matrix = confusion_matrix(truth, found.argmax(1), labels=labels) if len(truth) else np.zeros((len(labels),) * 2)
    losses = [_cross_entropy(scores[known], truth[known]) for scores, truth in every for known in [truth != UNKNOWN]]
    return {
        "confusion": matrix.astype(int).tolist(),
        "classes": _class_table(head.labels, found, truth),
        "reliability": _reliability(found.max(1), found.argmax(1) == truth),
        "roc": _roc(head.labels, found, truth),
        "early": _early(head, clips),
        "across": across("accuracy", [_right(head, clip) for clip in clips], clips) if head.per == "frame" else None,
        "worst": worst(losses),
    }


def _probabilities(head: HeadConfig, clip: Answered) -> Floats:
    return probabilities(torch.from_numpy(clip.outputs[f"{head.name}_logits"])).double().numpy()


def _cross_entropy(found: Floats, truth: NDArray[Any]) -> float:
    chosen = found[np.arange(len(truth)), truth]
    return float(-np.log(chosen.clip(1e-12)).mean()) if len(truth) else np.nan


def _right(head: HeadConfig, clip: Answered) -> Floats:
    """Return 1 for a right answer, 0 for a wrong one, NaN where the truth is not known."""
    truth = clip.truth[head.name]
    return np.where(truth == UNKNOWN, np.nan, _probabilities(head, clip).argmax(1) == truth)


def _class_table(labels: Sequence[str], found: Floats, truth: NDArray[Any]) -> list[dict[str, Any]]:
    if not len(truth):
        return []
    table = precision_recall_fscore_support(
        truth, found.argmax(1), labels=range(len(labels)), average=None, zero_division=np.nan
    )
    rows = zip(labels, *table, strict=True)
    return [
        {
            "label": label,
            "support": int(support),
            "precision": plain(precision),
            "recall": plain(recall),
            "f1": plain(f1),
        }
        for label, precision, recall, f1, support in rows
    ]


def _reliability(confidence: Floats, right: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Return, for each bin of confidence that is not empty, how often the answers in it are right."""
    bins = np.ceil(confidence * CALIBRATION_BINS).clip(1, CALIBRATION_BINS)
    return [
        {"confidence": float(confidence[at].mean()), "accuracy": float(right[at].mean()), "count": int(at.sum())}
        for at in (bins == number for number in np.unique(bins))
    ]


def _roc(labels: Sequence[str], found: Floats, truth: NDArray[Any]) -> dict[str, Any] | None:
    """Return one-vs-rest curves read at common false positive rates, and their mean."""
    curves = {}
    for index, label in enumerate(labels):
        positive = truth == index
        if 0 < positive.sum() < len(truth):
            false, true, _ = roc_curve(positive, found[:, index])
            curves[label] = np.interp(FALSE_POSITIVE_RATES, false, true)
    if not curves:
        return None
    shown = curves if len(labels) <= ROC_LABELS else {}
    return {
        "false_positive_rate": plain(FALSE_POSITIVE_RATES),
        "mean": plain(np.mean(list(curves.values()), axis=0)),
        "labels": {label: plain(curve) for label, curve in shown.items()},
    }


def _early(head: HeadConfig, clips: Sequence[Answered]) -> dict[str, Any] | None:
    """Return the accuracy once a fraction of each clip has been seen.

    Of a per-clip head, how often the answer by then is the clip's label; of others, the label of that very frame.
    """
    right: list[list[float]] = []
    for clip in clips:
        if clip.time == 1:
            continue
        truth = clip.truth[head.name]
        known = truth[truth != UNKNOWN]
        if head.per == "clip" and len(known):
            truth = np.full(clip.time, known[-1])
        seen = [-(-step * clip.time // FRACTIONS) - 1 for step in range(1, FRACTIONS + 1)]
        found = _probabilities(head, clip).argmax(1)
        right.append([found[at] == truth[at] if truth[at] != UNKNOWN else np.nan for at in seen])
    if not right:
        return None
    fractions = [step / FRACTIONS for step in range(1, FRACTIONS + 1)]
    return {"fraction": fractions, "accuracy": [mean(column) for column in np.array(right, float).T]}


def class_answers(head: HeadConfig, clip: Answered, frames: NDArray[np.int64]) -> dict[str, Any]:
    """Return the true label of these frames, the label answered, and its probability."""
    found, truth = _probabilities(head, clip)[frames], clip.truth[head.name][frames]
    return {
        "truth": [None if label == UNKNOWN else head.labels[label] for label in truth],
        "answer": [head.labels[label] for label in found.argmax(1)],
        "probability": plain(found.max(1)),
    }
