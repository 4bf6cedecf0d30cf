from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest

from edge_cnnlstm.errors import FrameError
from edge_cnnlstm.runtime.fit import Fit
from edge_cnnlstm.runtime.frame import Pixels, Placement
from edge_cnnlstm.runtime.prediction import Track, decoders
from edge_cnnlstm.spec import FitMode, HeadSpec, ModelSpec, TensorSpec

MODES: tuple[FitMode, ...] = get_args(FitMode)
GREY = 128
EVERYDAY = [
    (480, 640),
    (640, 480),
    (1080, 1920),
    (481, 641),
    (65, 63),
    (64, 65),
    (100, 77),
    (33, 47),
    (32, 32),
    (720, 720),
]
EXTREME = [
    (1, 1),
    (1, 2),
    (2, 1),
    (1, 3),
    (3, 2),
    (1, 1000),
    (1000, 1),
    (2, 1000),
    (10, 640),
    (640, 10),
    (7, 999),
    (1, 40_000),
]
TARGETS = [(64, 64), (8, 8), (63, 65), (48, 96), (1, 1)]


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng(height * 10_007 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def cases(sizes: list[tuple[int, int]]) -> list[Any]:
    return [(size, target, mode) for size in sizes for target in TARGETS for mode in MODES]


@pytest.mark.parametrize(("size", "target", "mode"), cases(EVERYDAY + EXTREME), ids=str)
def test_any_image_becomes_a_frame_of_exactly_the_networks_size(
    size: tuple[int, int], target: tuple[int, int], mode: FitMode
) -> None:
    image = noise(*size)
    kept = image.copy()
    pixels, placement = Fit(*target, mode).apply(image)
    assert pixels.shape == (*target, 3)
    assert pixels.dtype == np.uint8
    assert placement.scale_x > 0
    assert placement.scale_y > 0
    np.testing.assert_array_equal(image, kept)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("target", TARGETS)
def test_an_image_of_the_right_size_passes_unchanged(target: tuple[int, int], mode: FitMode) -> None:
    image = noise(*target)
    pixels, placement = Fit(*target, mode).apply(image)
    assert pixels is image
    assert placement == Placement()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(480, 640), (77, 100), (31, 17), (1, 1)])
def test_an_image_of_one_colour_keeps_it(size: tuple[int, int], mode: FitMode) -> None:
    image = np.empty((*size, 3), np.uint8)
    image[:] = (10, 200, 90)
    pixels, _ = Fit(64, 64, mode).apply(image)
    padded = (pixels == GREY).all(axis=2)
    assert (padded | (pixels == (10, 200, 90)).all(axis=2)).all()
    assert (~padded).any()
    assert mode == "letterbox" or not padded.any()


@pytest.mark.parametrize(
    ("size", "bars"), [((480, 640), (8, 0)), ((640, 480), (0, 8)), ((32, 64), (16, 0)), ((64, 64 * 9), (29, 0))]
)
def test_a_letterbox_is_padded_with_mid_grey_equally_on_both_sides(
    size: tuple[int, int], bars: tuple[int, int]
) -> None:
    pixels, placement = Fit(64, 64, "letterbox").apply(np.full((*size, 3), 255, np.uint8))
    rows, columns = bars
    inside = round(size[0] * placement.scale_y), round(size[1] * placement.scale_x)
    top, left = (64 - inside[0] + 1) // 2, (64 - inside[1] + 1) // 2
    assert abs(top - rows) <= 1
    assert abs(left - columns) <= 1
    grey = (pixels == GREY).all(axis=2)
    white = (pixels == 255).all(axis=2)
    assert (grey | white).all()
    for axis in (0, 1):
        before, after = (int(np.argmin(grey.all(axis=1 - axis)[::way])) for way in (1, -1))
        assert abs(before - after) <= 1
    assert abs(int(white.any(axis=1).sum()) - inside[0]) <= 1
    assert abs(int(white.any(axis=0).sum()) - inside[1]) <= 1


def marked(size: tuple[int, int], box: tuple[int, int, int, int]) -> Pixels:
    """A black image with one white rectangle: left, top, width, height."""
    left, top, width, height = box
    image = np.zeros((*size, 3), np.uint8)
    image[top : top + height, left : left + width] = 255
    return image


def found(pixels: Pixels) -> tuple[float, float, float, float]:
    """The centre and the size of the bright rectangle, in the coordinates of pixel edges."""
    light = pixels[..., 0].astype(np.float64)
    bars = (pixels == GREY).all(axis=2)
    light[bars.all(axis=1)] = 0
    light[:, bars.all(axis=0)] = 0
    across, down = light.sum(axis=0), light.sum(axis=1)
    x = float((across * (np.arange(len(across)) + 0.5)).sum() / across.sum())
    y = float((down * (np.arange(len(down)) + 0.5)).sum() / down.sum())
    return x, y, float(down.max()) / 255, float(across.max()) / 255


