from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from edge_cnnlstm.errors import BackendError, ClosedError, ConfigError, SourceError
from edge_cnnlstm.runtime.backends.scripted import Script, ScriptedBackend
from edge_cnnlstm.runtime.cameras import Cameras
from edge_cnnlstm.runtime.frame import Frame, Pixels
from edge_cnnlstm.runtime.group import StreamGroup
from edge_cnnlstm.runtime.sources.array import ArraySource
from edge_cnnlstm.runtime.stream import WARM_UP_STEPS, Stream
from edge_cnnlstm.spec import ModelSpec
from tests.conftest import tiny_frames

LENGTHS = {"left": 30, "right": 12, "rear": 21}


@pytest.fixture
def group(tiny_spec: ModelSpec, tiny_script: Script) -> StreamGroup:
    return StreamGroup(ScriptedBackend(tiny_spec.batched(3), tiny_script))


def footage() -> dict[str, list[Pixels]]:
    return {name: list(tiny_frames(count, seed=count)) for name, count in LENGTHS.items()}


def sources(images: dict[str, list[Pixels]]) -> dict[str, ArraySource]:
    return {name: ArraySource(frames, name=name) for name, frames in images.items()}


def collected(cameras: Cameras) -> dict[str, list[bytes]]:
    said: dict[str, list[bytes]] = {name: [] for name in LENGTHS}
    for answers in cameras:
        for name, (frame, prediction) in answers.items():
            assert prediction.frame_index == frame.index
            said[name].append(prediction.scores.tobytes())
    return said


def test_each_camera_is_answered_as_if_it_were_alone(
    group: StreamGroup, tiny_spec: ModelSpec, tiny_script: Script
) -> None:
    images = footage()
    said = collected(Cameras(sources(images), group, "every"))
    for name, frames in images.items():
        lone = Stream(ScriptedBackend(tiny_spec, tiny_script))
        assert said[name] == [lone.step(pixels).scores.tobytes() for pixels in frames]


@pytest.mark.parametrize("policy", ["newest", "every", "skip-2"])
def test_every_cameras_account_adds_up(group: StreamGroup, policy: str) -> None:
    cameras = Cameras(sources(footage()), group, policy)
    said = collected(cameras)
    for name, counts in cameras.counts.items():
        assert counts.produced == LENGTHS[name]
        assert (counts.predicted, counts.waiting) == (len(said[name]), 0)
        assert counts.produced == counts.predicted + counts.dropped


def test_cameras_in_step_share_a_batch(group: StreamGroup) -> None:
    together = threading.Barrier(3)

    class InStep(ArraySource):
        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                together.wait(20)
                yield frame

    images = {name: list(tiny_frames(8, seed=at)) for at, name in enumerate(LENGTHS)}
    cameras = Cameras({name: InStep(frames) for name, frames in images.items()}, group, "every", gather_ms=5_000)
    assert [len(answers) for answers in cameras] == [3] * 8


def test_a_frame_that_does_not_fit_costs_the_others_nothing(
    group: StreamGroup, tiny_spec: ModelSpec, tiny_script: Script
) -> None:
    images = footage()
    good = list(images["left"])
    images["left"][5:5] = [np.zeros((9, 9, 3), np.uint8)] * 7
    cameras = Cameras(sources(images), group, "every")
    said = collected(cameras)
    lone = Stream(ScriptedBackend(tiny_spec, tiny_script))
    assert said["left"] == [lone.step(pixels).scores.tobytes() for pixels in good]
    assert cameras.counts["left"].refused == 7
    assert len(said["right"]) == LENGTHS["right"]


def test_a_camera_that_breaks_leaves_and_the_others_go_on(group: StreamGroup) -> None:
    class Breaking(ArraySource):
        def __iter__(self) -> Iterator[Frame]:
            yield from super().__iter__()
            raise SourceError("unplugged", expected="a camera", fix="plug it in")

    images = footage()
    cameras = Cameras({**sources(images), "right": Breaking(images["right"])}, group, "every")
    said = collected(cameras)
    assert {name: len(found) for name, found in said.items()} == LENGTHS
    assert list(cameras.errors) == ["right"]
    assert "unplugged" in str(cameras.errors["right"])
    assert not group.members


def test_a_failing_engine_is_raised_and_its_frames_are_accounted_for(tiny_spec: ModelSpec, tiny_script: Script) -> None:
    failing = ScriptedBackend(tiny_spec.batched(3), tiny_script, fail_at=frozenset({WARM_UP_STEPS + 3}))
    cameras = Cameras(sources(footage()), StreamGroup(failing), "every")
    with pytest.raises(BackendError, match=f"step {WARM_UP_STEPS + 3}"):
        list(cameras)
    for counts in cameras.counts.values():
        assert counts.produced == counts.predicted + counts.dropped
        assert counts.waiting == 0


def test_stop_ends_the_iteration(group: StreamGroup) -> None:
    def endless() -> Iterator[Pixels]:
        while True:
            time.sleep(0.001)
            yield np.zeros((8, 8, 3), np.uint8)

    cameras = Cameras({name: ArraySource(endless()) for name in LENGTHS}, group)
    for number, _ in enumerate(cameras):
        if number == 10:
            cameras.stop()
    assert all(counts.produced == counts.predicted + counts.dropped for counts in cameras.counts.values())
    with pytest.raises(ClosedError):
        list(cameras)


def test_more_cameras_than_slots_are_refused(group: StreamGroup) -> None:
    with pytest.raises(ConfigError, match="3 slots"):
        Cameras({str(at): ArraySource([]) for at in range(4)}, group)
