from __future__ import annotations

import io
import pickle
import struct

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_cnnlstm.bundle import archive, golden
from edge_cnnlstm.bundle.golden import Golden
from edge_cnnlstm.errors import BundleError
from edge_cnnlstm.spec import ModelSpec


class Trap:
    """Unpickling this is noticed."""

    sprung = False

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return spring, ()


def spring() -> None:
    Trap.sprung = True


def npy(header: str, body: bytes = b"") -> bytes:
    """An array file with any header, however wrong."""
    padding = 63 - (10 + len(header)) % 64
    return (
        b"\x93NUMPY\x01\x00"
        + struct.pack("<H", len(header) + padding + 1)
        + header.encode()
        + b" " * padding
        + (b"\n" + body)
    )


def described(descr: str, shape: str) -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"


def plain(array: NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


FRAMES = plain(np.zeros((2, 4, 4, 3), np.uint8))
RESETS = plain(np.zeros(2, np.bool_))


def test_a_rollout_survives(tiny_golden: Golden) -> None:
    again = golden.parse(golden.dump(tiny_golden))
    np.testing.assert_array_equal(again.frames, tiny_golden.frames)
    np.testing.assert_array_equal(again.resets, tiny_golden.resets)
    assert again.frames.dtype == np.dtype(np.uint8)
    assert again.resets.dtype == np.dtype(np.bool_)
    assert again.expected.keys() == {"tiny"}
    for name, array in tiny_golden.expected["tiny"].items():
        np.testing.assert_array_equal(again.expected["tiny"][name], array)


def test_the_times_between_frames_survive(tiny_dt_golden: Golden, tiny_golden: Golden) -> None:
    again = golden.parse(golden.dump(tiny_dt_golden))
    assert again.dt is not None
    assert tiny_dt_golden.dt is not None
    np.testing.assert_array_equal(again.dt, tiny_dt_golden.dt)
    assert again.dt.dtype == np.dtype(np.float32)
    assert golden.parse(golden.dump(tiny_golden)).dt is None


@pytest.mark.parametrize(
    "dt",
    [
        np.array([0, 0.1], np.float64),
        np.array([0, 1], np.int32),
        np.array([0, 0.1, 0.1], np.float32),
        np.array([[0], [0.1]], np.float32),
        np.array([0, np.nan], np.float32),
        np.array([0, np.inf], np.float32),
        np.array([0, -0.1], np.float32),
        np.array([0.1, 0.1], np.float32),
    ],
    ids=lambda dt: f"{dt.dtype}{dt.tolist()}",
)
def test_what_is_no_time_since_a_frame_is_refused(dt: NDArray[np.generic]) -> None:
    with pytest.raises(BundleError, match="whose dt is"):
        golden.parse(archive.encode({"frames.npy": FRAMES, "resets.npy": RESETS, "dt.npy": plain(dt)}))


def test_time_does_not_pass_over_a_reset() -> None:
    members = {"frames.npy": FRAMES, "resets.npy": plain(np.array([False, True]))}
    with pytest.raises(BundleError, match="not 0 where the memory is empty"):
        golden.parse(archive.encode({**members, "dt.npy": plain(np.array([0, 0.1], np.float32))}))


def test_a_rollout_tells_the_time_exactly_where_its_model_asks(
    tiny_golden: Golden, tiny_dt_golden: Golden, tiny_spec: ModelSpec, tiny_dt_spec: ModelSpec
) -> None:
    golden.check(tiny_golden, tiny_spec, ["tiny"])
    golden.check(tiny_dt_golden, tiny_dt_spec, ["tiny"])
    with pytest.raises(BundleError, match="without dt, unlike its model"):
        golden.check(tiny_golden, tiny_dt_spec, ["tiny"])
    with pytest.raises(BundleError, match="with dt, unlike its model"):
        golden.check(tiny_dt_golden, tiny_spec, ["tiny"])


def test_the_bytes_depend_on_the_arrays_alone(tiny_golden: Golden) -> None:
    again = golden.parse(golden.dump(tiny_golden))
    assert golden.dump(again) == golden.dump(tiny_golden)


def test_numpy_itself_can_read_it(tiny_golden: Golden) -> None:
    with np.load(io.BytesIO(golden.dump(tiny_golden)), allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["frames"], tiny_golden.frames)


@pytest.mark.parametrize("missing", ["frames", "resets"])
def test_a_missing_array_is_refused(missing: str) -> None:
    members = {"frames.npy": FRAMES, "resets.npy": RESETS}
    del members[f"{missing}.npy"]
    with pytest.raises(BundleError, match=missing):
        golden.parse(archive.encode(members))


@pytest.mark.parametrize("place", ["frames.npy", "tiny/digit_logits.npy"])
def test_a_pickle_is_refused_and_not_run(place: str) -> None:
    Trap.sprung = False
    trapped = np.empty(1, object)
    trapped[0] = Trap()
    members = {"frames.npy": FRAMES, "resets.npy": RESETS, place: plain(trapped)}
    with pytest.raises(BundleError, match="pickle"):
        golden.parse(archive.encode(members))
    assert not Trap.sprung
    pickle.loads(pickle.dumps(Trap()))  # noqa: S301 - shows that the trap works
    assert Trap.sprung


def test_a_bare_pickle_is_refused_and_not_run() -> None:
    Trap.sprung = False
    with pytest.raises(BundleError):
        golden.parse(archive.encode({"frames.npy": pickle.dumps(Trap()), "resets.npy": RESETS}))
    assert not Trap.sprung


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY", FRAMES[:-1], FRAMES[:100], b"\x93NUMPY\x09\x00" + FRAMES[8:]])
def test_a_broken_array_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match="golden rollout"):
        golden.parse(archive.encode({"frames.npy": data, "resets.npy": RESETS}))


