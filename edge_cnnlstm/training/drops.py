"""How well a network does when frames come faster than it can take them, by late-frame policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from edge_cnnlstm.training.data.clip import Clip, ClipSet
from edge_cnnlstm.training.data.missed import periods
from edge_cnnlstm.training.evaluate import Outputs, asked, compared, scores_of
from edge_cnnlstm.training.late_frames import (
    EMPTY_AFTER,
    POLICIES,
    Course,
    Policy,
    course,
    service_times,
    settled_age,
)
from edge_cnnlstm.training.metrics.answered import Answered
from edge_cnnlstm.training.model import CnnLstm

Memory = Literal["told", "not told", "kept", "emptied", "none"]
"""What a network's memory learns of missed frames. One with `dt_input` is told the time since its last frame, or is
not; of any other the memory is kept over the gap, or is emptied after one of `EMPTY_AFTER` frames or more."""


@dataclass(frozen=True, slots=True)
class UnderLoad:
    """A network that takes so long for a frame that it has no time for the share `load` of them, 0..1.

    `not_taken` is the share that it had not got when their clip ended. `scores` are of all frames, each judged by the
    latest answer at the end of its period. `age` is the mean age of these answers and `oldest` the largest, in frames;
    `settled_age` is the mean age in a stream that has run for long.
    """

    policy: Policy
    memory: Memory
    load: float
    not_taken: float
    age: float
    oldest: int
    settled_age: float
    scores: dict[str, float]

    def document(self) -> dict[str, Any]:
        """Return everything as JSON data."""
        return asdict(self)


def memories(model: CnnLstm) -> tuple[Memory, ...]:
    """Return what can be compared of this network."""
    if model.config.dt_input:
        return "told", "not told"
    remembers = model.config.layers and model.config.scan == "frames"
    return ("kept", "emptied") if remembers else ("none",)


@torch.inference_mode()
def evaluate_drops(
    model: CnnLstm,
    clips: ClipSet | Sequence[Clip],
    loads: Sequence[float],
    *,
    empty_after: int = EMPTY_AFTER,
    limit: int | None = None,
    progress: bool = False,
) -> list[UnderLoad]:
    """Score a network under each load, 0..1, by each policy and for each of its `memories`.

    Each clip is a stream of its own, which begins with an empty memory and an empty queue. How long frames take is
    drawn from the clip's number: the same for every policy and network, and in proportion for every load. Under no
    load the scores are those of `evaluate`. Errors as `evaluate` raises them.
    """
    heads = model.config.heads
    answered: dict[tuple[Policy, float, Memory], list[Answered]] = {
        (policy, load, memory): [] for policy in POLICIES for memory in memories(model) for load in loads
    }
    courses: dict[tuple[Policy, float], list[Course]] = {(policy, load): [] for policy in POLICIES for load in loads}
    for number, clip in enumerate(asked(clips, heads, limit, progress=progress)):
        features = model.features(torch.from_numpy(clip.frames)[None].to(model.initial_state().h.device))
        for (policy, load), found in courses.items():
            service = service_times(len(clip.frames), load, np.random.default_rng(number))
            found.append(course(policy, service, load))
        for (policy, load, memory), row in answered.items():
            held = _held(model, features, courses[policy, load][-1], memory, empty_after)
            row.append(compared(held, clip, heads))
    rows = []
    for (policy, load, memory), row in answered.items():
        frames = sum(len(each.answered) for each in courses[policy, load])
        ages = np.concatenate([each.ages for each in courses[policy, load]])
        rows.append(
            UnderLoad(
                policy=policy,
                memory=memory,
                load=load,
                not_taken=sum(each.dropped for each in courses[policy, load]) / frames,
                age=float(ages.mean()),
                oldest=int(ages.max()),
                settled_age=settled_age(policy, load),
                scores=scores_of(row, heads),
            )
        )
    return rows


def _held(model: CnnLstm, features: torch.Tensor, found: Course, memory: Memory, empty_after: int) -> Outputs:
    """Return, for each frame of a clip, the answer that is held at its end: what the network makes of those it took."""
    answers = _rolled(model, features, found.taken, memory, empty_after)
    return {name: values[np.searchsorted(found.taken, found.answered)] for name, values in answers.items()}


def _rolled(
    model: CnnLstm, features: torch.Tensor, taken: NDArray[np.int64], memory: Memory, empty_after: int
) -> Outputs:
    since = periods(taken)
    dt = torch.from_numpy(since / model.config.frame_rate)[None].to(features.device) if memory == "told" else None
    parts = np.split(taken, np.flatnonzero(since > empty_after)) if memory == "emptied" else [taken]
    answers = [model.roll(features[:, torch.from_numpy(part)], model.initial_state(), dt)[0] for part in parts]
    return {name: torch.cat([part[name] for part in answers], dim=1)[0].float().cpu().numpy() for name in answers[0]}
