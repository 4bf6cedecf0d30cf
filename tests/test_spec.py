from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge_cnnlstm.errors import BundleError, ConfigError, EdgeError
from edge_cnnlstm.runtime.backends.base import Arrays
from edge_cnnlstm.runtime.backends.scripted import ScriptedBackend
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.runtime.stream import Stream
from edge_cnnlstm.spec import HeadSpec, ModelSpec, StatePair, TensorSpec


@pytest.mark.parametrize(
    ("name", "shape"), [("", (1, 2)), ("x", ()), ("x", (1, 0)), ("x", (1, -1, 3)), ("x", (0,))], ids=str
)
def test_a_tensor_has_a_name_and_fixed_dimensions(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="static shapes"):
        TensorSpec(name, shape, "float32")


@pytest.mark.parametrize(
    ("names", "shape"),
    [(("", "h_next"), (1, 1, 4)), (("h", ""), (1, 1, 4)), (("h", "h_next"), ()), (("h", "h_next"), (1, -1, 4))],
    ids=str,
)
def test_a_state_pair_has_names_and_fixed_dimensions(names: tuple[str, str], shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError):
        StatePair(*names, shape)


def test_zeros_are_new_and_of_the_declared_kind() -> None:
    for spec in (TensorSpec("x", (1, 2, 3), "uint8"), StatePair("h", "h_next", (2, 1, 4))):
        first, second = spec.zeros(), spec.zeros()
        assert (first.shape, first.dtype) == (spec.shape, np.dtype(spec.dtype))
        first += 1  # type: ignore[misc]
        assert not second.any()


@pytest.mark.parametrize(
    "change",
    [
        {"frame": TensorSpec("h", (1, 8, 8, 3), "uint8")},
        {"states": (StatePair("h", "h", (1, 1, 4)),)},
        {"states": (StatePair("h", "x", (1, 1, 4)), StatePair("c", "x", (1, 1, 4)))},
        {"states": (StatePair("h", "digit_logits", (1, 1, 4)),)},
        {"states": (StatePair("frame", "h_next", (1, 1, 4)),)},
    ],
    ids=["frame and state", "in and out", "two outputs", "state and output", "state and frame"],
)
def test_a_name_is_given_once(tiny_spec: ModelSpec, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="every name once"):
        replace(tiny_spec, **change)


@pytest.mark.parametrize(
    "frame",
    [
        TensorSpec("frame", (1, 8, 8, 3), "float32"),
        TensorSpec("frame", (8, 8, 3), "uint8"),
        TensorSpec("frame", (1, 3, 8, 8), "uint8"),
        TensorSpec("frame", (1, 8, 8, 1), "uint8"),
        TensorSpec("frame", (1, 1, 8, 8, 3), "uint8"),
    ],
    ids=lambda frame: f"{frame.dtype}{frame.shape}",
)
def test_a_frame_is_a_raw_rgb_image(tiny_spec: ModelSpec, frame: TensorSpec) -> None:
    with pytest.raises(ConfigError, match=r"uint8 \[batch, height, width, 3\]"):
        replace(tiny_spec, frame=frame)


@pytest.mark.parametrize("labels", [(), ("zero", "one"), ("zero", "one", "two", "three")], ids=len)
def test_a_classifier_has_one_label_per_score(tiny_spec: ModelSpec, labels: tuple[str, ...]) -> None:
    head = HeadSpec("digit", "classify", ("digit_logits",), labels)
    with pytest.raises(ConfigError, match=rf"head 'digit' \(classify, {len(labels)} labels\) .* \(3,\)"):
        replace(tiny_spec, heads=(head,))


@pytest.mark.parametrize(
    "outputs",
    [
        (),
        ("target_box",),
        ("target_presence", "target_box"),
        ("target_box", "digit_logits"),
        ("target_box", "target_presence", "target_presence"),
    ],
    ids=str,
)
def test_a_tracker_reads_a_box_and_a_presence(tiny_spec: ModelSpec, outputs: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"expected: widths \(4, 1\)"):
        replace(tiny_spec, heads=(HeadSpec("target", "track", outputs),))


