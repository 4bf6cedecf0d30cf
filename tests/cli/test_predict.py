"""`predict` answers for every frame of an image, a folder or a video, as the network itself does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edge_cnnlstm.cli.predict import predict
from edge_cnnlstm.errors import ConfigError, DependencyError, SourceError
from edge_cnnlstm.training.checkpoint import save_checkpoint
from edge_cnnlstm.training.config import HeadConfig, ModelConfig
from edge_cnnlstm.training.data.video import write_video
from edge_cnnlstm.training.evaluate import torch_answer
from edge_cnnlstm.training.model import CnnLstm

HEADS = (
    HeadConfig(name="digit", task="classify", labels=("a", "[b]", "c")),
    HeadConfig(name="gesture", task="classify", labels=("left", "right"), per="clip"),
    HeadConfig(name="pose", task="regress", labels=("x",), centre=(5.0,), spread=(2.0,)),
    HeadConfig(name="target", task="track"),
)
COUNT = 25


def network(scan: str = "frames") -> CnnLstm:
    torch.manual_seed(0)
    backbone = {"kind": "conv", "channels": (4,), "strides": (4,), "where_channels": 0}
    given = {"height": 16, "width": 24, "backbone": backbone, "layers": 1, "hidden": 8, "scan": scan}
    return CnnLstm(ModelConfig.model_validate({**given, "heads": HEADS})).eval()


def images(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (count, 16, 24, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, one that scans single images, an album of three images, and a video."""
    folder = tmp_path_factory.mktemp("predict")
    save_checkpoint(network(), folder / "checkpoint")
    save_checkpoint(network("rows"), folder / "scanner")
    (folder / "album").mkdir()
    for index, image in enumerate(images(3)):
        cv2.imwrite(str(folder / "album" / f"image_{index:03}.png"), np.ascontiguousarray(image[..., ::-1]))
    write_video(folder / "video.mp4", images(COUNT), 16, 24, rate=10)
    return folder


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_folder_is_one_clip(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict(folder / "checkpoint", str(folder / "album"), as_json=True)

    *answers, clip = lines(capsys.readouterr().out)
    expected = torch_answer(network())(images(3))
    scores = torch.from_numpy(expected["digit_logits"]).softmax(-1).numpy()
    np.testing.assert_allclose([answer["digit"]["scores"] for answer in answers], scores, atol=1e-5)
    assert [answer["pose"]["values"]["x"] for answer in answers] == pytest.approx(
        expected["pose_values"][:, 0].tolist(), rel=1e-4
    )
    assert [answer["first_after_reset"] for answer in answers] == [True, False, False]
    assert clip == {"clip": {"gesture": answers[-1]["gesture"]}}


def test_a_single_image_is_itself_and_not_the_first_of_a_sequence(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(folder / "checkpoint", str(folder / "album" / "image_001.png"), as_json=True)

    answer, _ = lines(capsys.readouterr().out)
    expected = torch_answer(network())(images(3)[1:2])["pose_values"]
    assert answer["pose"]["values"]["x"] == pytest.approx(float(expected[0, 0]), rel=1e-4)


def test_a_network_of_single_images_takes_each_on_its_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict(folder / "scanner", str(folder / "album"), as_json=True)
    together = lines(capsys.readouterr().out)
    predict(folder / "scanner", str(folder / "album" / "image_002.png"), as_json=True)
    (alone,) = lines(capsys.readouterr().out)

    assert len(together) == 3
    assert together[2]["digit"] == alone["digit"]


def test_a_person_reads_one_line_a_frame(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict(folder / "checkpoint", str(folder / "video.mp4"))

    out = capsys.readouterr().out.splitlines()
    assert len(out) == COUNT + 1
    assert out[0].startswith("frame     0  digit ")
    assert out[-1].startswith("the clip      gesture ")


def test_a_label_in_brackets_is_a_label_and_not_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = network()
    with torch.no_grad():
        model.heads[0].bias.copy_(torch.tensor([0.0, 99.0, 0.0]))
    save_checkpoint(model, tmp_path / "checkpoint")
    cv2.imwrite(str(tmp_path / "one.png"), images(1)[0])

    predict(tmp_path / "checkpoint", str(tmp_path / "one.png"))

    assert "digit [b] 100%" in capsys.readouterr().out


def test_lines_and_a_picture_can_be_kept(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept, picture = tmp_path / "new" / "answers.jsonl", tmp_path / "other" / "answers.png"
    predict(folder / "checkpoint", str(folder / "video.mp4"), destination=kept, picture=picture)

    assert [line["frame"] for line in lines(kept.read_text())] == list(range(COUNT))
    drawn = cv2.imread(str(picture))
    assert drawn.shape[1] > 1000
    assert drawn.std() > 20
    assert len(capsys.readouterr().out.splitlines()) == COUNT + 1


def test_a_picture_of_one_image_is_small(folder: Path, tmp_path: Path) -> None:
    predict(folder / "scanner", str(folder / "album" / "image_000.png"), picture=tmp_path / "one.png")

    assert cv2.imread(str(tmp_path / "one.png")).shape[1] < 600


@pytest.mark.parametrize("name", ["broken.png", "broken.mp4"])
def test_a_file_that_cannot_be_decoded_is_named(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no picture")
    with pytest.raises(SourceError, match=name):
        predict(folder / "checkpoint", str(tmp_path / name), destination=tmp_path / "answers.jsonl")
    assert not (tmp_path / "answers.jsonl").exists()


def test_what_is_not_there_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no source"):
        predict(folder / "checkpoint", str(tmp_path / "nothing"))
    with pytest.raises(SourceError, match="no image"):
        predict(folder / "checkpoint", str(tmp_path))


def test_a_source_without_end_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless:
        live = True
        closed = False

        def close(self) -> None:
            self.closed = True

    endless = Endless()
    monkeypatch.setattr("edge_cnnlstm.cli.predict.open_source", lambda *_, **__: endless)
    with pytest.raises(ConfigError, match="never ends"):
        predict(folder / "checkpoint", "/dev/video0")
    assert endless.closed


def test_without_matplotlib_it_says_so_before_the_first_frame(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("edge_cnnlstm.report.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DependencyError, match=r"pip install 'edge-cnnlstm\[report\]'"):
        predict(folder / "checkpoint", str(folder / "video.mp4"), picture=tmp_path / "x.png")
    assert not capsys.readouterr().out
