"""How well a network does, frame by frame: in plain sight, behind the occluder, and across the occlusion."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from edge_cnnlstm.training.data.occluded_digits import Clip, Scene, Split, render_clip
from edge_cnnlstm.training.model import CnnLstm

EVALUATION_SEED = 1
ACROSS = range(-6, 10)
"""Frames relative to the first hidden one, over which accuracy is drawn."""

Answers = tuple[NDArray[np.int64], NDArray[np.float32]]
"""What a network says of one clip: class [time] and box [time, 4], centre x, centre y, width, height in 0..1."""
Answer = Callable[[NDArray[np.uint8]], Answers]


@dataclass(frozen=True, slots=True)
class Scores:
    """Accuracy 0..1, centre error in pixels of the network's frame, mean IoU; split by the digit being in sight.

    `across_occlusion` is the accuracy at each frame of `ACROSS`, None where no clip reaches.
    """

    clips: int
    visible: float
    hidden: float
    centre_error_px_visible: float
    centre_error_px_hidden: float
    iou: float
    across_occlusion: tuple[float | None, ...]


def evaluation_clips(model: CnnLstm, count: int, split: Split = "test") -> list[Clip]:
    """Render the first `count` evaluation clips of a split at the network's frame size."""
    scene = Scene(height=model.config.height, width=model.config.width)
    return [render_clip(split, EVALUATION_SEED, index, scene) for index in range(count)]


def score(answer: Answer, clips: Iterable[Clip]) -> Scores:
    """Score what `answer` says of each clip; every clip starts from an empty memory."""
    correct, visible, error, overlap, since_hidden = [], [], [], [], []
    for clip in clips:
        classes, boxes = answer(clip.frames)
        pixels = boxes * np.array([clip.frames.shape[2], clip.frames.shape[1]] * 2, np.float32)
        correct.append(classes == clip.label)
        visible.append(clip.visible)
        error.append(np.linalg.norm(pixels[:, :2] - clip.boxes[:, :2], axis=1))
        overlap.append(_iou(pixels, clip.boxes))
        since_hidden.append(np.arange(len(clip.visible)) - _first_hidden(clip.visible))
    right, seen, distance, shared, since = map(np.concatenate, (correct, visible, error, overlap, since_hidden))
    return Scores(
        clips=len(correct),
        visible=float(right[seen].mean()),
        hidden=float(right[~seen].mean()),
        centre_error_px_visible=float(distance[seen].mean()),
        centre_error_px_hidden=float(distance[~seen].mean()),
        iou=float(shared.mean()),
        across_occlusion=tuple(float(right[since == at].mean()) if (since == at).any() else None for at in ACROSS),
    )


def torch_answer(model: CnnLstm) -> Answer:
    """Return the trained network as something that `score` can ask."""
    classify = next(head.name for head in model.config.heads if head.task == "classify")
    track = next(head.name for head in model.config.heads if head.task == "track")

    @torch.inference_mode()
    def answer(frames: NDArray[np.uint8]) -> Answers:
        outputs, _ = model.sequence(torch.from_numpy(frames)[None], model.initial_state())
        return outputs[f"{classify}_logits"][0].argmax(1).numpy(), outputs[f"{track}_box"][0].numpy()

    return answer


def _first_hidden(visible: NDArray[np.bool_]) -> int:
    """Index of the first hidden frame, or beyond every frame when the digit is never hidden."""
    return int(np.argmin(visible)) if not visible.all() else 10**6


def _iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of boxes [n, 4] given as centre x, centre y, width, height."""
    low = np.maximum(a[:, :2] - a[:, 2:] / 2, b[:, :2] - b[:, 2:] / 2)
    high = np.minimum(a[:, :2] + a[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2)
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    union = np.prod(a[:, 2:], axis=1) + np.prod(b[:, 2:], axis=1) - shared
    return np.asarray(shared / union, np.float32)