@pytest.mark.parametrize("outputs", [(), ("digit_logits", "digit_logits")], ids=len)
def test_a_classifier_reads_one_output(tiny_spec: ModelSpec, outputs: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="widths"):
        replace(tiny_spec, heads=(HeadSpec("digit", "classify", outputs, ("zero", "one", "two")),))


def test_a_head_reads_outputs_that_exist(tiny_spec: ModelSpec) -> None:
    with pytest.raises(ConfigError, match=r"no output 'elsewhere' among \['digit_logits'"):
        replace(tiny_spec, heads=(HeadSpec("digit", "classify", ("elsewhere",), ("a", "b", "c")),))


def test_a_head_cannot_read_the_memory(tiny_spec: ModelSpec) -> None:
    with pytest.raises(ConfigError, match="no output 'h_next'"):
        replace(tiny_spec, heads=(HeadSpec("digit", "classify", ("h_next",), ("a", "b", "c", "d")),))


@pytest.mark.parametrize(
    "output",
    [
        TensorSpec("digit_logits", (3,), "float32"),
        TensorSpec("digit_logits", (1, 3, 7), "float32"),
        TensorSpec("digit_logits", (1, 3), "uint8"),
        TensorSpec("digit_logits", (2, 3), "float32"),
    ],
    ids=lambda output: f"{output.dtype}{output.shape}",
)
def test_a_head_reads_a_row_of_float_scores(tiny_spec: ModelSpec, output: TensorSpec) -> None:
    with pytest.raises(ConfigError):
        replace(tiny_spec, outputs=(output, *tiny_spec.outputs[1:]))


def test_heads_have_names_of_their_own(tiny_spec: ModelSpec) -> None:
    with pytest.raises(ConfigError):
        replace(tiny_spec, heads=(tiny_spec.heads[0], replace(tiny_spec.heads[1], name="digit")))


def test_a_stream_is_fed_one_frame_at_a_time(tiny_spec: ModelSpec) -> None:
    def batched(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
        return (*shape[:axis], 2, *shape[axis + 1 :])

    spec = replace(
        tiny_spec,
        frame=replace(tiny_spec.frame, shape=batched(tiny_spec.frame.shape, 0)),
        states=tuple(replace(pair, shape=batched(pair.shape, 1)) for pair in tiny_spec.states),
        outputs=tuple(replace(output, shape=batched(output.shape, 0)) for output in tiny_spec.outputs),
    )

    def script(pixels: Pixels, state: Arrays) -> tuple[Arrays, Arrays]:
        return {output.name: output.zeros() for output in spec.outputs}, state

    with pytest.raises(ConfigError):
        Stream(ScriptedBackend(spec, script))


def test_size_and_outputs_are_found_by_name(tiny_spec: ModelSpec) -> None:
    wide = replace(tiny_spec, frame=TensorSpec("frame", (1, 48, 96, 3), "uint8"))
    assert (wide.height, wide.width) == (48, 96)
    assert tiny_spec.output("target_box") is tiny_spec.outputs[1]
    with pytest.raises(ConfigError, match="no output 'h_next'"):
        tiny_spec.output("h_next")


def test_a_model_without_memory_or_heads_is_a_model(tiny_spec: ModelSpec) -> None:
    assert replace(tiny_spec, states=(), heads=()).outputs == tiny_spec.outputs


def test_an_error_says_what_was_found_what_was_expected_and_what_to_do() -> None:
    error = BundleError("a cat", expected="a dog", fix="feed it")
    assert str(error) == "a cat\n  expected: a dog\n  to fix:   feed it"
    assert (error.found, error.expected, error.fix) == ("a cat", "a dog", "feed it")
    assert isinstance(error, EdgeError)


@pytest.mark.parametrize("way", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))], ids=["copy", "pickle"])  # noqa: S301
def test_an_error_survives_the_way_out_of_a_worker_process(way: Any) -> None:
    error = way(BundleError("a cat", expected="a dog", fix="feed it"))
    assert (type(error), error.found, error.expected, error.fix) == (BundleError, "a cat", "a dog", "feed it")
