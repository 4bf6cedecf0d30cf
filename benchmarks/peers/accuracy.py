"""Whether a case answers what FP32 answers: over one long rollout without a reset, and by the truth where known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bundle import reference_of
from benchmarks.peers.loops import RATE
from benchmarks.processes import answer, run
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle.format import Bundle
from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.runtime.backends.base import advance
from edge_cnnlstm.runtime.fit import Fit
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.runtime.selection import load_engine
from edge_cnnlstm.spec import HeadSpec, ModelSpec

MAY_LOSE = 0.005
"""A case that is right less often than FP32 by more than half a point does not do the same work, and is no peer."""
CLIP_FRAMES = 48


@dataclass(frozen=True, slots=True)
class Rollout:
    """One stream of frames, uint8 [time, height, width, 3], and the right label of each, int64 [time], where known."""

    frames: Pixels
    truth: NDArray[np.int64] | None

    @classmethod
    def read(cls, folder: Path) -> Rollout:
        """Read what `write_rollout` wrote; the frames stay on disk until they are looked at."""
        truth = folder / "truth.npy"
        return cls(np.load(folder / "frames.npy", mmap_mode="r"), np.load(truth) if truth.exists() else None)

    def steps(self) -> Iterator[tuple[Pixels, float]]:
        """Yield each frame and the seconds since the last: 0 for the first, then those of a camera."""
        return zip(self.frames, chain([0.0], repeat(1 / RATE)), strict=False)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Of all frames, the share with FP32's label, that with the right one, and how much more of them FP32 gets right.

    The last two are None where no truth is known. `equal` says if this counts as FP32's accuracy; without a truth that
    is FP32's label on 99.5 % of the frames.
    """

    frames: int
    agreement: float
    accuracy: float | None
    lost: float | None
    equal: bool


def label_head(spec: ModelSpec) -> HeadSpec:
    """Return the head whose label is compared; raises ConfigError for a network that answers none."""
    for head in spec.heads:
        if head.task == "classify":
            return head
    raise ConfigError(
        f"a network with heads {[head.name for head in spec.heads]}",
        expected="one that classifies: peers are compared by their labels",
        fix="choose another bundle",
    )


def chosen(logits: NDArray[Any]) -> int:
    """Return the number of the most likely label, from one stream's logits; one logit is that of the second of two."""
    return int(logits[0] > 0) if len(logits) == 1 else int(logits.argmax())


def write_rollout(bundle: Bundle, frames: int, folder: Path) -> Rollout:
    """Write the rollout into a folder: digits that training never saw, if these are what the network is asked about.

    For any other network, or without what draws the digits, it is the golden frames, once.
    """
    spec = bundle.manifest.model
    question = _question_about_digits(label_head(spec))
    if question is None:
        np.save(folder / "frames.npy", bundle.golden.frames)
    else:
        _write_digits(spec, question, frames, folder)
    return Rollout.read(folder)


def reference_labels(bundle: Path, rollout: Path) -> list[int]:
    """Return the label of each frame by the bundle's portable FP32 graph, from a process of its own."""
    labels: list[int] = run("benchmarks.peers.accuracy", bundle.resolve(), rollout)["labels"]
    return labels


def judge(labels: Sequence[int], reference: Sequence[int], truth: NDArray[np.int64] | None) -> Accuracy:
    """Hold a case's labels against FP32's and the truth."""
    found, expected = np.array(labels), np.array(reference)
    agreement = float((found == expected).mean())
    if truth is None:
        return Accuracy(len(found), agreement, None, None, agreement >= 1 - MAY_LOSE)
    right, right_in_fp32 = int((found == truth).sum()), int((expected == truth).sum())
    lost = (right_in_fp32 - right) / len(truth)
    return Accuracy(len(found), agreement, right / len(truth), lost, lost <= MAY_LOSE)


def main(bundle_path: str, rollout: str) -> dict[str, Any]:
    """Answer with the labels of the bundle's FP32 graph in ONNX Runtime."""
    bundle = bundle_format.read(bundle_path)
    backend = load_engine(bundle, bundle.manifest.graph(reference_of(bundle)), "onnxruntime")
    (logits,) = label_head(backend.spec).outputs
    steps = Rollout.read(Path(rollout)).steps()
    return {"labels": [chosen(advance(backend, pixels, dt)[logits][0]) for pixels, dt in steps]}


def _question_about_digits(head: HeadSpec) -> str | None:
    """Return what the digits' truth calls the question that a head answers; None when it is about something else."""
    try:
        from edge_cnnlstm.training.data.occluded_digits import QUESTIONS
    except ImportError:
        return None
    return next((name for name, asked in QUESTIONS.items() if asked.labels == head.labels), None)


def _write_digits(spec: ModelSpec, question: str, frames: int, folder: Path) -> None:
    from edge_cnnlstm.training.data.occluded_digits import Scene, held_out_clip

    fit, scene = Fit.of(spec), Scene(frames=CLIP_FRAMES, height=240, width=320)
    shape = (frames, *spec.frame.shape[1:])
    drawn = np.lib.format.open_memmap(folder / "frames.npy", mode="w+", dtype=np.uint8, shape=shape)
    truth = np.empty(frames, np.int64)
    for clip, at in zip(count(), range(0, frames, CLIP_FRAMES), strict=False):
        rendered = held_out_clip(clip, scene)
        for index, image in enumerate(rendered.frames[: frames - at], start=at):
            drawn[index] = fit.apply(image)[0]
        truth[at : at + CLIP_FRAMES] = rendered.truth[question][: frames - at]
    drawn.flush()
    np.save(folder / "truth.npy", truth)


if __name__ == "__main__":
    answer(main)