def marker_in(size: tuple[int, int], across: float, down: float) -> tuple[int, int, int, int]:
    """A marker around a point given in shares of the middle square, which every mode shows."""
    height, width = size
    side = min(size)
    edge = max(3, side // 4)
    left = round((width - side) / 2 + across * (side - edge))
    top = round((height - side) / 2 + down * (side - edge))
    return left, top, edge, edge


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", EVERYDAY, ids=str)
def test_the_placement_says_where_the_pixels_landed(size: tuple[int, int], mode: FitMode) -> None:
    for across, down in [(0.2, 0.2), (0.8, 0.3), (0.5, 0.5), (0.3, 0.8)]:
        left, top, width, height = marker_in(size, across, down)
        pixels, placement = Fit(64, 64, mode).apply(marked(size, (left, top, width, height)))
        x, y, _, _ = found(pixels)
        # Half a pixel of the frame, or of the source where that is larger: a cut cannot be finer than a pixel.
        slack = 0.5 * max(1, placement.scale_x, placement.scale_y) + 0.1
        assert x == pytest.approx((left + width / 2) * placement.scale_x + placement.offset_x, abs=slack)
        assert y == pytest.approx((top + height / 2) * placement.scale_y + placement.offset_y, abs=slack)


@pytest.mark.parametrize(
    ("size", "mode"),
    [((33, 48), "crop"), ((31, 50), "crop"), ((700, 1000), "letterbox"), ((480, 650), "letterbox"), ((17, 30), "crop")],
    ids=str,
)
def test_the_placement_is_exact_where_cuts_and_bars_are_rounded(size: tuple[int, int], mode: FitMode) -> None:
    for across, down in [(0.1, 0.1), (0.9, 0.9), (0.5, 0.5)]:
        left, top, width, height = marker_in(size, across, down)
        pixels, placement = Fit(64, 64, mode).apply(marked(size, (left, top, width, height)))
        x, y, _, _ = found(pixels)
        assert x == pytest.approx((left + width / 2) * placement.scale_x + placement.offset_x, abs=0.1)
        assert y == pytest.approx((top + height / 2) * placement.scale_y + placement.offset_y, abs=0.1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(480, 640), (640, 480), (1080, 1920), (96, 128), (90, 120)], ids=str)
def test_a_box_found_in_the_frame_comes_back_in_source_pixels(size: tuple[int, int], mode: FitMode) -> None:
    spec = ModelSpec(
        frame=TensorSpec("frame", (1, 64, 64, 3), "uint8"),
        fit=mode,
        states=(),
        outputs=(TensorSpec("box", (1, 4), "float32"), TensorSpec("presence", (1, 1), "float32")),
        heads=(HeadSpec("target", "track", ("box", "presence")),),
    )
    decode = decoders(spec)["target"]
    marker = marker_in(size, 0.3, 0.6)
    pixels, placement = Fit.of(spec).apply(marked(size, marker))
    box = np.array([found(pixels)], np.float32) / 64
    track = decode({"box": box, "presence": np.zeros((1, 1), np.float32)}, placement, 0)
    assert isinstance(track, Track)
    assert (track.box.x, track.box.y, track.box.width, track.box.height) == pytest.approx(
        marker, abs=0.6 / min(placement.scale_x, placement.scale_y, 1)
    )
    assert track.presence == 0.5


@pytest.mark.parametrize("mode", MODES)
def test_shrinking_averages_fine_texture_away(mode: FitMode) -> None:
    stripes = np.zeros((640, 640, 3), np.uint8)
    stripes[:, ::2] = 255
    pixels, _ = Fit(64, 64, mode).apply(stripes)
    assert (abs(pixels.astype(int) - 127.5) < 2).all()


def test_shrinking_one_axis_averages_even_if_the_other_grows() -> None:
    stripes = np.zeros((60, 1000, 3), np.uint8)
    stripes[:, ::2] = 255
    pixels, _ = Fit(64, 64, "stretch").apply(stripes)
    assert (abs(pixels.astype(int) - 127.5) < 40).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("view", ["mirrored", "channels reversed", "every second", "Fortran order", "read-only"])
def test_a_view_is_as_good_as_an_array(mode: FitMode, view: str) -> None:
    image = noise(100, 120)
    locked = image.copy()
    locked.flags.writeable = False
    views: dict[str, Pixels] = {
        "mirrored": image[::-1, ::-1],
        "channels reversed": image[..., ::-1],
        "every second": image[::2, ::2],
        "Fortran order": np.asfortranarray(image),
        "read-only": locked,
    }
    fit = Fit(64, 64, mode)
    np.testing.assert_array_equal(fit.apply(views[view])[0], fit.apply(np.array(views[view], order="C"))[0])


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 1), np.uint8),
        np.zeros((10, 10, 4), np.uint8),
        np.zeros((1, 10, 10, 3), np.uint8),
        np.zeros((0, 10, 3), np.uint8),
        np.zeros((10, 0, 3), np.uint8),
        np.zeros((10, 10, 3), np.float32),
        np.zeros((10, 10, 3), np.int8),
        np.zeros((), np.uint8),
    ],
    ids=lambda image: f"{image.dtype}{image.shape}",
)
@pytest.mark.parametrize("mode", MODES)
def test_what_is_no_rgb_image_is_refused(image: Any, mode: FitMode) -> None:
    with pytest.raises(FrameError, match=r"an image of \w+ \("):
        Fit(8, 8, mode).apply(image)


@pytest.mark.parametrize("image", [None, [[[0, 0, 0]]], b"abc"], ids=["None", "list", "bytes"])
def test_what_is_no_array_is_refused(image: Any) -> None:
    with pytest.raises(FrameError):
        Fit(8, 8, "crop").apply(image)


def test_a_fitted_image_never_shares_memory_with_its_source() -> None:
    image = noise(10, 8)
    pixels, _ = Fit(8, 8, "crop").apply(image)
    assert not np.shares_memory(pixels, image)
