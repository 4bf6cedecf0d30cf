"""How far one box is from another."""

from __future__ import annotations

import math

import torch
from torch import Tensor

OVERLAP_THRESHOLDS = tuple(step / 20 for step in range(21))
"""Of a success curve: 0, 0.05, …, 1 (Wu et al. 2013, Online Object Tracking: A Benchmark)."""


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection over union, 0..1, of boxes [..., 4] as centre x, centre y, width, height."""
    low = torch.maximum(a[..., :2] - a[..., 2:] / 2, b[..., :2] - b[..., 2:] / 2)
    high = torch.minimum(a[..., :2] + a[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2)
    shared = (high - low).clamp(min=0).prod(-1)
    union = a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - shared
    return shared / union.clamp(min=torch.finfo(a.dtype).tiny)


def centre_error(a: Tensor, b: Tensor, height: int, width: int) -> Tensor:
    """Return the distance in pixels between the centres of boxes [..., 4], which are given in 0..1 of the frame."""
    size = a.new_tensor([width, height])
    error: Tensor = torch.linalg.vector_norm((a[..., :2] - b[..., :2]) * size, dim=-1)
    return error


def precision_pixels(height: int, width: int) -> float:
    """Return the centre error, in pixels of the network's frame, within which a box counts as precise.

    A twentieth of the frame's diagonal: what the benchmark's 20 pixels (Wu et al. 2013) are of a 320×240 video, of
    which it has many.
    """
    return math.hypot(height, width) / 20
