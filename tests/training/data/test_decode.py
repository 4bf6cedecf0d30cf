from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_cnnlstm.errors import DataError
from edge_cnnlstm.runtime.fit import Fit
from edge_cnnlstm.training.data.decode import KeptFootage, moment, open_footage

Film = Callable[..., Path]
Numbers = Callable[[Any], list[int]]

FIT = Fit(24, 32, "stretch")


def test_frames_are_found_by_their_positions(tmp_path: Path, film: Film, album: Film, numbers: Numbers) -> None:
    for footage in (open_footage(film(tmp_path / "a.mp4"), FIT), open_footage(album(tmp_path / "b"), FIT)):
        assert footage.count == 12
        assert footage.size() == (48, 64)
        assert numbers(footage.read(np.array([0, 3, 4, 11]))) == [0, 3, 4, 11]
        assert numbers(footage.read(np.array([2]))) == [2]


def test_colours_come_as_red_green_and_blue(tmp_path: Path, film: Film) -> None:
    colour = np.empty((48, 64, 3), np.uint8)
    colour[:] = 220, 120, 30
    path = tmp_path / "folder" / "1.png"
    path.parent.mkdir()
    assert cv2.imwrite(str(path), cv2.cvtColor(colour, cv2.COLOR_RGB2BGR))
    video = open_footage(film(tmp_path / "a.mp4", pictures=[colour] * 3), FIT).read(np.arange(3))
    assert abs(video.astype(int) - (220, 120, 30)).max() < 12
    assert (open_footage(path.parent, FIT).read(np.arange(1)) == (220, 120, 30)).all()


def test_a_choice_past_the_true_end_is_made_again(numbers: Numbers) -> None:
    asked = []

    def choose(count: int) -> Any:
        asked.append(count)
        return np.arange(count - 4, count)

    frames = np.stack([np.full((8, 8, 3), 20 + 8 * number, np.uint8) for number in range(10)])
    found = moment(KeptFootage(frames, 30), choose)
    assert asked == [30, 10]
    assert numbers(found.frames) == [6, 7, 8, 9]
    assert (found.positions.tolist(), found.length) == ([6, 7, 8, 9], 10)


def test_a_choice_before_the_end_does_not_depend_on_where_that_is(numbers: Numbers) -> None:
    frames = np.stack([np.full((8, 8, 3), 20 + 8 * number, np.uint8) for number in range(10)])
    found = moment(KeptFootage(frames, 30), lambda count: np.array([count // 5]))
    assert numbers(found.frames) == [6]
    assert found.length == 30


def test_a_broken_image_is_named_when_it_is_needed_and_only_then(tmp_path: Path, album: Film, numbers: Numbers) -> None:
    folder = album(tmp_path / "clip")
    (folder / "00005.jpg").write_bytes(b"\xff\xd8 torn")
    footage = open_footage(folder, FIT)
    assert numbers(footage.read(np.array([3, 5]))) == [3, 5]
    with pytest.raises(DataError, match=r"00005\.jpg"):
        footage.read(np.array([3, 4]))


def test_images_are_read_in_the_order_of_their_names_whatever_their_suffix(
    tmp_path: Path, album: Film, numbers: Numbers
) -> None:
    folder = album(tmp_path / "clip", frames=4)
    (folder / "00002.jpg").rename(folder / "00002 é.JPEG")
    (folder / "00001.txt").write_text("no image")
    (folder / "._00001.jpg").write_bytes(b"what a Mac leaves in archives")
    assert numbers(open_footage(folder, FIT).read(np.arange(4))) == [0, 1, 2, 3]


def test_a_turned_photograph_is_set_upright(tmp_path: Path) -> None:
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, 20:] = 255
    done, jpeg = cv2.imencode(".jpg", image)
    assert done
    # An EXIF block with one entry: orientation 6, to be turned right.
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    block = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    (tmp_path / "1.jpg").write_bytes(jpeg.tobytes()[:2] + block + jpeg.tobytes()[2:])
    footage = open_footage(tmp_path, Fit(40, 20, "stretch"))
    assert footage.size() == (40, 20)
    (frame,) = footage.read(np.arange(1))
    assert frame[:16].max() < 60
    assert frame[24:].min() > 200


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_what_holds_no_frame_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "clip.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"clip\.mp4"):
        open_footage(path, FIT)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image"):
        open_footage(tmp_path / "empty", FIT)
