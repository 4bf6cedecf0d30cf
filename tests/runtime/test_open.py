from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edge_cnnlstm
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle import golden
from edge_cnnlstm.bundle.golden import Golden
from edge_cnnlstm.bundle.manifest import Graph, Manifest
from edge_cnnlstm.errors import BackendError, BundleError, ConfigError, DependencyError
from edge_cnnlstm.runtime.backends.ort import OnnxRuntimeBackend
from edge_cnnlstm.runtime.selection import BACKENDS, preferred_graph
from edge_cnnlstm.spec import TensorSpec
from tests.conftest import SECOND_RESET, STEPS, tiny_frames

Course = dict[str, NDArray[np.float32]]
Rewrite = Callable[..., Path]


@pytest.fixture
def rewrite(tmp_path: Path, tiny_manifest: Manifest, tiny_members: dict[str, bytes]) -> Rewrite:
    """Writes the tiny bundle with another golden rollout, graph or manifest: consistent, and wrong."""

    def rewritten(
        rollout: Golden | None = None, graph: bytes | None = None, described: Manifest = tiny_manifest
    ) -> Path:
        members = dict(tiny_members)
        if rollout is not None:
            members["golden.npz"] = golden.dump(rollout)
        if graph is not None:
            members["graphs/tiny.onnx"] = graph
        bundle_format.write(tmp_path / "rewritten.edge", described, members)
        return tmp_path / "rewritten.edge"

    return rewritten


def course_of(rollout: Golden) -> Course:
    return {name: array.astype(np.float32) for name, array in rollout.expected["tiny"].items()}


@pytest.mark.parametrize("as_text", [False, True], ids=["Path", "str"])
def test_a_bundle_opens_and_answers_as_its_golden_rollout_says(
    tiny_bundle: Path, tiny_golden: Golden, as_text: bool
) -> None:
    expected = tiny_golden.expected["tiny"]
    with edge_cnnlstm.open(str(tiny_bundle) if as_text else tiny_bundle) as stream:
        for time, pixels in enumerate(tiny_golden.frames):
            if time == SECOND_RESET:
                stream.reset("golden")
            prediction = stream.step(pixels)
            best = int(expected["digit_logits"][time].argmax())
            assert prediction.label == ("zero", "one", "two")[best]
            assert prediction.frame_index == time
            assert prediction.first_after_reset == (time in (0, SECOND_RESET))
            centre_x, centre_y, width, height = expected["target_box"][time].astype(float) * 8
            box = prediction.box
            np.testing.assert_allclose(
                (box.x, box.y, box.width, box.height),
                (centre_x - width / 2, centre_y - height / 2, width, height),
                atol=1e-4,
            )
        memory = stream.snapshot()
        for pair in stream.spec.states:
            np.testing.assert_allclose(memory[pair.input].astype(float), expected[pair.output].astype(float), atol=1e-5)
        assert stream.backend.name in BACKENDS
        assert (stream.fit.height, stream.fit.width, stream.fit.mode) == (8, 8, "letterbox")


def test_a_freshly_opened_stream_remembers_neither_proof_nor_warm_up(tiny_bundle: Path) -> None:
    with edge_cnnlstm.open(tiny_bundle) as stream:
        assert all(not array.any() for array in stream.snapshot().values())
        assert stream.step(tiny_frames(1, seed=1)[0]).first_after_reset
        assert stream.latency.stages["age"].count == 1


def test_two_streams_of_one_bundle_are_strangers(tiny_bundle: Path) -> None:
    frames = tiny_frames(6, seed=2)
    with edge_cnnlstm.open(tiny_bundle) as stream:
        alone = [stream.step(pixels).scores for pixels in frames]
    with edge_cnnlstm.open(tiny_bundle) as stream, edge_cnnlstm.open(tiny_bundle) as other:
        for expected, pixels in zip(alone, frames, strict=True):
            other.step(255 - pixels)
            np.testing.assert_array_equal(stream.step(pixels).scores, expected)


def test_an_unknown_backend_is_refused_before_the_bundle_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"backend 'abacus'\n  expected: one of auto, onnxruntime"):
        edge_cnnlstm.open(tmp_path / "nowhere.edge", backend="abacus")


def test_an_unknown_graph_is_named_with_the_known_ones(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"no graph 'huge'.*\n.*one of tiny"):
        edge_cnnlstm.open(tiny_bundle, graph="huge")


def test_a_graph_can_be_named(tiny_bundle: Path) -> None:
    edge_cnnlstm.open(tiny_bundle, backend="onnxruntime", graph="tiny", threads=2).close()


def test_the_first_graph_in_a_dialect_of_the_backend_is_preferred(tiny_manifest: Manifest) -> None:
    def graph(dialect: Any) -> Graph:
        return Graph(dialect, "graphs/tiny.onnx", dialect, "fp32", 1e-5)

    tensorrt, portable, fast = graph("tensorrt"), graph("portable"), graph("onnxruntime")
    assert preferred_graph(replace(tiny_manifest, graphs=(tensorrt, fast, portable))) == fast
    assert preferred_graph(replace(tiny_manifest, graphs=(tensorrt, portable, fast))) == portable
    with pytest.raises(ConfigError, match=r"graphs \['tensorrt'\]"):
        preferred_graph(replace(tiny_manifest, graphs=(tensorrt,)))


def test_a_graph_that_is_not_what_the_manifest_says_is_refused(rewrite: Rewrite, tiny_manifest: Manifest) -> None:
    spec = tiny_manifest.model
    wider = replace(spec, frame=TensorSpec("frame", (1, 8, 16, 3), "uint8"))
    with pytest.raises(BackendError, match="what the manifest says"):
        edge_cnnlstm.open(rewrite(described=replace(tiny_manifest, model=wider)))


