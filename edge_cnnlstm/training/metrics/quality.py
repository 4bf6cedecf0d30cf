"""The scores that sum a network up: one share per head, 1 at best."""

from __future__ import annotations

from collections.abc import Mapping

from edge_cnnlstm.spec import Task
from edge_cnnlstm.training.config import HeadConfig

SUMMARY: dict[Task, str] = {"classify": "accuracy", "regress": "r2", "track": "iou"}


def quality(scores: Mapping[str, float], heads: tuple[HeadConfig, ...]) -> dict[str, float]:
    """Return each head's accuracy, R² or mean IoU from all its scores, with those under each condition."""
    wanted = [f"{head.name}.{SUMMARY[head.task]}" for head in heads]
    return {
        name: value
        for name, value in scores.items()
        if any(name == summary or name.startswith(f"{summary}.") for summary in wanted)
    }
