from __future__ import annotations

import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.runtime.backends.ort import OnnxRuntimeBackend
from edge_cnnlstm.runtime.frame import Frame, Placement
from edge_cnnlstm.runtime.latency import Timings
from edge_cnnlstm.runtime.prediction import Answer, Box, Classification, Prediction, Regression, Track, decoders
from edge_cnnlstm.runtime.sinks.json_lines import JsonLines
from edge_cnnlstm.runtime.stream import Stream
from edge_cnnlstm.spec import HeadSpec, ModelSpec, TensorSpec
from tests.conftest import tiny_frames

FRAME = Frame(np.zeros((8, 8, 3), np.uint8), 0, 0)
BOX = Box(1, 2, 3, 4)
TIMINGS = Timings(1, 2, 3, 4, 10)


def prediction(**answers: Answer) -> Prediction:
    return Prediction(0, 0, True, answers, TIMINGS)


def classify(spec: ModelSpec, logits: list[float]) -> Classification:
    answer = decoders(spec, finite=False)["digit"]({"digit_logits": np.array([logits], np.float32)}, Placement(), 0)
    assert isinstance(answer, Classification)
    return answer


def track(spec: ModelSpec, box: list[float], presence: float, placement: Placement | None = None) -> Track:
    outputs = {"target_box": np.array([box], np.float32), "target_presence": np.array([[presence]], np.float32)}
    answer = decoders(spec)["target"](outputs, placement or Placement(), 0)
    assert isinstance(answer, Track)
    return answer


@pytest.mark.parametrize("logits", [[0, 0, 0], [1, 2, 3], [-4, 0.5, -1], [3, 3, 1]])
def test_scores_are_the_softmax_of_the_logits(tiny_spec: ModelSpec, logits: list[float]) -> None:
    answer = classify(tiny_spec, logits)
    expected = [math.exp(logit) / sum(map(math.exp, logits)) for logit in logits]
    np.testing.assert_allclose(answer.scores, expected, rtol=1e-6)
    assert answer.scores.dtype == np.float32
    assert answer.label == ("zero", "one", "two")[expected.index(max(expected))]
    assert answer.score == answer.scores.max()


@pytest.mark.parametrize(
    ("logits", "label"),
    [
        ([1000, 0, -1000], "zero"),
        ([-1e30, 1e30, 0], "one"),
        ([1e38, 1e38, -1e38], "zero"),
        ([-500, -499, -498], "two"),
        ([-math.inf, -math.inf, 0], "two"),
    ],
)
def test_large_logits_stay_probabilities(tiny_spec: ModelSpec, logits: list[float], label: str) -> None:
    answer = classify(tiny_spec, logits)
    assert np.isfinite(answer.scores).all()
    assert answer.scores.sum() == pytest.approx(1)
    assert answer.label == label


@pytest.mark.parametrize("logit", [0.0, 2.0, -2.0, 30.0, -30.0, 1000.0, -80.0])
def test_presence_is_the_sigmoid_of_its_logit(tiny_spec: ModelSpec, logit: float) -> None:
    expected = 1 / (1 + math.exp(-logit))
    assert track(tiny_spec, [0.5, 0.5, 1, 1], logit).presence == pytest.approx(expected, rel=1e-6, abs=1e-30)


@pytest.mark.parametrize("logit", [-89.0, -1000.0])
def test_a_target_that_is_surely_hidden_raises_no_warning(tiny_spec: ModelSpec, logit: float) -> None:
    assert track(tiny_spec, [0.5, 0.5, 1, 1], logit).presence == pytest.approx(0, abs=1e-30)


@pytest.mark.parametrize(
    ("box", "placement", "expected"),
    [
        ([0.5, 0.5, 1, 1], Placement(), (0, 0, 8, 8)),
        ([0.25, 0.75, 0.25, 0.5], Placement(), (1, 4, 2, 4)),
        ([0.5, 0.5, 1, 1], Placement(0.5, 0.25), (0, 0, 16, 32)),
        ([0.5, 0.5, 1, 0.5], Placement(0.1, 0.1, 0, 2), (0, 0, 80, 40)),
        ([0.5, 0.5, 1, 1], Placement(0.1, 0.1, -2, 0), (20, 0, 80, 80)),
        ([0, 0, 0.5, 0.5], Placement(), (-2, -2, 4, 4)),
    ],
)
def test_a_box_comes_back_in_source_pixels(
    tiny_spec: ModelSpec, box: list[float], placement: Placement, expected: tuple[float, float, float, float]
) -> None:
    found = track(tiny_spec, box, 0, placement).box
    assert (found.x, found.y, found.width, found.height) == pytest.approx(expected)


def test_the_shortcuts_answer_for_the_first_head_of_their_task() -> None:
    first = Classification("cat", 0.5, (0.0, 0.0))
    second = Classification("dog", 1.0, (0.0, 99.0))
    both = prediction(target=Track(BOX, 0.25), animal=first, other=second)
    assert both.classification is first
    assert both.label == "cat"
    np.testing.assert_array_equal(both.scores, first.scores)
    assert both.box == BOX
    assert both.track.presence == 0.25