@pytest.mark.parametrize("data", [b"", b"PK", FRAMES])
def test_what_is_no_archive_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        golden.parse(data)


@pytest.mark.parametrize(
    "header",
    [
        described("'|u1'", "(-1,)"),
        described("'|u1'", "(4294967296, 4294967296)"),
        described("'|O'", "(1,)"),
        described("'nonsense'", "(1,)"),
        described("'|u1'", "7"),
        "{1, 2}",
        "{}",
        "\0",
    ],
)
def test_a_header_that_lies_is_refused(header: str) -> None:
    with pytest.raises(BundleError, match="golden rollout"):
        golden.parse(archive.encode({"frames.npy": npy(header), "resets.npy": RESETS}))


@pytest.mark.parametrize(
    "header",
    [
        described("'|u1'", f"({1 << 46},)"),
        described("'|u1'", f"({1 << 70},)"),
        described("'|u1'", "(True,)"),
        described("'|u1'", "((((("),
        "{1: 2, 'descr': 3}",
        "{[]: 1}",
        "-" * 9000 + "1",
    ],
    ids=len,
)
def test_a_header_made_to_upset_numpy_is_refused(header: str) -> None:
    with pytest.raises(BundleError):
        golden.parse(archive.encode({"frames.npy": npy(header, body=b"\0"), "resets.npy": RESETS}))


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 4, 4, 3), np.float32),
        np.full((2, 4, 4, 3), 300, np.int64),
        np.zeros((2, 4, 4, 3), "<M8[s]"),
        np.zeros((2, 4, 4, 3), "<U3"),
        np.zeros((2, 4, 4, 3), [("a", "<f4")]),
        np.zeros((2, 48), np.uint8),
        np.zeros((3, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 4, 3), np.uint8),
    ],
    ids=lambda frames: f"{frames.dtype}{frames.shape}",
)
def test_frames_of_another_type_or_shape_are_refused(frames: NDArray[np.generic]) -> None:
    with pytest.raises(BundleError):
        golden.parse(archive.encode({"frames.npy": plain(frames), "resets.npy": RESETS}))


def test_two_arrays_of_one_name_are_refused() -> None:
    with pytest.raises(BundleError):
        golden.parse(archive.encode({"frames.npy": FRAMES, "resets.npy": RESETS, "frames": FRAMES}))
