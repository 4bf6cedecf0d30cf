"""Holds what is counted as agreement and as growth of drift, and that every graph sees the stream that is promised."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from benchmarks import record
from benchmarks.__main__ import app
from benchmarks.agreement import command, course
from benchmarks.agreement.course import Course
from benchmarks.agreement.frames import LEAST, REPEATED, digits, stream
from benchmarks.goals import Figure
from edge_cnnlstm.bundle.manifest import Graph
from edge_cnnlstm.errors import BackendError, BundleError, ConfigError, DataError, SourceError
from edge_cnnlstm.runtime.backends.base import Arrays
from edge_cnnlstm.runtime.backends.scripted import ScriptedBackend
from edge_cnnlstm.runtime.fit import Fit
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.spec import FitMode, HeadSpec, ModelSpec, StatePair, TensorSpec
from edge_cnnlstm.training.data.occluded_digits import Scene, held_out_clip
from tests.benchmarks.conftest import GRAPHS, SPEC, step_graph

Make = Callable[..., Path]
Values = NDArray[np.float32]

WIDTH, HEIGHT = 20, 10
EVERY_TASK = ModelSpec(
    frame=TensorSpec("frame", (1, HEIGHT, WIDTH, 3), "uint8"),
    fit="stretch",
    states=(StatePair("c", "c_next", (1, 1, 1)),),
    outputs=(
        TensorSpec("digit", (1, 3), "float32"),
        TensorSpec("odd", (1, 1), "float32"),
        TensorSpec("box", (1, 4), "float32"),
        TensorSpec("presence", (1, 1), "float32"),
        TensorSpec("velocity", (1, 2), "float32"),
    ),
    heads=(
        HeadSpec("digit", "classify", ("digit",), ("zero", "one", "two")),
        HeadSpec("odd", "classify", ("odd",), ("even", "odd")),
        HeadSpec("target", "track", ("box", "presence")),
        HeadSpec("velocity", "regress", ("velocity",), ("x", "y")),
    ),
)
TEN = 10
SHARES = ("digit", "odd", "presence")


# ---- answers


def answering(**changes: Values) -> Course:
    """Ten frames of the same answers, but for what is changed."""
    plain: dict[str, list[float]] = {
        "digit": [0, 5, 1],
        "odd": [-1],
        "box": [0.5] * 4,
        "presence": [2],
        "velocity": [2, -2],
    }
    return Course({name: np.tile(np.array(row, np.float32), (TEN, 1)) for name, row in plain.items()} | changes, {})


def answered(found: Course, reference: Course) -> dict[str, Figure]:
    return {figure.name: figure for figure in course.answers(EVERY_TASK, "int8", found, reference)}


def test_equal_answers_agree_in_every_head() -> None:
    figures = answered(answering(), answering())

    assert {name: figure.value for name, figure in figures.items()} == {
        "int8: top-1 agreement of digit": 1,
        "int8: top-1 agreement of odd": 1,
        "int8: box of target, mean difference in pixels": 0,
        "int8: agreement on target in sight": 1,
        "int8: velocity, mean difference over mean value": 0,
    }
    assert all(figure.samples == TEN for figure in figures.values())


@pytest.mark.parametrize(
    ("output", "other", "name"),
    [
        ("digit", [9, 5, 1], "int8: top-1 agreement of digit"),
        ("digit", [0, 5, 6], "int8: top-1 agreement of digit"),
        ("odd", [0.5], "int8: top-1 agreement of odd"),
        ("presence", [-0.5], "int8: agreement on target in sight"),
    ],
)
def test_agreement_is_the_share_of_frames_with_the_same_decision(output: str, other: list[float], name: str) -> None:
    changed = answering().outputs[output].copy()
    changed[:3] = other

    figures = answered(answering(**{output: changed}), answering())

    assert figures.pop(name).value == pytest.approx(0.7)
    shares = [figure.value for key, figure in figures.items() if "agreement" in key]
    assert shares == [1] * (len(SHARES) - 1)


def test_logits_that_differ_without_another_decision_agree() -> None:
    reference = answering()
    found = answering(**{name: reference.outputs[name] * np.float32(1.3) for name in SHARES})

    assert all(figure.value == 1 for name, figure in answered(found, reference).items() if "agreement" in name)


def test_agreement_is_held_against_its_goal_over_the_whole_and_ranges_over_tenths() -> None:
    changed = answering().outputs["digit"].copy()
    changed[4] = [9, 5, 1]

    figures = answered(answering(digit=changed), answering())

    digit, odd = figures["int8: top-1 agreement of digit"], figures["int8: top-1 agreement of odd"]
    assert (digit.low, digit.high, digit.goal, digit.met) == (0, 1, 0.995, False)
    assert odd.met
    assert figures["int8: agreement on target in sight"].met is None


@pytest.mark.parametrize(("side", "pixels"), [(0, WIDTH), (1, HEIGHT), (2, WIDTH), (3, HEIGHT)])
def test_a_box_is_apart_in_pixels_of_its_own_axis(side: int, pixels: int) -> None:
    moved = answering().outputs["box"].copy()
    moved[:, side] += 0.25

    figures = answered(answering(box=moved), answering())

    assert figures["int8: box of target, mean difference in pixels"].value == pytest.approx(0.25 * pixels / 4)


def test_values_are_apart_relative_to_the_size_of_the_reference() -> None:
    figures = answered(answering(velocity=answering().outputs["velocity"] + np.float32(0.5)), answering())

    assert figures["int8: velocity, mean difference over mean value"].value == pytest.approx(0.25)


# ---- drift


def remembering(drift: NDArray[np.floating], size: NDArray[np.floating] | float = 0.0) -> tuple[Course, Course]:
    """A memory that is `size` in the reference, and as far from it as `drift` says."""
    reference = np.broadcast_to(size, drift.shape)
    return memory_of(reference + drift), memory_of(reference)


def memory_of(values: NDArray[np.floating]) -> Course:
    return Course({}, {"c": np.stack([values, values], axis=1).astype(np.float32)})


def grown(found: Course, reference: Course) -> tuple[Figure, Figure, Figure]:
    """Absolute, second half over first, relative."""
    absolute, halves, relative = course.growth("int8", found, reference)
    return absolute, halves, relative


def test_drift_that_stays_has_not_grown() -> None:
    figures = grown(*remembering(np.full(1000, 0.25)))

    assert [figure.name for figure in figures] == [
        "int8: drift of c, frame 1,000 / frame 100",
        "int8: drift of c, second half / first half",
        "int8: drift of c relative to its size, frame 1,000 / frame 100",
    ]
    assert [figure.value for figure in figures] == [1, 1, 1]
    assert (figures[0].low, figures[0].high) == (1, 1)
    assert [figure.met for figure in figures] == [True, None, None]


def test_drift_that_grows_is_compared_with_frame_100() -> None:
    absolute, halves, _ = grown(*remembering(np.arange(1, 1001) / 1024))

    assert absolute.value == pytest.approx(950.5 / 100.5)
    assert absolute.low == pytest.approx(250.5 / 100.5)
    assert absolute.high == absolute.value
    assert absolute.met is False
    assert halves.value == pytest.approx(750.5 / 250.5)


def test_drift_that_grows_only_as_the_memory_does_has_not_grown_relative_to_it() -> None:
    size = np.arange(1, 1001) * 1024.0

    absolute, _, relative = grown(*remembering(size / 8, size))

    assert absolute.value > 9
    assert relative.value == pytest.approx(1, rel=1e-3)


def test_a_moment_of_drift_shows_in_the_range() -> None:
    drift = np.full(1000, 0.25)
    drift[500:600] = 0.75

    absolute, _, _ = grown(*remembering(drift))

    assert (absolute.low, absolute.value, absolute.high) == (1, 1, 3)


def test_drift_below_what_fp32_resolves_counts_as_none() -> None:
    drift = np.zeros(1000)
    drift[-100:] = 1e-9

    assert [figure.value for figure in grown(*remembering(drift))] == [1, 1, 1]


def test_the_shortest_stream_has_a_growth() -> None:
    assert [figure.value for figure in grown(*remembering(np.full(LEAST, 0.5)))] == [1, 1, 1]


def test_a_network_without_memory_has_no_drift() -> None:
    nothing = answering()

    assert course.growth("int8", nothing, nothing) == []
    assert course.unrelated(nothing) == {}


def test_windows_are_means_of_hundreds_that_end_with_the_stream() -> None:
    assert course.windows(np.arange(250.0)) == [99.5, 199.5]
    assert course.windows(np.arange(99.0)) == []


def test_a_curve_covers_every_frame_once_in_steps_of_one_ratio() -> None:
    drift = np.random.default_rng(0).random(5000)

    points = course.curve(drift, 30)

    ends = [end for end, _ in points]
    lengths = np.diff([0, *ends])
    assert (ends[0], ends[-1]) == (1, 5000)
    assert (lengths > 0).all()
    assert sum(mean * length for (_, mean), length in zip(points, lengths, strict=True)) == pytest.approx(drift.sum())
    assert np.divide(ends[-10:], ends[-11:-1]) == pytest.approx(5000 ** (1 / 29), rel=0.01)


@pytest.mark.parametrize("frames", [600, 601])
def test_unrelated_moments_are_half_a_stream_apart(frames: int) -> None:
    ramp = np.arange(frames, dtype=np.float32)[:, None]

    assert course.unrelated(Course({}, {"c": ramp, "h": 0 * ramp})) == {"c": 300, "h": 0}


def test_sizes_are_those_of_the_reference() -> None:
    values = np.array([[1, -3], [0, 0]], np.float32)

    assert course.sizes(Course({}, {"c": values}))["c"].tolist() == [2, 0]


# ---- record


def counting(spoil: dict[int, str] | None = None) -> ScriptedBackend:
    """Counts frames in its memory; at the frames of `spoil` the tensor named there is not a number."""

    def script(pixels: Pixels, state: Arrays) -> tuple[Arrays, Arrays]:
        count = np.asarray(state["c"] + 1, np.float32)
        values = {output.name: np.full(output.shape, count.item(), np.float32) for output in EVERY_TASK.outputs}
        values["c"] = count
        spoilt = (spoil or {}).get(int(count.item()))
        if spoilt is not None:
            values[spoilt] = values[spoilt] * np.float32(np.nan)
        return values, {"c": values["c"]}

    return ScriptedBackend(EVERY_TASK, script)


def blank(count: int) -> list[Pixels]:
    return [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * count


def test_every_backend_is_recorded_over_every_frame_with_a_memory_of_its_own() -> None:
    frames: list[int] = []

    found = course.record({"a": counting(), "b": counting()}, blank(5), lambda: frames.append(1))

    assert len(frames) == 5
    for name in ("a", "b"):
        assert found[name].states["c"].tolist() == [[1], [2], [3], [4], [5]]
        assert found[name].outputs["velocity"].tolist() == [[number] * 2 for number in range(1, 6)]


@pytest.mark.parametrize("tensor", ["presence", "c"])
def test_what_is_not_a_number_is_named_by_graph_tensor_and_frame(tensor: str) -> None:
    backends = {"fp32": counting(), "int8": counting({3: tensor})}

    with pytest.raises(BackendError, match=rf"graph 'int8' has NaN or infinity in '{tensor}' at frame 3"):
        course.record(backends, blank(5), lambda: None)


# ---- frames


@pytest.fixture
def images(tmp_path: Path) -> Callable[[int], str]:
    """Return a function that makes a folder of so many images, no two alike."""

    def make(count: int) -> str:
        folder = tmp_path / "images"
        folder.mkdir()
        for number, image in enumerate(np.random.default_rng(1).integers(0, 256, (count, 12, 12, 3), np.uint8)):
            cv2.imwrite(str(folder / f"{number:04}.png"), image)
        return str(folder)

    return make


@pytest.mark.parametrize("frames", [LEAST, LEAST + 20])
def test_the_stream_ends_with_the_frames_that_began_it(frames: int) -> None:
    seen = list(stream(SPEC, frames, None, seed=0))

    assert len(seen) == frames
    assert np.array_equal(seen[-REPEATED:], seen[:REPEATED])
    assert len({pixels.tobytes() for pixels in seen}) == frames - REPEATED


def test_a_source_that_ends_early_is_repeated_too(images: Callable[[int], str]) -> None:
    seen = list(stream(SPEC, 1000, images(160), seed=0))

    assert len(seen) == 160 + REPEATED
    assert np.array_equal(seen[-REPEATED:], seen[:REPEATED])


def test_the_end_repeats_what_was_seen_whatever_became_of_it(images: Callable[[int], str]) -> None:
    seen = []
    for pixels in stream(SPEC, LEAST, images(REPEATED), seed=0):
        seen.append(pixels.copy())
        pixels.fill(0)

    assert seen[0].any()
    assert np.array_equal(seen[-REPEATED:], seen[:REPEATED])


def test_a_source_that_is_too_short_is_refused(images: Callable[[int], str]) -> None:
    with pytest.raises(DataError, match=r"(?s)images has 149 frames.*at least 150"):
        list(stream(SPEC, 1000, images(149), seed=0))


def test_a_source_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        next(stream(SPEC, LEAST, str(tmp_path / "absent.mp4"), seed=0))


@pytest.mark.parametrize("fit", ["stretch", "crop"])
def test_digits_are_held_out_clips_fitted_as_the_model_was_trained(fit: FitMode) -> None:
    spec = ModelSpec(
        TensorSpec("frame", (1, 24, 16, 3), "uint8"), fit, (), EVERY_TASK.outputs[:1], EVERY_TASK.heads[:1]
    )
    scene = Scene(frames=48, height=240, width=320)

    seen = list(islice(digits(spec, seed=3), 50))

    clips = [*held_out_clip(0, scene, seed=3).frames, *held_out_clip(1, scene, seed=3).frames[:2]]
    assert np.array_equal(seen, [Fit.of(spec).apply(image)[0] for image in clips])
    assert seen[0].shape == (24, 16, 3)


def test_another_seed_draws_other_digits() -> None:
    assert not np.array_equal(next(digits(SPEC, seed=0)), next(digits(SPEC, seed=1)))


# ---- command


GRAPHS_AND_A_BROKEN_ONE = (*GRAPHS, Graph("odd", "graphs/odd.onnx", "portable", "fp16", tolerance=1e-4))


def test_a_run_keeps_everything_and_draws_drift(
    make_bundle: Make, images: Callable[[int], str], tmp_path: Path
) -> None:
    graphs = {"int8": step_graph(fade=0.45), "odd": b"not a graph"}
    bundle, folder = make_bundle(graphs, described=GRAPHS_AND_A_BROKEN_ONE), images(160)
    destination, picture = tmp_path / "out" / "agreement.json", tmp_path / "out" / "drift.png"
    options = ["--frames", str(LEAST), "--source", folder, "-o", str(destination), "--picture", str(picture)]

    done = CliRunner().invoke(app, ["agreement", str(bundle), *options], catch_exceptions=False)

    assert done.exit_code == 0
    report = json.loads(destination.read_text())
    assert report["schema_version"] == 2
    assert report["command"] == f"python -m benchmarks agreement tiny.edge --frames {LEAST} --source images"
    assert report["command"] in done.stdout
    assert str(tmp_path) not in destination.read_text()
    assert report["frames"] == LEAST
    assert list(report["skipped"]) == ["odd"]
    assert "refused" in report["skipped"]["odd"]
    assert "missing odd: " in done.stderr
    assert [ratio["name"] for ratio in report["ratios"]] == [
        "int8: top-1 agreement of digit",
        *(
            f"int8: drift of {state}{what}"
            for state in ("h", "c")
            for what in (
                f", frame {LEAST} / frame 100",
                ", second half / first half",
                f" relative to its size, frame {LEAST} / frame 100",
            )
        ),
    ]
    assert all(set(ratio) >= {"value", "low", "high", "samples", "goal", "met"} for ratio in report["ratios"])
    assert set(report["drift"]) == {"int8"}
    assert set(report["drift"]["int8"]) == set(report["size"]) == set(report["unrelated"]) == {"h", "c"}
    for drift in report["drift"]["int8"].values():
        assert drift["curve"][-1][0] == LEAST
        assert len(drift["windows"]) == LEAST // 100
        assert min(drift["windows"]) > 0
    assert {"cpu", "cores", "memory_bytes"} <= set(report["machine"])
    assert set(report["versions"]) == {"python", "numpy", "onnxruntime", "edge-cnnlstm"}
    assert len(report["bundle"]["sha256"]) == 64
    assert cv2.imread(str(picture)) is not None


def test_a_graph_that_is_fp32s_twin_agrees_and_never_drifts(make_bundle: Make, tmp_path: Path) -> None:
    destination = tmp_path / "agreement.json"
    options = ["--frames", str(LEAST), "--graph", "int8", "--seed", "2", "-o", str(destination)]

    done = CliRunner().invoke(app, ["agreement", str(make_bundle()), *options], catch_exceptions=False)

    assert done.exit_code == 0
    report = json.loads(destination.read_text())
    assert report["command"].endswith(f"--frames {LEAST} --graph int8 --seed 2")
    assert {ratio["value"] for ratio in report["ratios"]} == {1}
    assert not any(any(drift["windows"]) for drift in report["drift"]["int8"].values())


def test_every_graph_of_a_network_is_followed_in_each_dialect(nano: Path, tmp_path: Path) -> None:
    destination = tmp_path / "agreement.json"
    options = ["--frames", str(LEAST), "-o", str(destination)]

    done = CliRunner().invoke(app, ["agreement", str(nano), *options], catch_exceptions=False)

    assert done.exit_code == 0
    report = json.loads(destination.read_text())
    assert report["skipped"] == {}
    assert list(report["drift"]) == ["int8_onnxruntime", "int8_tensorrt"]
    for name in report["drift"]:
        (agreed,) = (ratio for ratio in report["ratios"] if ratio["name"] == f"{name}: top-1 agreement of digit")
        assert agreed["value"] > 0.9
        assert 0 < max(report["drift"][name]["h"]["windows"]) < report["unrelated"]["h"]


@pytest.mark.parametrize(
    ("graphs", "options", "error"),
    [
        ({}, ("--graph", "int4"), BundleError),
        ({}, ("--graph", "fp32"), BackendError),
        ({"fp32": b"not a graph"}, (), BackendError),
        ({"int8": b"not a graph"}, (), BackendError),
    ],
)
def test_without_two_graphs_there_is_nothing_to_compare(
    make_bundle: Make, graphs: dict[str, bytes], options: tuple[str, ...], error: type[Exception]
) -> None:
    done = CliRunner().invoke(app, ["agreement", str(make_bundle(graphs)), *options])

    assert isinstance(done.exception, error)


def test_a_stream_too_short_for_its_figures_is_refused(make_bundle: Make) -> None:
    done = CliRunner().invoke(app, ["agreement", str(make_bundle()), "--frames", str(LEAST - 1)])

    assert done.exit_code == 2


# ---- picture


def walk(states: int) -> dict[str, Any]:
    curves = {graph: [[frame, size / frame] for frame in (1, 10, 100)] for graph, size in (("int8", 1), ("twin", 3))}
    names = [f"s{index}" for index in range(states)]
    sizes = {state: [[1, 1.0], [100, 2.0]] for state in names}
    drift = {graph: {state: {"curve": curve} for state in names} for graph, curve in curves.items()}
    return {"drift": drift, "size": sizes, "unrelated": dict.fromkeys(names, 3.0)}


def test_the_picture_has_a_panel_for_each_state() -> None:
    one, two = (
        cv2.imdecode(np.frombuffer(command.drawn_of(walk(states)), np.uint8), cv2.IMREAD_COLOR) for states in (1, 2)
    )

    assert one is not None
    assert two is not None
    assert two.shape[1] == 2 * one.shape[1]
    assert (one[..., 2].astype(int) - one[..., 1] > 80).sum() > 50


@pytest.mark.parametrize("name", ["folder.png", "file/drift.png"])
def test_a_picture_that_cannot_be_written_is_an_error_of_the_path(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()

    with pytest.raises(ConfigError, match=r"(?s)cannot use .*a path that this user may read or write"):
        record.write_picture(tmp_path / name, command.drawn_of(walk(1)))


def test_a_network_without_memory_has_no_picture() -> None:
    with pytest.raises(ConfigError, match="no drift to draw"):
        command.drawn_of(walk(0))
