"""What a graph answers on whole clips: its accuracy, and how often it says what another says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import onnx
from numpy.typing import NDArray

from edge_cnnlstm.spec import ModelSpec
from edge_cnnlstm.training.config import HeadConfig
from edge_cnnlstm.training.data.clip import Clip
from edge_cnnlstm.training.evaluate import Answer, evaluate
from edge_cnnlstm.training.metrics.quality import quality
from edge_cnnlstm.training.model import CnnLstm
from export.rollout import OnnxSteps, torch_course

STREAMS = 16
"""Clips that run side by side."""
Answers = list[dict[str, NDArray[np.float32]]]
"""By clip, the outputs by name: float32 [time, …]."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A graph or a network on clips: every answer, all scores, and those that sum it up."""

    answers: Answers
    scores: dict[str, float]
    quality: dict[str, float]


def measure_graph(
    graph: onnx.ModelProto, spec: ModelSpec, clips: Sequence[Clip], heads: tuple[HeadConfig, ...]
) -> Measured:
    """Score a step graph in ONNX Runtime, one step a frame, each clip from an empty memory."""
    steps, outputs = OnnxSteps(graph, spec), [output.name for output in spec.outputs]

    def answer(frames: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        course = steps.course(frames[:, None], np.zeros(len(frames), np.bool_))
        return {name: course[name][:, 0] for name in outputs}

    return _measured(answer, clips, heads)


def measure_network(network: CnnLstm, clips: Sequence[Clip]) -> Measured:
    """Score a lowered network in torch, one step a frame, each clip a stream that begins with an empty memory."""
    found: dict[int, dict[str, NDArray[np.float32]]] = {}
    by_length = sorted(range(len(clips)), key=lambda index: len(clips[index].frames))
    for _, group in groupby(by_length, key=lambda index: len(clips[index].frames)):
        alike = list(group)
        for together in (alike[at : at + STREAMS] for at in range(0, len(alike), STREAMS)):
            frames = np.stack([clips[index].frames for index in together], axis=1)
            course = torch_course(network, frames, np.zeros(len(frames), np.bool_))
            outputs = {name: values for name, values in course.items() if name not in {"h_next", "c_next"}}
            for stream, index in enumerate(together):
                found[index] = {name: values[:, stream] for name, values in outputs.items()}
    in_order = iter(range(len(clips)))
    return _measured(lambda _: found[next(in_order)], clips, network.config.heads)


def agreement(one: Answers, other: Answers, heads: tuple[HeadConfig, ...]) -> float | None:
    """Return the share of frames on which every classify head names the same class; None without such a head."""
    names = [f"{head.name}_logits" for head in heads if head.task == "classify"]
    if not names:
        return None
    same = [
        np.logical_and.reduce([_class(left[name]) == _class(right[name]) for name in names])
        for left, right in zip(one, other, strict=True)
    ]
    return float(np.concatenate(same).mean())


def _class(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the class of each frame; one logit is that of the second of two labels."""
    return (logits[:, 0] > 0).astype(np.int64) if logits.shape[1] == 1 else logits.argmax(axis=1)


def _measured(answer: Answer, clips: Sequence[Clip], heads: tuple[HeadConfig, ...]) -> Measured:
    kept: Answers = []

    def keeping(frames: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        kept.append(dict(answer(frames)))
        return kept[-1]

    scores = evaluate(keeping, clips, heads).scores
    return Measured(kept, scores, quality(scores, heads))
