from __future__ import annotations

import itertools
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from edge_cnnlstm.errors import ClosedError, ConfigError, EdgeError, FrameError, SourceError
from edge_cnnlstm.runtime import realtime
from edge_cnnlstm.runtime.fit import Fit
from edge_cnnlstm.runtime.frame import Frame, Pixels, Placement
from edge_cnnlstm.runtime.sources import Source, base, camera, open_source, video
from edge_cnnlstm.runtime.sources.array import ArraySource
from edge_cnnlstm.runtime.sources.base import Pace
from edge_cnnlstm.runtime.sources.camera import CameraSource
from edge_cnnlstm.runtime.sources.folder import FolderSource
from edge_cnnlstm.runtime.sources.video import VideoSource

RED, GREEN, BLUE = (220, 30, 30), (30, 200, 30), (30, 30, 220)
COLOURS = (RED, GREEN, BLUE, RED, BLUE, GREEN, GREEN)
CODEC_ERROR = 25


def plain(colour: tuple[int, int, int], height: int = 48, width: int = 64) -> Pixels:
    image = np.empty((height, width, 3), np.uint8)
    image[:] = colour
    return image


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real video of plain frames, in the colours above."""
    path = tmp_path_factory.mktemp("video") / "plain.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (64, 48))
    assert writer.isOpened()
    for colour in COLOURS:
        writer.write(np.ascontiguousarray(plain(colour)[..., ::-1]))
    writer.release()
    return path


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A folder of images whose names are out of order on disk, among other files."""
    for name, colour in [("c.png", BLUE), ("a.png", RED), ("b.PNG", GREEN), ("a2.bmp", GREEN)]:
        assert cv2.imwrite(str(tmp_path / name), np.ascontiguousarray(plain(colour)[..., ::-1]))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder").mkdir()
    return tmp_path


def drain(source: Source, into: list[Frame]) -> None:
    """Read to the end, keeping the frames as they come, so that they outlive an error."""
    for frame in source:
        into.append(frame)  # noqa: PERF402 - what came before an error must stay


def pngs(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_video_is_decoded_to_rgb(recording: Path) -> None:
    source = video(recording)
    frames = list(source)
    source.close()
    assert [frame.index for frame in frames] == list(range(len(COLOURS)))
    for frame, colour in zip(frames, COLOURS, strict=True):
        assert frame.pixels.shape == (48, 64, 3)
        assert frame.pixels.dtype == np.uint8
        assert frame.pixels.flags.c_contiguous
        assert abs(frame.pixels.astype(int) - colour).max() <= CODEC_ERROR
        assert frame.placement == Placement()


@pytest.mark.parametrize("mode", ["stretch", "crop", "letterbox"])
def test_a_video_is_fitted_and_says_how(recording: Path, mode: Any) -> None:
    fit = Fit(32, 32, mode)
    frames = list(video(recording, fit=fit))
    assert len(frames) == len(COLOURS)
    for frame, colour in zip(frames, COLOURS, strict=True):
        assert frame.pixels.shape == (32, 32, 3)
        assert abs(frame.pixels[16].astype(int) - colour).max() <= CODEC_ERROR
        assert frame.placement == fit.place(48, 64)
        assert frame.fit_ns >= 0


def test_frames_of_a_video_are_arrays_of_their_own(recording: Path) -> None:
    frames = list(video(recording))
    kept = [frame.pixels.copy() for frame in frames]
    frames[0].pixels.fill(0)
    for frame, pixels in list(zip(frames, kept, strict=True))[1:]:
        np.testing.assert_array_equal(frame.pixels, pixels)


def test_a_folder_is_read_in_the_order_of_its_names(album: Path) -> None:
    frames = list(open_source(str(album)))
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    for frame, colour in zip(frames, (RED, GREEN, GREEN, BLUE), strict=True):
        np.testing.assert_array_equal(frame.pixels, plain(colour))


def test_images_of_different_sizes_are_fitted_each_on_its_own(album: Path) -> None:
    cv2.imwrite(str(album / "d.png"), plain(RED, 100, 30))
    fit = Fit(32, 32, "letterbox")
    *_, last = FolderSource(album, fit=fit)
    assert last.pixels.shape == (32, 32, 3)
    assert last.placement == fit.place(100, 30)


def test_grey_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((8, 8), 77, np.uint8))
    cv2.imwrite(str(tmp_path / "b.png"), np.full((8, 8, 4), 77, np.uint8))
    for frame in FolderSource(tmp_path):
        np.testing.assert_array_equal(frame.pixels, np.full((8, 8, 3), 77, np.uint8))


