"""What lies behind the scores of `regress` and `track` heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_cnnlstm.training.config import HeadConfig
from edge_cnnlstm.training.metrics import boxes
from edge_cnnlstm.training.metrics.answered import Answered, Floats, across, hidden_for, mean, plain, worst
from edge_cnnlstm.training.metrics.heads import probabilities

POINTS = 400
"""So many pairs of true and predicted value are kept at most."""


def regressed(head: HeadConfig, clips: Sequence[Answered]) -> dict[str, Any]:
    """Return predicted against true values, and the worst clips, by error in units of `spread`."""
    found = np.concatenate([clip.outputs[f"{head.name}_values"] for clip in clips]).astype(float)
    truth = np.concatenate([clip.asked[head.name] for clip in clips]).astype(float)
    values = []
    for index, label in enumerate(head.labels):
        known = ~np.isnan(truth[:, index])
        pairs = np.stack([truth[known, index], found[known, index]], axis=1)
        chosen = pairs[np.unique(np.linspace(0, len(pairs) - 1, POINTS).astype(int))] if len(pairs) else pairs
        bias = mean(pairs[:, 1] - pairs[:, 0])
        values.append({"label": label, "count": len(pairs), "bias": bias, "points": plain(chosen)})
    losses = [_scaled_error(head, clip) for clip in clips]
    return {"values": values, "worst": worst(losses)}


def _scaled_error(head: HeadConfig, clip: Answered) -> float:
    error = np.abs(clip.outputs[f"{head.name}_values"] - clip.asked[head.name].astype(float)) / np.array(head.spread)
    return float(mean(error, missing=np.nan))


def tracked(head: HeadConfig, clips: Sequence[Answered]) -> dict[str, Any]:
    """Return success and precision curves, the centre error while hidden, and the worst clips, by overlap."""
    measured = [_boxes(head, clip) for clip in clips]
    overlap, error = (np.concatenate(part) for part in zip(*measured, strict=True))
    overlap, error = overlap[~np.isnan(overlap)], error[~np.isnan(error)]
    precise = boxes.precision_pixels(clips[0].height, clips[0].width)
    pixels = np.linspace(0, 2.5 * precise, 51)  # the benchmark's curve ends at 50 pixels, 2.5 times its threshold
    errors = [error for _, error in measured]
    return {
        "precision_px": precise,
        "success": {
            "threshold": list(boxes.OVERLAP_THRESHOLDS),
            "share": [mean(overlap > threshold) for threshold in boxes.OVERLAP_THRESHOLDS],
        },
        "precision": {"threshold_px": plain(pixels), "share": [mean(error <= threshold) for threshold in pixels]},
        "across": across("centre_error_px", errors, clips),
        "since_hidden": _since_hidden(errors, clips),
        "worst": worst([mean(1 - overlap, missing=np.nan) for overlap, _ in measured]),
    }


def _boxes(head: HeadConfig, clip: Answered) -> tuple[Floats, Floats]:
    """Return overlap and centre error of each frame, NaN where the box is not known."""
    found = torch.from_numpy(clip.outputs[f"{head.name}_box"]).double()
    true = torch.from_numpy(clip.asked[f"{head.name}_box"]).double()
    return boxes.iou(found, true).numpy(), boxes.centre_error(found, true, clip.height, clip.width).numpy()


def _since_hidden(errors: Sequence[Floats], clips: Sequence[Answered]) -> list[dict[str, Any]]:
    """Return the centre error by how many frames the target has been hidden for."""
    every = [
        (hidden_for(clip.conditions["hidden"]), error)
        for clip, error in zip(clips, errors, strict=True)
        if "hidden" in clip.conditions
    ]
    if not every:
        return []
    since, error = (np.concatenate(part) for part in zip(*every, strict=True))
    known = ~np.isnan(error)
    return [
        {"hidden_for": int(count), "frames": int(at.sum()), "centre_error_px": mean(error[at])}
        for count in np.unique(since[known & (since > 0)])
        if (at := known & (since == count)).any()
    ]


def value_answers(head: HeadConfig, clip: Answered, frames: NDArray[np.int64]) -> dict[str, Any]:
    """Return the true and the answered values of these frames."""
    return {
        "truth": plain(clip.truth[head.name][frames]),
        "answer": plain(clip.outputs[f"{head.name}_values"][frames]),
    }


def track_answers(head: HeadConfig, clip: Answered, frames: NDArray[np.int64]) -> dict[str, Any]:
    """Return the true and the answered box of these frames, whether it is in sight, and the probability of that."""
    presence = probabilities(torch.from_numpy(clip.outputs[f"{head.name}_presence"]))[..., 1].numpy()
    return {
        "truth": plain(clip.truth[f"{head.name}_box"][frames]),
        "visible": plain(clip.truth[f"{head.name}_visible"][frames]),
        "answer": plain(clip.outputs[f"{head.name}_box"][frames]),
        "presence": plain(presence[frames]),
    }