@pytest.mark.parametrize("name", ["label", "scores", "classification"])
def test_asking_a_tracker_for_a_class_says_what_is_there(name: str) -> None:
    with pytest.raises(ConfigError, match=r"heads \['target'\]\n  expected: a head with the task 'classify'"):
        getattr(prediction(target=Track(BOX, 1)), name)


@pytest.mark.parametrize("name", ["box", "track"])
def test_asking_a_classifier_for_a_box_says_what_is_there(name: str) -> None:
    answer = Classification("cat", 1.0, (1.0,))
    with pytest.raises(ConfigError, match=r"heads \['animal'\]\n  expected: a head with the task 'track'"):
        getattr(prediction(animal=answer), name)


def test_answers_are_the_callers(tiny_onnx: bytes, tiny_spec: ModelSpec) -> None:
    stream = Stream(OnnxRuntimeBackend(tiny_onnx, tiny_spec))
    frames = tiny_frames(20, seed=1)
    first = stream.step(frames[0])
    scores, label, box, presence = first.scores.copy(), first.label, first.box, first.track.presence
    for pixels in frames[1:]:
        stream.step(pixels)
    np.testing.assert_array_equal(first.scores, scores)
    assert (first.label, first.box, first.track.presence) == (label, box, presence)
    stream.reset()
    first.scores.fill(0)
    again = stream.step(frames[0])
    np.testing.assert_array_equal(again.scores, scores)


def test_predictions_can_be_compared() -> None:
    def answer() -> Classification:
        return Classification("cat", 0.5, (0.0, 0.0))

    assert prediction(animal=answer()) == prediction(animal=answer())


def test_a_line_of_json_holds_the_whole_prediction() -> None:
    file = io.StringIO()
    sink = JsonLines(file)
    logits = (math.log(0.75), math.log(0.25))
    sink.write(FRAME, prediction(animal=Classification("cat", 0.75, logits), target=Track(BOX, 1)))
    sink.write(FRAME, prediction(target=Track(BOX, 0)))
    first, second = map(json.loads, file.getvalue().splitlines())
    assert first["animal"] == {"label": "cat", "score": 0.75, "scores": [0.75, 0.25]}
    assert first["target"] == {"box": [1, 2, 3, 4], "presence": 1}
    assert first["ms"] == {"wait": 0.0, "fit": 0.0, "infer": 0.0, "decode": 0.0, "age": 0.0}
    assert (first["frame"], first["captured_ns"], first["first_after_reset"]) == (0, 0, True)
    assert "animal" not in second


@pytest.mark.parametrize("name", ["frame", "ms", "captured_ns"])
def test_no_head_can_hide_a_field_of_the_record(name: str) -> None:
    file = io.StringIO()
    JsonLines(file).write(FRAME, prediction(**{name: Track(BOX, 1)}))
    assert not isinstance(json.loads(file.getvalue())[name], dict) or name == "ms"
    assert "age" in json.loads(file.getvalue())["ms"]


def spec_with(tiny_spec: ModelSpec, head: HeadSpec, width: int) -> ModelSpec:
    return replace(tiny_spec, outputs=(TensorSpec(head.outputs[0], (1, width), "float32"),), heads=(head,))


@pytest.mark.parametrize(("logit", "label"), [(-1000.0, "closed"), (-0.1, "closed"), (0.1, "open"), (1000.0, "open")])
def test_two_labels_may_be_one_logit(tiny_spec: ModelSpec, logit: float, label: str) -> None:
    head = HeadSpec("door", "classify", ("door_logits",), ("closed", "open"))
    spec = spec_with(tiny_spec, head, 1)

    answer = decoders(spec)["door"]({"door_logits": np.array([[logit]], np.float32)}, Placement(), 0)

    assert isinstance(answer, Classification)
    assert answer.label == label
    assert answer.scores.sum() == pytest.approx(1)
    assert answer.scores[1] == pytest.approx(1 / (1 + math.exp(-max(min(logit, 700), -700))))


def test_two_labels_may_be_two_logits(tiny_spec: ModelSpec) -> None:
    head = HeadSpec("door", "classify", ("door_logits",), ("closed", "open"))
    spec = spec_with(tiny_spec, head, 2)

    answer = decoders(spec)["door"]({"door_logits": np.array([[3, 1]], np.float32)}, Placement(), 0)

    assert isinstance(answer, Classification)
    assert answer.label == "closed"


def test_values_come_by_their_names(tiny_spec: ModelSpec) -> None:
    head = HeadSpec("angle", "regress", ("angle_values",), ("pan", "tilt"))
    spec = spec_with(tiny_spec, head, 2)

    answer = decoders(spec)["angle"]({"angle_values": np.array([[12.5, -3]], np.float32)}, Placement(), 0)

    assert answer == Regression({"pan": 12.5, "tilt": -3})
    made = prediction(angle=answer)
    assert made.values == {"pan": 12.5, "tilt": -3}
    file = io.StringIO()
    JsonLines(file).write(FRAME, made)
    assert json.loads(file.getvalue())["angle"] == {"values": {"pan": 12.5, "tilt": -3}}
    with pytest.raises(ConfigError, match="regress"):
        _ = prediction(door=Classification("open", 1, (1.0,))).values
