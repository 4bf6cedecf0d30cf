from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edge_cnnlstm.bundle.golden import Golden
from edge_cnnlstm.bundle.manifest import Graph, Plan
from edge_cnnlstm.errors import ConfigError, ExportError
from edge_cnnlstm.spec import ModelSpec
from export.pack import all_or_nothing, pack, refuse_existing

PLAN = Plan(0.005, (), {"tensorrt": "tiny"}, {"tensorrt": "it is the only one"}, "here", "a board")
GRAPHS = (Graph("tiny", "graphs/tiny.onnx", "portable", "fp32", 1e-5, {"digit.accuracy": 0.9}),)


def test_a_bundle_is_verified_by_another_process(
    tmp_path: Path, tiny_spec: ModelSpec, tiny_onnx: bytes, tiny_golden: Golden
) -> None:
    path = tmp_path / "tiny.edge"
    pack(path, "tiny", tiny_spec, GRAPHS, {"tiny": tiny_onnx}, tiny_golden, PLAN)
    assert path.stat().st_size > len(tiny_onnx)

    wrong = {name: np.asarray(values) + 1 for name, values in tiny_golden.expected["tiny"].items()}
    false = Golden(tiny_golden.frames, tiny_golden.resets, {"tiny": wrong})
    with pytest.raises(ExportError, match=r"(?s)failed in a fresh process.*strays from the golden rollout"):
        pack(tmp_path / "false.edge", "tiny", tiny_spec, GRAPHS, {"tiny": tiny_onnx}, false, PLAN)


def test_files_take_their_names_together(tmp_path: Path) -> None:
    with all_or_nothing(tmp_path / "a", tmp_path / "b") as (a, b):
        a.write_text("1")
        b.write_text("2")
        assert {path.name for path in tmp_path.iterdir()} == {".a.unproven", ".b.unproven"}

    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "1", "b": "2"}


def write(files: Sequence[Path], last: str | None = None) -> None:
    """Write all files, and one more to another place if that is given."""
    with all_or_nothing(*files) as temporary:
        for path in temporary:
            path.write_text("new")
        if last is not None:
            Path(last).write_text("never")


def test_what_fails_leaves_nothing_behind_and_what_stood_there_stands(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")

    with pytest.raises(ValueError, match="null byte"):
        write((tmp_path / "a", tmp_path / "b"), last="\0")

    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old"}


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's disk that is always full")
def test_a_full_disk_is_said_to_be_full(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"(?s)cannot write .*a: .*No space left.*nothing half-written was left"):
        write((tmp_path / "a", tmp_path / "b"), last="/dev/full")

    assert not list(tmp_path.iterdir())


def test_the_first_file_stands_only_where_all_others_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("old")
    replace = Path.replace

    def failing(path: Path, target: Path) -> Path:
        if target.name == "b":
            raise OSError(errno.EIO, "broken disk")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(ExportError, match=r"cannot write .*a: .*broken disk"):
        write((tmp_path / "a", tmp_path / "b"))

    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old"}


def test_an_output_that_exists_or_has_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.edge").touch()

    with pytest.raises(ConfigError, match=r"(?s)model\.edge exists.*--overwrite"):
        refuse_existing(tmp_path / "new.edge", tmp_path / "model.edge")
    with pytest.raises(ConfigError, match=r"(?s)no folder .*absent.*mkdir -p"):
        refuse_existing(tmp_path / "absent" / "model.edge")
