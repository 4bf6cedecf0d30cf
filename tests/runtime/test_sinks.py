"""What sinks write can be read back, and one that fails takes nothing along."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_cnnlstm.errors import ClosedError, SinkError
from edge_cnnlstm.runtime.backends.scripted import Script, ScriptedBackend
from edge_cnnlstm.runtime.fit import Fit
from edge_cnnlstm.runtime.frame import Frame
from edge_cnnlstm.runtime.latency import Timings
from edge_cnnlstm.runtime.pipeline import Pipeline
from edge_cnnlstm.runtime.prediction import Answer, Box, Classification, Prediction, Regression, Track
from edge_cnnlstm.runtime.sinks.annotated_video import AnnotatedVideo, annotated
from edge_cnnlstm.runtime.sinks.base import Callback, FanOut, Sink
from edge_cnnlstm.runtime.sinks.csv_rows import CsvRows
from edge_cnnlstm.runtime.sinks.json_lines import JsonLines
from edge_cnnlstm.runtime.sources.array import ArraySource
from edge_cnnlstm.runtime.stream import Stream
from edge_cnnlstm.spec import ModelSpec
from tests.conftest import tiny_frames

TIMINGS = Timings(wait=1_000_000, fit=200_000, infer=3_000_000, decode=45_600, age=4_245_600)
ANSWERS: dict[str, Answer] = {
    "digit": Classification('a "b", c', 0.75, (1.0, 0.0)),
    "target": Track(Box(4.0, 6.0, 8.0, 12.0), 0.9),
    "pose": Regression({"x": 0.1, "yaw": -2.5e-7}),
}


def predicted(answers: dict[str, Answer], index: int = 7, reason: str | None = None) -> Prediction:
    return Prediction(index, 123_456_789_012, reason is not None, answers, TIMINGS, reason)


def frame(height: int = 24, width: int = 32) -> Frame:
    return Frame(np.full((height, width, 3), 90, np.uint8), 7, 123_456_789_012)


def tracked(box: Box, presence: float) -> Prediction:
    return predicted({"target": Track(box, presence)})


def decoded(path: Path) -> list[np.ndarray[Any, Any]]:
    capture = cv2.VideoCapture(str(path))
    images = []
    while (read := capture.read())[0]:
        images.append(read[1])
    return images


def test_csv_has_the_header_once_and_stable_flat_columns() -> None:
    file = io.StringIO()
    sink = CsvRows(file)
    sink.write(frame(), predicted(ANSWERS, reason="gap"))
    sink.write(frame(), predicted(ANSWERS, 8))
    sink.close()

    header, first, second = csv.reader(io.StringIO(file.getvalue()))
    assert header == [
        *("frame", "captured_ns", "first_after_reset", "reset_reason", "digit.label", "digit.score"),
        *("target.x", "target.y", "target.width", "target.height", "target.presence", "pose.x", "pose.yaw"),
        *("wait_ms", "fit_ms", "infer_ms", "decode_ms", "age_ms"),
    ]
    assert first[:6] == ["7", "123456789012", "true", "gap", 'a "b", c', "0.75"]
    assert second[:4] == ["8", "123456789012", "false", ""]
    assert second[6:] == [
        "4.0",
        "6.0",
        "8.0",
        "12.0",
        "0.9",
        "0.1",
        "-2.5e-07",
        "1.0",
        "0.2",
        "3.0",
        "0.0456",
        "4.2456",
    ]


def test_csv_says_what_json_lines_say(tiny_spec: ModelSpec, tiny_script: Script) -> None:
    rows, lines = io.StringIO(), io.StringIO()
    stream = Stream(ScriptedBackend(tiny_spec, tiny_script))
    counts = Pipeline(ArraySource(tiny_frames(20, seed=4)), stream, "every").run(CsvRows(rows), JsonLines(lines))

    found = list(csv.DictReader(io.StringIO(rows.getvalue())))
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert len(found) == len(told) == counts.predicted == 20
    for row, line in zip(found, told, strict=True):
        expected = {name: line[name] for name in ("frame", "captured_ns", "first_after_reset", "reset_reason")}
        expected |= {f"digit.{name}": line["digit"][name] for name in ("label", "score")}
        sides = dict(zip(("x", "y", "width", "height"), line["target"]["box"], strict=True))
        expected |= {f"target.{name}": value for name, value in sides.items()}
        expected |= {"target.presence": line["target"]["presence"]}
        expected |= {f"{stage}_ms": value for stage, value in line["ms"].items()}
        said = {name: "" if value is None else str(value) for name, value in expected.items()}
        assert row == said | {"first_after_reset": str(line["first_after_reset"]).lower()}


def test_every_row_is_in_the_file_before_the_next_frame(tmp_path: Path) -> None:
    for sink_of in (CsvRows, JsonLines):
        path = tmp_path / sink_of.__name__
        with path.open("w", newline="") as file:
            sink_of(file).write(frame(), predicted(ANSWERS))
            assert path.read_text().endswith("\n")
            assert "123456789012" in path.read_text()


def test_a_video_holds_one_frame_a_prediction(tmp_path: Path) -> None:
    path = tmp_path / "seen.mp4"
    sink = AnnotatedVideo(path, 25)
    for index in range(13):
        sink.write(frame(), predicted(ANSWERS, index))
    sink.close()
    sink.close()

    assert len(decoded(path)) == sink.frames == 13
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == 25
    with pytest.raises(ClosedError):
        sink.write(frame(), predicted(ANSWERS))


@pytest.mark.parametrize(("presence", "least", "most"), [(0.9, 0.95, 1.0), (0.1, 0.4, 0.8)])
def test_the_box_lies_where_the_source_image_landed_in_the_frame(presence: float, least: float, most: float) -> None:
    # A source of 64×32 is letterboxed into 32×32: half the size, 8 rows down.
    fitted, placement = Fit(32, 32, "letterbox").apply(np.full((32, 64, 3), 90, np.uint8))
    taken = Frame(fitted, 0, 0, placement)
    box = Box(16, 8, 32, 16)

    with_box = annotated(taken, tracked(box, presence)).astype(int)
    without = annotated(taken, predicted({})).astype(int)
    factor = with_box.shape[1] // 32
    changed = np.abs(with_box[: 32 * factor] - without[: 32 * factor]).sum(2) > 60

    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert (rows[0], rows[-1]) == pytest.approx((12 * factor, 20 * factor), abs=4)
    assert (columns[0], columns[-1]) == pytest.approx((8 * factor, 24 * factor), abs=4)
    inside = changed[12 * factor + 8 : 20 * factor - 8, 8 * factor + 8 : 24 * factor - 8]
    assert not inside.any()
    # Solid when in sight, dashed when hidden: of the upper side, all or about half is drawn.
    assert least <= changed[12 * factor, 8 * factor : 24 * factor].mean() <= most


def test_the_box_survives_the_encoder(tmp_path: Path) -> None:
    sinks = AnnotatedVideo(tmp_path / "with.mp4", 30), AnnotatedVideo(tmp_path / "without.mp4", 30)
    for sink, answer in zip(sinks, (tracked(Box(8, 6, 16, 12), 0.9), tracked(Box(-99, -99, 1, 1), 0.9)), strict=True):
        sink.write(frame(), answer)
        sink.close()

    (with_box,), (without,) = (decoded(sink.path) for sink in sinks)
    factor = with_box.shape[1] // 32
    edge, middle = (slice(6 * factor - 1, 6 * factor + 2), slice(9 * factor, 23 * factor)), (slice(150, 200),) * 2
    assert np.abs(with_box[edge].astype(int) - without[edge]).mean() > 50
    assert np.abs(with_box[middle].astype(int) - without[middle]).mean() < 10


@pytest.mark.parametrize("size", [(8, 8), (7, 481), (113, 113), (600, 1001)])
def test_frames_of_any_size_get_even_sides_and_readable_text(size: tuple[int, int]) -> None:
    picture = annotated(frame(*size), predicted(ANSWERS))
    assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0
    assert picture.shape[1] >= 480
    band = picture[picture.shape[1] // size[1] * size[0] :]
    assert 0.01 < (band.max(2) > 200).mean() < 0.5


@pytest.mark.parametrize("name", ["ж" * 30, "word " * 60, ""])
def test_any_label_can_be_drawn(name: str) -> None:
    assert annotated(frame(), predicted({name: Classification(name, 1.0, (0.0,))})).any()


@pytest.mark.parametrize("box", [Box(1e30, -1e30, 1e30, 1e30), Box(0, 0, 0, 0), Box(5, 5, -3, -3)])
@pytest.mark.parametrize("presence", [0.1, 0.9])
def test_a_box_of_any_size_can_be_drawn(box: Box, presence: float) -> None:
    assert annotated(frame(), tracked(box, presence)).shape[1] == 480


def test_a_video_without_frames_leaves_no_file(tmp_path: Path) -> None:
    sink = AnnotatedVideo(tmp_path / "none.mp4", 30)
    sink.close()
    assert not list(tmp_path.iterdir())


def test_a_video_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        AnnotatedVideo(tmp_path / "missing" / "seen.mp4", 30)
    with pytest.raises(SinkError, match=r"ending in \.mp4"):
        AnnotatedVideo(tmp_path / "seen.txt", 30)


def test_an_encoder_that_fails_is_named_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = AnnotatedVideo(tmp_path / "seen.mp4", 30)
    monkeypatch.setattr(cv2.VideoWriter, "fourcc", lambda *_: 0)
    monkeypatch.setattr(cv2.VideoWriter, "isOpened", lambda _: False)
    with pytest.raises(SinkError, match=r"cannot write MPEG-4 of 480×\d+ at 30 frames a second to .*seen\.mp4"):
        sink.write(frame(), predicted(ANSWERS))
    sink.close()
    assert not (tmp_path / "seen.mp4").exists()


def test_frames_that_the_disk_lost_are_missed(tmp_path: Path) -> None:
    sink = AnnotatedVideo(tmp_path / "seen.mp4", 30)
    for _ in range(3):
        sink.write(frame(), predicted(ANSWERS))
    sink.frames += 1
    with pytest.raises(SinkError, match="holds 3 of 4 frames"):
        sink.close()


@pytest.mark.parametrize("sink_of", [CsvRows, JsonLines])
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_full_disk_costs_the_other_sinks_nothing(
    tmp_path: Path, tiny_spec: ModelSpec, tiny_script: Script, sink_of: Callable[[Any], Sink], place: str
) -> None:
    kept, seen = io.StringIO(), []
    others = [CsvRows(kept), Callback(lambda taken, _: seen.append(taken.index)), AnnotatedVideo(tmp_path / "a.mp4", 9)]
    stream = Stream(ScriptedBackend(tiny_spec, tiny_script))
    full = open("/dev/full", "w")  # noqa: PTH123, SIM115 - the buffer keeps what the disk refuses, and so does closing
    sinks = [sink_of(full), *others] if place == "before" else [*others, sink_of(full)]

    with pytest.raises(OSError, match="No space left on device") as raised:
        Pipeline(ArraySource(tiny_frames(5, seed=1)), stream, "every").run(*sinks)

    assert raised.value.filename == "/dev/full"
    assert seen == [0]
    assert [row["frame"] for row in csv.DictReader(io.StringIO(kept.getvalue()))] == ["0"]
    assert len(decoded(tmp_path / "a.mp4")) == 1
    with pytest.raises(OSError, match="No space left"):
        full.close()


def test_every_sink_is_closed_though_one_cannot_be() -> None:
    closed: list[str] = []

    class Recorded(Callback):
        def __init__(self, name: str) -> None:
            super().__init__(lambda *_: None)
            self.name = name

        def close(self) -> None:
            closed.append(self.name)
            if self.name == "b":
                raise OSError(5, "gone")

    with pytest.raises(OSError, match="gone"):
        FanOut(*map(Recorded, "abc")).close()
    assert closed == ["a", "b", "c"]
