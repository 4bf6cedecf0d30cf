"""A GPU whose context dies under a step, as streams, groups and pipelines see it; the GPU itself is not here."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_cnnlstm.errors import BackendError, ContextLostError
from edge_cnnlstm.runtime.backends.base import Arrays
from edge_cnnlstm.runtime.backends.scripted import Script, ScriptedBackend
from edge_cnnlstm.runtime.cameras import Cameras
from edge_cnnlstm.runtime.group import StreamGroup
from edge_cnnlstm.runtime.pipeline import Pipeline
from edge_cnnlstm.runtime.realtime import OFF, Realtime
from edge_cnnlstm.runtime.sources.array import ArraySource
from edge_cnnlstm.runtime.stream import Stream
from edge_cnnlstm.spec import ModelSpec
from tests.conftest import tiny_frames
from tests.runtime.doubles import said

WARM_UP = 10


class Mortal(ScriptedBackend):
    """Loses its context at these steps, counted from the first after warming up, and comes back with other buffers."""

    def __init__(self, spec: ModelSpec, script: Script, *dies_at: int, rehearsal: int = -1) -> None:
        super().__init__(spec, script)
        self._dies_at = {WARM_UP + step for step in dies_at}
        self._rehearsals = rehearsal
        self._made = 0

    def infer(self) -> Arrays:
        self._made += 1
        if self._made - 1 in self._dies_at:
            raise self._come_back()
        return super().infer()

    def rehearse(self) -> None:
        self._rehearsals -= 1
        if self._rehearsals == -1:
            raise self._come_back()
        super().rehearse()

    def _come_back(self) -> ContextLostError:
        fresh = ScriptedBackend(self.spec, self._script)
        self.frames, self.dt, self.state = fresh.frames, fresh.dt, fresh.state
        return ContextLostError("the GPU's context died", expected="none to die", fix="go on")


@pytest.fixture
def frames() -> NDArray[np.uint8]:
    return tiny_frames(8, seed=4)


def test_the_frame_is_lost_and_the_next_one_starts_from_an_empty_memory(
    tiny_spec: ModelSpec, tiny_script: Script, frames: NDArray[np.uint8]
) -> None:
    with Stream(ScriptedBackend(tiny_spec, tiny_script)) as sound, Stream(Mortal(tiny_spec, tiny_script, 3)) as stream:
        for pixels in frames[:3]:
            stream.step(pixels)
        with pytest.raises(ContextLostError):
            stream.step(frames[3])

        for number, pixels in enumerate(frames[4:]):
            expected, found = sound.step(pixels), stream.step(pixels)
            assert said(found) == said(expected)
            assert found.first_after_reset == (number == 0)
            assert found.reset_reason == ("engine rebuilt" if number == 0 else None)
        assert dict(stream.resets) == {"engine rebuilt": 1}


def test_a_context_that_dies_in_a_rehearsal_costs_no_frame(
    tiny_spec: ModelSpec, tiny_script: Script, frames: NDArray[np.uint8]
) -> None:
    with Stream(Mortal(tiny_spec, tiny_script, rehearsal=0)) as stream:
        first = stream.step(frames[0])
        stream.rehearse()

        again = stream.step(frames[0])

        assert said(again) == said(first)
        assert again.reset_reason == "engine rebuilt"


def test_a_pipeline_drops_that_frame_with_a_word_and_goes_on(
    tiny_spec: ModelSpec, tiny_script: Script, frames: NDArray[np.uint8], caplog: pytest.LogCaptureFixture
) -> None:
    with Stream(Mortal(tiny_spec, tiny_script, 3)) as stream:
        pipeline = Pipeline(ArraySource(frames, fit=stream.fit), stream, "every")

        answered = [frame.index for frame, _ in pipeline]

        assert answered == [0, 1, 2, 4, 5, 6, 7]
        assert (pipeline.counts.predicted, pipeline.counts.dropped, pipeline.counts.refused) == (7, 1, 0)
    assert [record.levelno for record in caplog.records if "context died" in record.message] == [logging.WARNING]


def test_a_second_death_ends_a_pipeline(tiny_spec: ModelSpec, tiny_script: Script, frames: NDArray[np.uint8]) -> None:
    class Dead(Mortal):
        def infer(self) -> Arrays:
            try:
                return super().infer()
            except ContextLostError as error:
                if self._made > WARM_UP + 4:
                    raise BackendError("the GPU's context died again", expected="life", fix="restart") from error
                raise

    with Stream(Dead(tiny_spec, tiny_script, 3, 5)) as stream:
        pipeline = Pipeline(ArraySource(frames, fit=stream.fit), stream, "every")
        answered = []
        with pytest.raises(BackendError, match="died again"):
            answered += [frame.index for frame, _ in pipeline]
        assert pipeline.counts.predicted == 4
        assert pipeline.counts.produced == pipeline.counts.predicted + pipeline.counts.dropped


@pytest.mark.parametrize("realtime", [OFF, Realtime(priority=None)], ids=["plain", "kept warm"])
def test_cameras_drop_one_frame_each_and_every_memory_is_empty(
    tiny_spec: ModelSpec, tiny_script: Script, frames: NDArray[np.uint8], realtime: Realtime
) -> None:
    with StreamGroup(Mortal(tiny_spec.batched(2), tiny_script, 2)) as group:
        sources = {name: ArraySource(frames, fit=group.fit) for name in ("left", "right")}
        cameras = Cameras(sources, group, "every", gather_ms=1000, realtime=realtime)

        reasons = [
            (name, prediction.frame_index, prediction.reset_reason)
            for answers in cameras
            for name, (_, prediction) in answers.items()
            if prediction.first_after_reset
        ]

        assert sorted(reasons) == [
            ("left", 0, "start"), ("left", 3, "engine rebuilt"), ("right", 0, "start"), ("right", 3, "engine rebuilt"),
        ]  # fmt: skip
        assert {counts.dropped for counts in cameras.counts.values()} == {1}


def test_slots_that_were_not_in_the_step_are_emptied_too(
    tiny_spec: ModelSpec, tiny_script: Script, frames: NDArray[np.uint8]
) -> None:
    spec = replace(tiny_spec.batched(2))
    with StreamGroup(Mortal(spec, tiny_script, 1)) as group:
        left, right = group.join("left"), group.join("right")
        group.step({left: frames[0], right: frames[1]})
        with pytest.raises(ContextLostError):
            group.step({left: frames[2]})

        assert dict(left.resets) == dict(right.resets) == {"engine rebuilt": 1}
        assert not any(array.any() for array in group.snapshot(right).values())
