"""The tiny networks of the tests are what they are said to be, in numpy as in ONNX, for one stream as for many."""

from __future__ import annotations

import numpy as np
import pytest

from edge_cnnlstm.bundle.golden import Golden
from edge_cnnlstm.runtime.backends.ort import open_session
from edge_cnnlstm.runtime.backends.scripted import Script
from edge_cnnlstm.spec import ModelSpec
from tests.conftest import DtScript, tiny_frames

STREAMS, STEPS = 3, 5


def test_both_scripts_take_the_course_of_their_graphs(
    tiny_spec: ModelSpec,
    tiny_script: Script,
    tiny_golden: Golden,
    tiny_dt_script: DtScript,
    tiny_dt_golden: Golden,
) -> None:
    for golden in (tiny_golden, tiny_dt_golden):
        state = empty = {pair.input: pair.zeros() for pair in tiny_spec.states}
        for at, pixels in enumerate(golden.frames):
            state = empty if golden.resets[at] else state
            outputs, state = (
                tiny_script(pixels, state) if golden.dt is None else tiny_dt_script(pixels, state, golden.dt[at])
            )
            for name, values in outputs.items():
                np.testing.assert_allclose(values[0], golden.expected["tiny"][name][at], rtol=1e-4, atol=1e-5)
        for pair in tiny_spec.states:
            np.testing.assert_allclose(state[pair.input], golden.expected["tiny"][pair.output], rtol=1e-4, atol=1e-5)


def test_missed_frames_make_a_difference(tiny_golden: Golden, tiny_dt_golden: Golden) -> None:
    apart = np.abs(
        np.asarray(tiny_golden.expected["tiny"]["digit_logits"], np.float32)
        - np.asarray(tiny_dt_golden.expected["tiny"]["digit_logits"], np.float32)
    ).max(axis=1)

    assert not apart[:2].any()
    assert apart[2] > 0.1
    assert apart[9] > 0.1


@pytest.mark.parametrize("told", [False, True])
def test_streams_of_a_batch_are_as_if_each_were_alone(
    tiny_spec: ModelSpec, tiny_onnx: bytes, tiny_dt_onnx: bytes, told: bool
) -> None:
    graph, spec = tiny_dt_onnx if told else tiny_onnx, tiny_spec.batched(STREAMS)
    frames = tiny_frames(STREAMS * STEPS, seed=8).reshape(STEPS, STREAMS, 8, 8, 3)
    together, alone = open_session(graph, batch=STREAMS), [open_session(graph) for _ in range(STREAMS)]
    names = [*(output.name for output in spec.outputs), *(pair.output for pair in spec.states)]
    memory = {pair.input: pair.zeros() for pair in spec.states}
    memories = [{name: values[:, [which]] for name, values in memory.items()} for which in range(STREAMS)]
    for moment in frames:
        dt = np.linspace(0, 1, STREAMS, dtype=np.float32)[:, None]
        time = {"dt": dt} if told else {}
        found = dict(zip(names, together.run(names, {"frame": moment, **time, **memory}), strict=True))
        memory = {pair.input: found[pair.output] for pair in spec.states}
        for which, session in enumerate(alone):
            time = {"dt": dt[[which]]} if told else {}
            fed = {"frame": moment[[which]], **time, **memories[which]}
            single = dict(zip(names, session.run(names, fed), strict=True))
            memories[which] = {pair.input: single[pair.output] for pair in spec.states}
            np.testing.assert_allclose(found["digit_logits"][which], single["digit_logits"][0], rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(found["c_next"][:, [which]], single["c_next"], rtol=1e-5, atol=1e-5)
