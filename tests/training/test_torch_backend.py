"""A trained network behind the runtime's stream answers as its sequence does, and keeps its memory to itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edge_cnnlstm.errors import BackendError, ClosedError
from edge_cnnlstm.runtime.backends.base import Backend, advance
from edge_cnnlstm.runtime.stream import Stream
from edge_cnnlstm.training.config import HeadConfig, ModelConfig
from edge_cnnlstm.training.evaluate import torch_answer
from edge_cnnlstm.training.model import CnnLstm
from edge_cnnlstm.training.torch_backend import TorchBackend

HEADS = (
    HeadConfig(name="digit", task="classify", labels=("a", "b", "c")),
    HeadConfig(name="fall", task="classify", labels=("no", "yes")),
    HeadConfig(name="pose", task="regress", labels=("x",), centre=(5.0,), spread=(2.0,)),
    HeadConfig(name="target", task="track"),
)


def network(*, layers: int = 2, scan: str = "frames") -> CnnLstm:
    torch.manual_seed(0)
    backbone = {"kind": "conv", "channels": (4,), "strides": (4,), "where_channels": 0}
    given = {"height": 16, "width": 24, "backbone": backbone, "layers": layers, "hidden": 8, "scan": scan}
    return CnnLstm(ModelConfig.model_validate({**given, "heads": HEADS})).eval()


def frames(count: int = 6) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (count, 16, 24, 3), dtype=np.uint8)


@pytest.mark.parametrize(("layers", "scan"), [(2, "frames"), (0, "frames"), (1, "rows")])
def test_a_stream_of_it_answers_as_the_whole_clip_does(layers: int, scan: str) -> None:
    model = network(layers=layers, scan=scan)
    together = torch_answer(model)(frames())

    backend: Backend = TorchBackend(model)
    with Stream(backend) as stream:
        answers = [stream.step(frame).answers for frame in frames()]

    expected = torch.from_numpy(together["digit_logits"]).softmax(-1).numpy()
    np.testing.assert_allclose([each["digit"].scores for each in answers], expected, atol=1e-5)  # type: ignore[union-attr]
    yes = torch.from_numpy(together["fall_logits"]).sigmoid().numpy()[:, 0]
    np.testing.assert_allclose([each["fall"].scores[1] for each in answers], yes, atol=1e-5)  # type: ignore[union-attr]
    values = [each["pose"].values["x"] for each in answers]  # type: ignore[union-attr]
    np.testing.assert_allclose(values, together["pose_values"][:, 0], rtol=1e-4)


def test_reset_forgets_and_restore_remembers() -> None:
    backend = TorchBackend(network())
    first, *rest = frames()
    fresh = advance(backend, first)["digit_logits"]
    memory = backend.state.snapshot()
    after = advance(backend, rest[0])["digit_logits"]

    backend.state.restore(memory)
    np.testing.assert_array_equal(advance(backend, rest[0])["digit_logits"], after)
    backend.state.reset()
    np.testing.assert_array_equal(advance(backend, first)["digit_logits"], fresh)


def test_a_snapshot_is_the_callers_own() -> None:
    backend = TorchBackend(network())
    advance(backend, frames()[0])
    taken = backend.state.snapshot()
    taken["h"][:] = 9

    assert not (backend.state.snapshot()["h"] == 9).any()


def test_a_snapshot_that_does_not_fit_changes_nothing() -> None:
    backend = TorchBackend(network())
    advance(backend, frames()[0])
    before = backend.state.snapshot()

    with pytest.raises(BackendError):
        backend.state.restore({"h": before["h"]})
    with pytest.raises(BackendError):
        backend.state.restore({**before, "c": before["c"].astype(np.float64)})

    np.testing.assert_array_equal(backend.state.snapshot()["h"], before["h"])


def test_a_frame_of_another_size_fails_with_the_memory_as_it_was() -> None:
    backend = TorchBackend(network())
    advance(backend, frames()[0])
    before = backend.state.snapshot()

    backend.frames = np.zeros((1, 8, 8, 3), np.uint8)
    with pytest.raises(BackendError, match="torch failed"):
        backend.infer()

    np.testing.assert_array_equal(backend.state.snapshot()["c"], before["c"])


def test_after_closing_nothing_runs() -> None:
    backend = TorchBackend(network())
    backend.close()
    backend.close()

    for use in (lambda: advance(backend, frames()[0]), backend.state.reset, backend.state.snapshot):
        with pytest.raises(ClosedError):
            use()