def test_images_in_memory_come_as_they_are() -> None:
    images = [plain(RED), plain(BLUE)]
    frames = list(ArraySource(images))
    assert [frame.index for frame in frames] == [0, 1]
    assert all(frame.pixels is image for frame, image in zip(frames, images, strict=True))


def test_any_iterable_of_images_is_a_source() -> None:
    def generated() -> Iterator[Pixels]:
        yield plain(RED)
        yield plain(BLUE, 10, 10)

    frames = list(ArraySource(generated(), fit=Fit(16, 16, "stretch")))
    assert [frame.pixels[0, 0].tolist() for frame in frames] == [list(RED), list(BLUE)]


def test_an_image_that_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(FrameError):
        list(ArraySource([np.zeros((10, 10), np.uint8)], fit=Fit(8, 8, "crop")))


def test_capture_times_never_go_back_and_are_of_this_machines_clock(recording: Path) -> None:
    before = time.monotonic_ns()
    times = [frame.captured_ns for frame in video(recording)]
    course = [before, *times, time.monotonic_ns()]
    assert course == sorted(course)


@pytest.mark.parametrize("rate", [997.0, 1000.0])
def test_a_paced_source_is_never_early_and_captures_at_the_scheduled_instant(rate: float) -> None:
    due = []
    for frame in ArraySource([plain(RED)] * 12, rate=rate):
        assert time.monotonic_ns() >= frame.captured_ns
        due.append(frame.captured_ns - round(frame.index * 1e9 / rate))
    assert len(set(due)) == 1


@pytest.mark.parametrize("rate", [0.01, 1, 24, 29.97, 30, 59.94, 333.3])
def test_the_schedule_never_drifts(monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
    now = 5_000_000_000

    def sleep(seconds: float) -> None:
        nonlocal now
        assert seconds > 0
        now += max(1, round(seconds * 1e9)) + 77_000  # every sleep is late, as real ones are

    for module in (base, realtime):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic_ns=lambda: now, sleep=sleep))
    captured = [frame.captured_ns for frame in ArraySource([plain(RED, 2, 2)] * 3000, rate=rate)]
    period = 1e9 / rate
    assert all(abs(later - before - period) <= 1 for before, later in itertools.pairwise(captured))
    assert abs(captured[-1] - captured[0] - 2999 * period) <= 1


def test_a_late_frame_keeps_its_due_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += round(seconds * 1e9)

    for module in (base, realtime):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic_ns=lambda: now, sleep=sleep))
    source = iter(ArraySource([plain(RED, 2, 2)] * 6, rate=100))
    captured = [next(source).captured_ns, next(source).captured_ns]
    now += 35_000_000
    captured += [frame.captured_ns for frame in source]
    assert captured == [0, 10_000_000, 20_000_000, 30_000_000, 40_000_000, 50_000_000]


@pytest.mark.parametrize("rate", [0, -1, -30.0, float("nan"), float("inf"), 1001])
def test_a_rate_that_is_none_is_refused(rate: float, album: Path, recording: Path) -> None:
    with pytest.raises(ConfigError, match="frames a second"):
        Pace(rate)
    makers: list[Callable[[], Source]] = [
        lambda: ArraySource([plain(RED)], rate=rate),
        lambda: open_source(str(album), rate=rate),
        lambda: open_source(str(recording), rate=rate),
    ]
    for make in makers:
        with pytest.raises(ConfigError, match="frames a second"):
            list(make())


@pytest.mark.parametrize("address", ["nowhere.mp4", "no/such/folder", "plain.mp4/inside"])
def test_an_address_that_names_nothing_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"no source .*{address}"):
        open_source(str(tmp_path / address))
    with pytest.raises(SourceError, match=f"no file .*{address}"):
        video(tmp_path / address)


@pytest.mark.parametrize("data", [b"", b"this is not a video\n" * 50, bytes(5000)], ids=len)
def test_a_file_that_is_no_video_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "text.mp4"
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"text\.mp4"):
        list(open_source(str(path)))


