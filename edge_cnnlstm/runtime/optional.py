"""Packages that only some uses need: imported where they are used, with an error that says how to get them."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from edge_cnnlstm.errors import DependencyError


def load_cv2() -> Any:
    """Return OpenCV; raises DependencyError when it is not installed."""
    return _load("cv2", "pip install 'edge-cnnlstm[video]'; on a Jetson: apt-get install python3-opencv")


def load_onnxruntime() -> Any:
    """Return ONNX Runtime; raises DependencyError when it is not installed."""
    return _load("onnxruntime", "pip install 'edge-cnnlstm[ort]'")


def load_openvino() -> Any:
    """Return OpenVINO; raises DependencyError when it is not installed."""
    return _load("openvino", "pip install 'edge-cnnlstm[openvino]'")


def is_installed(module: str) -> bool:
    """Return whether a package can be imported, without importing it."""
    return importlib.util.find_spec(module) is not None


def load_pynvml() -> Any:
    """Return NVIDIA's bindings of NVML; raises DependencyError when they are not installed."""
    return _load("pynvml", "pip install 'edge-cnnlstm[nvml]'")


def _load(module: str, fix: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DependencyError(
            f"cannot import {module}: {error}", expected=f"{module} to be installed", fix=fix
        ) from error