def test_a_member_that_is_no_graph_is_refused(rewrite: Rewrite) -> None:
    with pytest.raises(BackendError, match="refused the graph"):
        edge_cnnlstm.open(rewrite(graph=b"\x00" * 64))


@pytest.mark.parametrize("tensor", ["digit_logits", "target_box", "target_presence", "h_next", "c_next"])
def test_an_engine_that_strays_from_the_golden_rollout_is_refused(
    rewrite: Rewrite, tiny_golden: Golden, tensor: str
) -> None:
    course = course_of(tiny_golden)
    course[tensor].flat[-1] += np.float32(1e-3)
    with pytest.raises(BackendError, match=rf"most in '{tensor}'\n  expected: at most 1e-05"):
        edge_cnnlstm.open(rewrite(replace(tiny_golden, expected={"tiny": course})))


@pytest.mark.parametrize("value", [np.nan, 1e30])
def test_a_golden_rollout_with_values_that_no_engine_gives_is_refused(
    rewrite: Rewrite, tiny_golden: Golden, value: float
) -> None:
    course = course_of(tiny_golden)
    course["target_presence"].flat[3] = np.float32(value)
    with pytest.raises(BackendError, match="golden rollout"):
        edge_cnnlstm.open(rewrite(replace(tiny_golden, expected={"tiny": course})))


def test_a_lost_reset_in_the_golden_rollout_is_noticed(rewrite: Rewrite, tiny_golden: Golden) -> None:
    resets = tiny_golden.resets.copy()
    resets[SECOND_RESET] = False
    with pytest.raises(BackendError, match="golden rollout"):
        edge_cnnlstm.open(rewrite(replace(tiny_golden, resets=resets)))


def test_swapped_memory_is_noticed(rewrite: Rewrite, tiny_golden: Golden) -> None:
    course = course_of(tiny_golden)
    course["h_next"], course["c_next"] = course["c_next"], course["h_next"]
    with pytest.raises(BackendError, match="golden rollout"):
        edge_cnnlstm.open(rewrite(replace(tiny_golden, expected={"tiny": course})))


def _without_the_graph(rollout: Golden) -> Golden:
    return replace(rollout, expected={"another": rollout.expected["tiny"]})


def _without_an_output(rollout: Golden) -> Golden:
    course = course_of(rollout)
    del course["target_box"]
    return replace(rollout, expected={"tiny": course})


def _without_a_state(rollout: Golden) -> Golden:
    course = course_of(rollout)
    del course["c_next"]
    return replace(rollout, expected={"tiny": course})


def _without_outputs(rollout: Golden) -> Golden:
    course = course_of(rollout)
    return replace(rollout, expected={"tiny": {name: course[name] for name in ("h_next", "c_next")}})


def _unknown_tensor(rollout: Golden) -> Golden:
    return replace(rollout, expected={"tiny": {**course_of(rollout), "elsewhere": np.zeros(3, np.float32)}})


def _another_shape(rollout: Golden) -> Golden:
    return replace(rollout, expected={"tiny": {**course_of(rollout), "target_box": np.zeros(3, np.float32)}})


def _text(rollout: Golden) -> Golden:
    return replace(rollout, expected={"tiny": {**course_of(rollout), "target_box": np.full((STEPS, 4), "x")}})


def _other_frames(rollout: Golden) -> Golden:
    return replace(rollout, frames=np.zeros((STEPS, 9, 8, 3), np.uint8))


def _fewer_resets(rollout: Golden) -> Golden:
    return replace(rollout, resets=rollout.resets[:-1])


def _no_frames(rollout: Golden) -> Golden:
    course = {name: array[:0] for name, array in course_of(rollout).items()}
    return Golden(rollout.frames[:0], rollout.resets[:0], {"tiny": course})


@pytest.mark.parametrize(
    "change",
    [
        _without_the_graph,
        _without_an_output,
        _without_a_state,
        _without_outputs,
        _unknown_tensor,
        _another_shape,
        _text,
        _other_frames,
        _fewer_resets,
        _no_frames,
    ],
)
def test_a_golden_rollout_that_is_not_about_this_model_is_refused(
    rewrite: Rewrite, tiny_golden: Golden, change: Callable[[Golden], Golden]
) -> None:
    with pytest.raises(BundleError):
        edge_cnnlstm.open(rewrite(change(tiny_golden)))


def test_a_missing_onnx_runtime_is_named_with_the_command_that_installs_it(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DependencyError, match=r"onnxruntime to be installed\n.*pip install 'edge-cnnlstm\[ort\]'"):
        edge_cnnlstm.open(tiny_bundle, backend="onnxruntime")


def test_an_engine_that_fails_its_proof_is_closed(
    rewrite: Rewrite, tiny_golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[OnnxRuntimeBackend] = []
    close = OnnxRuntimeBackend.close

    def counting(self: OnnxRuntimeBackend) -> None:
        closed.append(self)
        close(self)

    monkeypatch.setattr(OnnxRuntimeBackend, "close", counting)
    course = course_of(tiny_golden)
    course["digit_logits"].flat[0] += np.float32(1)
    with pytest.raises(BackendError, match="strays"):
        edge_cnnlstm.open(rewrite(replace(tiny_golden, expected={"tiny": course})))
    assert len(closed) == 1


@pytest.mark.parametrize("threads", [0, -1, "2"])
def test_a_number_of_threads_that_is_none_is_refused(tiny_bundle: Path, threads: Any) -> None:
    with pytest.raises(ConfigError, match="threads"):
        edge_cnnlstm.open(tiny_bundle, threads=threads)
