"""Scores under load: of a network that says which frame it saw, and how much time it was told, the truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edge_cnnlstm.errors import DataError
from edge_cnnlstm.training.config import HeadConfig, ModelConfig
from edge_cnnlstm.training.data.clip import Clip
from edge_cnnlstm.training.data.corpora import open_corpus
from edge_cnnlstm.training.drops import UnderLoad, evaluate_drops, memories
from edge_cnnlstm.training.evaluate import evaluate, torch_answer
from edge_cnnlstm.training.late_frames import POLICIES, course, service_times
from edge_cnnlstm.training.model import CnnLstm, State
from edge_cnnlstm.training.recipe import recipe_from

RATE = 20.0
TIME = 40
LOADS = (0.0, 0.3, 0.5)
HEADS = (
    HeadConfig(name="shown", task="regress", labels=("frame",), centre=(0.0,), spread=(1.0,)),
    HeadConfig(name="clock", task="regress", labels=("frame",), centre=(0.0,), spread=(1.0,)),
    HeadConfig(name="seen", task="regress", labels=("frames",), centre=(0.0,), spread=(1.0,)),
)


class Clock(CnnLstm):
    """Says the number of the frame shown, the time since it began as it was told, and how many frames it has seen.

    What it is not told of it takes for one period; it counts in `c`.
    """

    def features(self, frames: Tensor) -> Tensor:
        return frames[:, :, :1, 0, 0].float()

    def roll(self, features: Tensor, state: State, dt: Tensor | None = None) -> tuple[dict[str, Tensor], State]:
        seen = state.c[0, :, :1, None] + torch.arange(1, features.shape[1] + 1)[None, :, None]
        clock = seen - 1 if dt is None else (dt * RATE).cumsum(1)
        return {"shown_values": features, "clock_values": clock, "seen_values": seen.float()}, state


def clips(count: int = 3) -> list[Clip]:
    time = np.arange(TIME)
    frames = np.broadcast_to(time.astype(np.uint8)[:, None, None, None], (TIME, 2, 2, 3)).copy()
    number = time.astype(np.float32)[:, None]
    return [Clip(frames, {"shown": number, "clock": number, "seen": number})] * count


def clock(**settings: Any) -> Clock:
    config = {"height": 16, "width": 16, "hidden": 4, "frame_rate": RATE, "heads": HEADS, **settings}
    return Clock(ModelConfig.model_validate(config)).eval()


def found(rows: list[UnderLoad], **what: Any) -> UnderLoad:
    (row,) = (row for row in rows if all(getattr(row, name) == value for name, value in what.items()))
    return row


def test_each_frame_is_judged_by_the_latest_answer_that_there_is() -> None:
    rows = evaluate_drops(clock(), clips(), LOADS)

    for row in rows:
        assert row.scores["shown.mae"] == pytest.approx(row.age, abs=1e-5)
        courses = [
            course(row.policy, service_times(TIME, row.load, np.random.default_rng(number)), row.load)
            for number in range(3)
        ]
        assert row.oldest == max(each.ages.max() for each in courses)
        assert row.not_taken == pytest.approx(sum(each.dropped for each in courses) / (3 * TIME))
    assert found(rows, policy="every", load=0.5, memory="emptied").age > 8
    assert found(rows, policy="newest", load=0.5, memory="emptied").age < 3


def test_a_network_is_told_the_true_time_or_nothing() -> None:
    model = clock(dt_input=True)
    rows = evaluate_drops(model, clips(), LOADS)

    assert memories(model) == ("told", "not told")
    for policy in POLICIES:
        told = found(rows, policy=policy, load=0.5, memory="told")
        ignorant = found(rows, policy=policy, load=0.5, memory="not told")
        assert told.scores["clock.mae"] == pytest.approx(told.age, abs=1e-4)
        if policy != "every":
            assert ignorant.scores["clock.mae"] > told.scores["clock.mae"] + 1


def test_a_memory_is_emptied_after_so_many_missed_frames_and_not_before() -> None:
    rows = {
        after: found(
            evaluate_drops(clock(), clips(1), (0.5,), empty_after=after), policy="skip-k", memory="emptied"
        ).scores["seen.mae"]
        for after in (1, 2, 3)
    }
    kept = found(evaluate_drops(clock(), clips(1), (0.5,)), policy="skip-k", memory="kept").scores["seen.mae"]

    # Of three frames one is looked at: two are missed each time.
    assert rows[3] == kept
    assert rows[1] == rows[2] == pytest.approx(np.abs(np.arange(TIME) - 1).mean())
    assert kept < rows[2]


@pytest.mark.parametrize("model", [{"layers": 0}, {"layers": 2}, {"dt_input": True}])
def test_without_load_the_scores_are_those_of_the_evaluation(model: dict[str, Any]) -> None:
    data = {"kind": "occluded-digits", "clips": 4, "held_out": 5, "frames": 12}
    recipe = recipe_from({"seed": 1, "model": {"height": 32, "width": 32, "frame_rate": 29.97, **model}, "data": data})
    corpus = open_corpus(recipe.data, recipe.model, 1)
    torch.manual_seed(0)
    network = CnnLstm(ModelConfig.model_validate({**recipe.model.model_dump(), "heads": corpus.heads})).eval()
    if network.missed is not None:
        torch.nn.init.normal_(network.missed.weight)
    held_out = corpus.clips(corpus.splits["test"], training=False)

    rows = evaluate_drops(network, held_out, (0.0, 0.5))

    expected = evaluate(torch_answer(network), held_out, corpus.heads).scores
    assert {row.policy for row in rows} == set(POLICIES)
    assert {row.memory for row in rows} == set(memories(network))
    for row in rows:
        if row.load == 0:
            assert row.scores == expected
            assert (row.age, row.oldest, row.not_taken, row.settled_age) == (0, 0, 0, 0)
        else:
            assert row.scores != expected


def test_the_same_question_gets_the_same_answer() -> None:
    assert evaluate_drops(clock(), clips(), (0.3,)) == evaluate_drops(clock(), clips(), (0.3,))


def test_no_clip_is_no_evaluation() -> None:
    with pytest.raises(DataError, match="no clip"):
        evaluate_drops(clock(), [], (0.0,))
