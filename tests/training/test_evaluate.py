"""An evaluation says what is true of clips whose truth and answers are written by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edge_cnnlstm.errors import DataError
from edge_cnnlstm.training.config import HeadConfig, preset_config
from edge_cnnlstm.training.data.clip import UNKNOWN, Clip
from edge_cnnlstm.training.evaluate import Answer, evaluate, torch_answer
from edge_cnnlstm.training.metrics.answered import ACROSS, WORST, hidden_for
from edge_cnnlstm.training.model import CnnLstm

DIGIT = HeadConfig(name="digit", task="classify", labels=("a", "b", "c"))
GESTURE = HeadConfig(name="gesture", task="classify", labels=("left", "right"), per="clip")
POSE = HeadConfig(name="pose", task="regress", labels=("x",), centre=(0.0,), spread=(2.0,))
TARGET = HeadConfig(name="target", task="track")
SIDE = 64

Outputs = dict[str, NDArray[np.float32]]


def clip(index: int, time: int, hidden: Sequence[int] = (), **truth: NDArray[np.generic]) -> Clip:
    """A clip whose first pixel is its index, which `scripted` knows it by."""
    frames = np.full((time, SIDE, SIDE, 3), index, np.uint8)
    covered = np.isin(np.arange(time), hidden)
    return Clip(frames, truth, {"visible": ~covered, "hidden": covered}, name=f"clip {index}")


def scripted(*outputs: Outputs) -> Answer:
    def answer(frames: NDArray[np.uint8]) -> Mapping[str, NDArray[np.float32]]:
        return outputs[frames[0, 0, 0, 0]]

    return answer


def sure(*labels: int, count: int = 3) -> NDArray[np.float32]:
    return 9 * np.eye(count, dtype=np.float32)[list(labels)]


def labels(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)


def box(x: float = 0.5, y: float = 0.5, time: int = 1) -> NDArray[np.float32]:
    return np.tile(np.array([x, y, 0.25, 0.25], np.float32), (time, 1))


def tracked(centres: Sequence[float]) -> Outputs:
    """Boxes that are so many pixels too far to the right."""
    found = np.concatenate([box(0.5 + off / SIDE) for off in centres])
    return {"target_box": found, "target_presence": np.ones((len(centres), 1), np.float32)}


def targets(time: int) -> dict[str, NDArray[np.generic]]:
    return {"target_box": box(time=time), "target_visible": np.ones(time, np.float32)}


def test_the_confusion_and_the_table_count_known_frames() -> None:
    clips = [clip(0, 4, digit=labels(0, 0, 1, UNKNOWN)), clip(1, 2, digit=labels(2, 2))]

    found = evaluate(scripted({"digit_logits": sure(0, 1, 1, 2)}, {"digit_logits": sure(2, 0)}), clips, (DIGIT,))

    assert (found.clips, found.frames) == (2, 6)
    assert found.scores["digit.accuracy"] == pytest.approx(3 / 5)
    assert found.heads["digit"]["confusion"] == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]
    assert found.heads["digit"]["classes"][1] == {
        "label": "b",
        "support": 1,
        "precision": 0.5,
        "recall": 1.0,
        "f1": pytest.approx(2 / 3, abs=1e-6),
    }
    (bin_,) = found.heads["digit"]["reliability"]
    assert (bin_["count"], bin_["accuracy"]) == (5, pytest.approx(3 / 5))


def test_accuracy_is_lined_up_at_the_first_hidden_frame() -> None:
    clips = [clip(0, 4, (2, 3), digit=labels(0, 0, 0, 0)), clip(1, 3, (1,), digit=labels(1, 1, 1))]

    found = evaluate(scripted({"digit_logits": sure(0, 0, 0, 1)}, {"digit_logits": sure(1, 0, 1)}), clips, (DIGIT,))

    across = dict(zip(ACROSS, found.heads["digit"]["across"]["accuracy"], strict=True))
    assert {at: value for at, value in across.items() if value is not None} == {-2: 1, -1: 1, 0: 0.5, 1: 0.5}
    assert found.scores["digit.accuracy.visible"] == pytest.approx(1)
    assert found.scores["digit.accuracy.hidden"] == pytest.approx(1 / 3)


def test_hidden_for_counts_from_the_start_of_each_occlusion() -> None:
    hidden = np.array([True, True, False, True, False, False, True, True, True])

    assert hidden_for(hidden).tolist() == [1, 2, 0, 1, 0, 0, 1, 2, 3]


def test_the_centre_error_while_hidden_for_three_frames_is_a_score() -> None:
    clips = [clip(0, 7, (1, 2, 3, 4, 5), **targets(7))]

    found = evaluate(scripted(tracked([0, 1, 2, 3, 4, 5, 0])), clips, (TARGET,))

    assert found.scores["target.centre_error_px.hidden_3"] == pytest.approx(2, rel=1e-4)
    assert found.scores["target.centre_error_px.hidden"] == pytest.approx(3, rel=1e-4)
    since = found.heads["target"]["since_hidden"]
    assert [(row["hidden_for"], row["frames"]) for row in since] == [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1)]
    assert [row["centre_error_px"] for row in since] == pytest.approx([1, 2, 3, 4, 5], rel=1e-4)


def test_success_and_precision_curves_fall_and_rise() -> None:
    found = evaluate(scripted(tracked([0, 8, 16, 30])), [clip(0, 4, **targets(4))], (TARGET,))

    success, precision = found.heads["target"]["success"]["share"], found.heads["target"]["precision"]
    assert success[0] == pytest.approx(2 / 4)  # boxes of 16 pixels: 16 further away they only touch
    assert success == sorted(success, reverse=True)
    assert found.scores["target.success_auc"] == pytest.approx(np.mean(success))
    within = dict(zip(precision["threshold_px"], precision["share"], strict=True))
    assert within[0] == pytest.approx(1 / 4)
    assert within[max(within)] == pytest.approx(2 / 4)


def test_early_prediction_asks_a_per_clip_head_for_the_clips_label() -> None:
    truth = labels(*[UNKNOWN] * 9, 1)
    logits = np.array([-5] * 6 + [5] * 4, np.float32)[:, None]

    found = evaluate(scripted({"gesture_logits": logits}), [clip(0, 10, gesture=truth)], (GESTURE,))

    early = found.heads["gesture"]["early"]
    assert early["fraction"] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert early["accuracy"] == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]
    assert found.scores["gesture.accuracy"] == 1


def test_the_worst_clips_come_with_their_truth_and_answers() -> None:
    clips = [clip(index, 3, digit=labels(0, 0, 0)) for index in range(WORST + 2)]
    outputs: list[Outputs] = [{"digit_logits": sure(0, 0, 0)} for _ in clips]
    outputs[2] = {"digit_logits": sure(1, 1, 0)}
    outputs[1] = {"digit_logits": sure(1, 0, 0)}

    found = evaluate(scripted(*outputs), clips, (DIGIT,))

    worst = found.heads["digit"]["worst"]
    assert [row["clip"] for row in worst[:2]] == [2, 1]
    assert len(worst) == len(found.film) == WORST
    film = found.film["2"]
    assert (film["name"], film["frames"]) == ("clip 2", [0, 1, 2])
    assert film["heads"]["digit"]["truth"] == ["a", "a", "a"]
    assert film["heads"]["digit"]["answer"] == ["b", "b", "a"]


def test_regression_keeps_pairs_of_true_and_predicted() -> None:
    truth = np.array([[1.0], [np.nan], [3.0]], np.float32)
    values = np.array([[2.0], [9.0], [3.0]], np.float32)

    found = evaluate(scripted({"pose_values": values}), [clip(0, 3, pose=truth)], (POSE,))

    (value,) = found.heads["pose"]["values"]
    assert value == {"label": "x", "count": 2, "bias": 0.5, "points": [[1.0, 2.0], [3.0, 3.0]]}
    assert found.heads["pose"]["worst"] == [{"clip": 0, "loss": pytest.approx(0.25)}]


def test_clips_of_different_length_are_scored_together() -> None:
    clips = [clip(0, 1, digit=labels(0)), clip(1, 5, digit=labels(1, 1, 1, 1, 1))]

    found = evaluate(scripted({"digit_logits": sure(0)}, {"digit_logits": sure(1, 1, 1, 0, 0)}), clips, (DIGIT,))

    assert found.scores["digit.accuracy"] == pytest.approx(4 / 6)


def test_the_document_is_json_without_nan_even_for_a_single_image() -> None:
    heads = (DIGIT, POSE, TARGET)
    frame = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    truth = {"digit": labels(1), "pose": np.full((1, 1), np.nan, np.float32), **targets(1)}
    truth["target_box"] = np.full((1, 4), np.nan, np.float32)
    outputs = {"digit_logits": sure(1), "pose_values": np.zeros((1, 1), np.float32), **tracked([0])}

    found = evaluate(scripted(outputs), [Clip(frame, truth)], heads)

    document = json.loads(json.dumps(found.document(), allow_nan=False))
    assert document["scores"] == found.scores
    assert document["heads"]["digit"]["early"] is None
    assert document["heads"]["digit"]["roc"] is None
    assert document["heads"]["target"]["worst"] == []


@pytest.mark.parametrize("layers", [0, 1])
def test_a_network_answers_frame_by_frame_from_an_empty_memory(layers: int) -> None:
    torch.manual_seed(0)
    model = CnnLstm(preset_config("nano", (DIGIT, POSE, TARGET), layers=layers)).eval()
    frames = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    answer = torch_answer(model)

    first, again = answer(frames), answer(frames)

    assert {name: values.shape for name, values in first.items()} == {
        "digit_logits": (4, 3),
        "pose_values": (4, 1),
        "target_box": (4, 4),
        "target_presence": (4, 1),
    }
    state = model.initial_state()
    for time, frame in enumerate(frames):
        with torch.inference_mode():
            outputs, state = model.step(torch.from_numpy(frame)[None], state)
        np.testing.assert_allclose(first["digit_logits"][time], outputs["digit_logits"][0], atol=1e-4)
    np.testing.assert_array_equal(first["target_box"], again["target_box"])


def test_no_clip_is_refused() -> None:
    with pytest.raises(DataError, match="no clip"):
        evaluate(scripted(), [], (DIGIT,))


def test_clips_about_which_nothing_is_known_are_refused() -> None:
    with pytest.raises(DataError, match="nothing is known about 1 clips"):
        evaluate(scripted({"digit_logits": sure(0, 0)}), [clip(0, 2, digit=labels(UNKNOWN, UNKNOWN))], (DIGIT,))


def test_clips_that_do_not_tell_what_is_asked_are_refused() -> None:
    with pytest.raises(DataError, match="says nothing of 'target_box'"):
        evaluate(scripted(tracked([0])), [clip(0, 1, digit=labels(0))], (TARGET,))


def test_a_network_that_answers_nan_is_refused_with_the_clip() -> None:
    with pytest.raises(DataError, match="'digit_logits' holds NaN or infinity on clip 'clip 0'"):
        evaluate(scripted({"digit_logits": sure(0) * np.nan}), [clip(0, 1, digit=labels(0))], (DIGIT,))


class FewClips:
    """A set of one clip, with labels in an order of its own."""

    heads = (HeadConfig(name="digit", task="classify", labels=("b", "a", "c")),)

    def __len__(self) -> int:
        return 1

    def clip(self, index: int, *, epoch: int = 0, frames: int | None = None) -> Clip:
        return clip(index, 1, digit=labels(0))


def test_clips_with_other_labels_are_refused() -> None:
    with pytest.raises(DataError, match=r"the network answers 'digit' \(classify: a, b, c\); the clips tell 'digit' "):
        evaluate(scripted({"digit_logits": sure(0)}), FewClips(), (DIGIT,))