def test_a_video_that_is_cut_off_is_refused_or_ends(recording: Path, tmp_path: Path) -> None:
    data = recording.read_bytes()
    path = tmp_path / "cut.mp4"
    for length in (len(data) // 4, len(data) // 2, len(data) - 50):
        path.write_bytes(data[:length])
        try:
            frames = list(open_source(str(path)))
        except SourceError:
            continue
        assert 0 < len(frames) <= len(COLOURS)


@pytest.mark.parametrize("device", ["/dev/video99", "/dev/null", 99])
def test_a_camera_that_is_not_there_is_refused(device: str | int) -> None:
    with pytest.raises(SourceError, match=f"cannot open {device}"):
        camera(device)
    if isinstance(device, str):
        with pytest.raises(SourceError, match=f"cannot open {device}"):
            open_source(device)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(SourceError, match="no image in"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("data", [b"", b"no image", b"\x89PNG\r\n\x1a\n", pngs(8, 8)[:40]], ids=len)
def test_a_broken_image_is_named_after_those_before_it(album: Path, data: bytes) -> None:
    (album / "b.PNG").write_bytes(data)
    seen: list[Frame] = []
    with pytest.raises(SourceError, match=r"b\.PNG cannot be decoded"):
        drain(open_source(str(album)), seen)
    assert [frame.index for frame in seen] == [0, 1]


def test_an_image_that_claims_to_be_huge_is_refused(album: Path) -> None:
    (album / "a.png").write_bytes(pngs(100_000, 100_000))
    with pytest.raises(SourceError, match=r"a\.png"):
        list(open_source(str(album)))


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        FolderSource(tmp_path / "nowhere")


def test_an_empty_address_is_refused(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(album)
    with pytest.raises(SourceError):
        open_source("")


def test_closing_twice_is_allowed(recording: Path, album: Path) -> None:
    for source in (video(recording), open_source(str(album)), ArraySource([plain(RED)])):
        source.close()
        source.close()


def test_closing_ends_an_iteration_that_is_under_way(recording: Path) -> None:
    source = video(recording)
    frames = iter(source)
    next(frames)
    source.close()
    assert list(frames) == []


@pytest.mark.parametrize("kind", ["video", "folder", "array"])
def test_a_closed_source_says_so(recording: Path, album: Path, kind: str) -> None:
    makers: dict[str, Callable[[], Source]] = {
        "video": lambda: video(recording),
        "folder": lambda: open_source(str(album)),
        "array": lambda: ArraySource([plain(RED)]),
    }
    source = makers[kind]()
    source.close()
    with pytest.raises(ClosedError):
        list(source)


class Capture:
    """Stands in for a camera or a network stream: some images, then nothing."""

    def __init__(self, images: int) -> None:
        self.left = images
        self.released = 0
        self.settings: dict[int, float] = {}

    def read(self) -> tuple[bool, Pixels | None]:
        self.left -= 1
        return (True, plain(BLUE)) if self.left >= 0 else (False, None)

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return not self.released

    def set(self, setting: int, value: float) -> bool:
        self.settings[setting] = value
        return True

    def release(self) -> None:
        self.released += 1


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch) -> Capture:
    fake = Capture(images=3)
    monkeypatch.setattr(cv2, "VideoCapture", lambda _: fake)
    return fake


def test_a_camera_that_stops_delivering_is_an_error(capture: Capture) -> None:
    source = CameraSource("/dev/video0", rate=30)
    assert capture.settings == {cv2.CAP_PROP_FPS: 30}
    seen: list[Frame] = []
    with pytest.raises(SourceError, match="camera /dev/video0 stopped"):
        drain(source, seen)
    assert len(seen) == 3
    for frame in seen:
        np.testing.assert_array_equal(frame.pixels, plain(BLUE)[..., ::-1])


def test_a_camera_that_is_closed_just_ends(capture: Capture) -> None:
    source = camera(0)
    frames = iter(source)
    next(frames)
    source.close()
    assert list(frames) == []
    assert capture.released


def test_live_sources_say_so(capture: Capture, recording: Path, album: Path) -> None:
    assert camera(0).live
    assert VideoSource("rtsp://robot/eye").live
    assert not open_source(str(album)).live
    assert not ArraySource([]).live
    assert not VideoSource(str(recording)).live


def test_a_network_stream_that_breaks_is_an_error(capture: Capture) -> None:
    with pytest.raises(SourceError):
        list(open_source("rtsp://robot/eye"))


@pytest.mark.parametrize("address", ["/dev/video0", "rtsp://robot/eye"])
def test_a_live_source_looks_at_its_rate_too(capture: Capture, address: str) -> None:
    with pytest.raises(ConfigError):
        open_source(address, rate=float("nan"))


def test_errors_of_sources_are_errors_of_this_package() -> None:
    assert issubclass(SourceError, EdgeError)
