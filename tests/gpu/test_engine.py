from __future__ import annotations

import logging
import sys

import pytest

from edge_cnnlstm.errors import DependencyError, ExportError
from edge_cnnlstm.gpu.engine import build_plan


def test_without_tensorrt_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)

    with pytest.raises(DependencyError, match="python3-libnvinfer"):
        build_plan(b"", "graph")


@pytest.mark.parametrize("content", [b"", b"not an ONNX file", bytes(100)])
def test_what_is_not_onnx_is_refused_in_the_parsers_words(content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="edge_cnnlstm")

    with pytest.raises(ExportError, match=r"(?s)'broken'.*tensorrt_rtx.*refused"):
        build_plan(content, "broken", ahead_of_time=True)
