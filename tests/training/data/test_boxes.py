from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_cnnlstm.errors import DataError
from edge_cnnlstm.training.config import NetworkConfig
from edge_cnnlstm.training.data.files import FileCorpus, open_files
from edge_cnnlstm.training.data.settings import AugmentConfig, BoxesConfig

Film = Callable[..., Path]

HEADER = "video,frame,x,y,width,height,visible"
HEIGHT, WIDTH = 48, 64


@pytest.fixture
def root(tmp_path: Path, film: Film) -> Path:
    """Four videos of 8 frames in which a white box of 16 × 12 pixels moves by 4 pixels a frame."""
    lines = [HEADER]
    for number in range(4):
        pictures = np.zeros((8, HEIGHT, WIDTH, 3), np.uint8)
        for frame in range(8):
            x, y = 4 * frame + number, 10 + 2 * frame
            pictures[frame, y : y + 12, x : x + 16] = 255
            lines.append(f"{number}.mp4,{frame},{x},{y},16,12,1")
        film(tmp_path / f"{number}.mp4", pictures=pictures)
    (tmp_path / "boxes.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def opened(root: Path, mode: str = "stretch", **settings: Any) -> FileCorpus:
    network = NetworkConfig.model_validate({"height": 40, "width": 80, "fit": mode})
    return open_files(BoxesConfig(root=root, **{"frames": 8, **settings}), network, seed=0)


def everything(corpus: FileCorpus, *, training: bool = False) -> Any:
    return corpus.clips(np.arange(len(corpus.items)), training=training)


def edited(root: Path, *lines: str) -> Path:
    with (root / "boxes.csv").open("a") as file:
        file.writelines(line + "\n" for line in lines)
    return root


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mode", ["stretch", "crop", "letterbox"])
def test_boxes_are_where_the_target_is_in_the_network_s_frame(root: Path, mode: str, *, training: bool) -> None:
    changes = AugmentConfig(crop=0.2, flip=0.5)
    clips = everything(opened(root, mode, augment=changes), training=training)
    for index in range(4):
        clip = clips.clip(index)
        boxes, visible = clip.truth["target_box"], clip.truth["target_visible"]
        assert boxes.dtype == visible.dtype == np.float32
        assert np.array_equal(clip.conditions["visible"], visible == 1)
        assert np.array_equal(clip.conditions["hidden"], visible == 0)
        for frame, box in zip(clip.frames[visible == 1], boxes[visible == 1], strict=True):
            white = frame[..., 0] > 190
            rows, columns = np.flatnonzero(white.any(axis=1)), np.flatnonzero(white.any(axis=0))
            low, high = box[:2] - box[2:] / 2, box[:2] + box[2:] / 2
            np.testing.assert_allclose(low * (80, 40), (columns[0], rows[0]), atol=2.1)
            np.testing.assert_allclose(high * (80, 40), (columns[-1] + 1, rows[-1] + 1), atol=2.1)


def test_a_target_that_the_fit_cuts_off_is_out_of_sight(tmp_path: Path, film: Film) -> None:
    for number in range(3):
        film(tmp_path / f"{number}.mp4", 3)
    rows = [f"{number}.mp4,{frame},24,{(0, 5, 9)[frame]},16,8,1" for number in range(3) for frame in range(3)]
    (tmp_path / "boxes.csv").write_text("\n".join([HEADER, *rows]))
    # A frame twice as wide as high keeps the middle 32 of 48 rows.
    truth = everything(opened(tmp_path, "crop", frames=3)).clip(0).truth
    np.testing.assert_allclose(truth["target_box"][1:], [[0.5, 2.5 / 32, 0.25, 5 / 32], [0.5, 5 / 32, 0.25, 8 / 32]])
    assert truth["target_visible"].tolist() == [0, 1, 1]
    assert np.isnan(truth["target_box"][0]).all()


def test_frames_without_a_line_and_past_the_end_are_not_known(root: Path) -> None:
    lines = (root / "boxes.csv").read_text().splitlines()
    (root / "boxes.csv").write_text("\n".join(line for line in lines if not line.startswith("0.mp4,3,")))
    clip = everything(opened(root, frames=10)).clip(0)
    unknown = [3, 8, 9]
    assert np.flatnonzero(np.isnan(clip.truth["target_visible"])).tolist() == unknown
    assert np.flatnonzero(np.isnan(clip.truth["target_box"]).any(axis=1)).tolist() == unknown
    assert not (clip.conditions["visible"] | clip.conditions["hidden"])[unknown].any()


def test_a_hidden_target_may_have_a_box_or_none(root: Path) -> None:
    lines = (root / "boxes.csv").read_text().splitlines()
    lines[1:3] = ["0.mp4,0,,,,,0", "0.mp4,1,4,12,16,12,0"]
    (root / "boxes.csv").write_text("\n".join(lines))
    truth = everything(opened(root)).clip(0).truth
    assert truth["target_visible"].tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
    assert np.isnan(truth["target_box"]).any(axis=1).tolist() == [True] + [False] * 7


def test_json_says_the_same_as_csv(root: Path) -> None:
    header, *lines = ((root / "boxes.csv").read_text() + "1.mp4,7,,,,,0\n").splitlines()
    lines.remove("1.mp4,7,29,24,16,12,1")
    (root / "boxes.csv").write_text("\n".join([header, *lines]))
    rows = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    numbers = [
        {key: value if key == "video" else json.loads(value or "null") for key, value in row.items()} for row in rows
    ]
    (root / "boxes.JSON").write_text(json.dumps(numbers))
    assert opened(root, annotations=Path("boxes.JSON")).digest() == opened(root).digest()


def test_columns_may_stand_in_any_order(root: Path) -> None:
    before = opened(root).digest()
    lines = [",".join(reversed(line.split(","))) for line in (root / "boxes.csv").read_text().splitlines()]
    (root / "boxes.csv").write_text("\ufeff" + "\r\n\r\n".join(lines), encoding="utf-8")
    assert opened(root).digest() == before


def test_a_folder_of_images_is_a_video_too(root: Path) -> None:
    capture = cv2.VideoCapture(str(root / "0.mp4"))
    (root / "folder").mkdir()
    for frame in range(8):
        cv2.imwrite(str(root / "folder" / f"{frame:03}.png"), capture.read()[1])
    rows = (root / "boxes.csv").read_text().splitlines()
    clips = everything(opened(edited(root, *[row.replace("0.mp4", "folder") for row in rows if row[0] == "0"])))
    one, other = clips.clip(0), clips.clip(4)
    np.testing.assert_array_equal(one.frames, other.frames)
    np.testing.assert_array_equal(one.truth["target_box"], other.truth["target_box"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0.mp4,3,1,1,4,4,1", r"line 34: frame 3 of 0\.mp4 again"),
        ("./0.mp4,3,1,1,4,4,1", r"frame 3 of \./0\.mp4 again"),
        ("4.mp4,0,1,1,4,4,1", r"no video .*4\.mp4"),
        ("../0.mp4,0,1,1,4,4,1", "relative to data.root"),
        ("/0.mp4,0,1,1,4,4,1", "relative to data.root"),
        ("0.mp4,8,1,1,4,4,1", "a box for frame 8 of 8"),
        ("0.mp4,-1,1,1,4,4,1", "frame.*-1"),
        ("0.mp4,1.5,1,1,4,4,1", "frame.*1.5"),
        ("0.mp4,9,1,1,-4,4,1", "line 34: width.*-4"),
        ("0.mp4,9,1,1,4,0,1", "height.*'0'"),
        ("0.mp4,9,nan,1,4,4,1", "x.*nan"),
        ("0.mp4,9,1,-1e300,4,4,1", "y.*1e300"),
        ("0.mp4,9,1,1,inf,4,1", "width.*inf"),
        ("0.mp4,99999999999999999999,1,1,4,4,1", "frame.*99999"),
        ("0.mp4,9,left,1,4,4,1", "x.*'left'"),
        ("0.mp4,9,1,1,4,4,maybe", "visible.*'maybe'"),
        ("0.mp4,9,,,,,1", "only one that is out of sight may lack all four"),
        ("0.mp4,9,1,,4,4,0", "only one that is out of sight may lack all four"),
        ("0.mp4,9,1,1,4,4", "6 values"),
        ("0.mp4,9,1,1,4,4,1,7", "8 values"),
        (",9,1,1,4,4,1", "video"),
    ],
)
def test_lines_that_do_not_fit_are_refused(root: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        opened(edited(root, line))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("boxes.csv", "video,frame,x,y,w,h,visible\n0.mp4,1,1,1,4,4,1\n", "columns"),
        ("boxes.csv", HEADER + "\n", "no line but the first"),
        ("boxes.csv", "", "is empty"),
        ("boxes.json", "[]", "is empty"),
        ("boxes.json", "{", "Invalid JSON"),
        ("boxes.json", '[{"video": "0.mp4", "frame": 0}]', r"0\.x: Field required"),
        ("boxes.json", '{"video": "0.mp4"}', "valid array"),
        ("other.csv", None, "no file"),
    ],
)
def test_files_that_hold_no_boxes_are_refused(root: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (root / name).write_text(content)
    with pytest.raises(DataError, match=message):
        opened(root, annotations=Path(name))


@pytest.mark.parametrize("box", ["-1,5,10,10", "60,5,10,10", "5,-0.5,10,10", "5,40,10,9", "100,100,5,5"])
def test_a_box_outside_its_frame_is_named_or_cut(root: Path, box: str) -> None:
    lines = [line for line in (root / "boxes.csv").read_text().splitlines() if not line.startswith("2.mp4,5,")]
    (root / "boxes.csv").write_text("\n".join([*lines, f"2.mp4,5,{box},1"]))
    with pytest.raises(DataError, match=r"2\.mp4, frame 5: .* in 64 × 48 pixels"):
        opened(root)
    truth = everything(opened(root, outside="clip")).clip(2).truth
    x, y, width, height = (float(number) for number in box.split(","))
    low, high = np.clip([x, y], 0, (64, 48)), np.clip([x + width, y + height], 0, (64, 48))
    if (high > low).all():
        expected = np.concatenate([(low + high) / 2, high - low]) / (64, 48, 64, 48)
        np.testing.assert_allclose(truth["target_box"][5], expected, atol=1e-6)
    else:
        assert np.isnan(truth["target_box"][5]).all()
        assert truth["target_visible"][5] == 0


def test_a_box_that_rounding_puts_a_hair_outside_is_inside(root: Path) -> None:
    lines = (root / "boxes.csv").read_text().splitlines()
    lines[1] = "0.mp4,0,48.0000001,36,16,12.0000001,1"
    (root / "boxes.csv").write_text("\n".join(lines))
    box = everything(opened(root)).clip(0).truth["target_box"][0]
    assert (box[:2] + box[2:] / 2).max() <= 1


def test_groups_of_annotated_videos_stay_together(root: Path) -> None:
    corpus = opened(root, group=r"^(\d)")
    assert len(np.unique(corpus.groups)) == 4
    assert corpus.strata.tolist() == [0] * 4
    with pytest.raises(DataError, match="no video for"):
        opened(root, group=r"(\.)")


def test_an_annotated_video_that_is_corrupt_stops_or_is_skipped(root: Path) -> None:
    whole = everything(opened(root)).clip(3)
    (root / "1.mp4").write_bytes(b"torn")
    with pytest.raises(DataError, match=r"1\.mp4"):
        opened(root)
    corpus = opened(root, corrupt="skip")
    clip = everything(corpus).clip(1)
    assert clip.name != "1.mp4"
    assert not np.isnan(clip.truth["target_box"]).any()
    assert corpus.skipped == ("1.mp4",)
    np.testing.assert_array_equal(everything(corpus).clip(3).frames, whole.frames)


def test_a_label_map_makes_no_sense_without_labels(root: Path) -> None:
    from edge_cnnlstm.errors import ConfigError

    with pytest.raises(ConfigError, match="this set has no labels"):
        opened(root, augment=AugmentConfig(flip_labels={"a": "b"}))


def test_the_digest_changes_with_a_box(root: Path) -> None:
    before = opened(root).digest()
    text = (root / "boxes.csv").read_text()
    (root / "boxes.csv").write_text(text.replace("0.mp4,0,0,10,16,12,1", "0.mp4,0,0,10,17,12,1"))
    assert opened(root).digest() != before
