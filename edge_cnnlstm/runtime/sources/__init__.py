"""Where frames come from."""

from __future__ import annotations

from pathlib import Path

from edge_cnnlstm.errors import SourceError
from edge_cnnlstm.runtime.fit import Fit
from edge_cnnlstm.runtime.sources.base import Pace, Source
from edge_cnnlstm.runtime.sources.camera import CameraSource
from edge_cnnlstm.runtime.sources.folder import FolderSource
from edge_cnnlstm.runtime.sources.video import VideoSource

__all__ = ["Source", "camera", "open_source", "video"]


def camera(device: str | int, *, fit: Fit | None = None, rate: float | None = None) -> CameraSource:
    """Open a camera; with `fit=stream.fit` its frames go straight into `stream.step`."""
    return CameraSource(device, fit=fit, rate=rate)


def video(address: Path | str, *, fit: Fit | None = None, rate: float | None = None, spin_us: int = 0) -> VideoSource:
    """Open a video file or an RTSP stream; with `fit=stream.fit` its frames go straight into `stream.step`."""
    return VideoSource(str(address), fit=fit, rate=rate, spin_us=spin_us)


def open_source(address: str, *, fit: Fit | None = None, rate: float | None = None, spin_us: int = 0) -> Source:
    """Open whatever `address` names: `/dev/videoN`, a folder of images, a video file, or `rtsp://…`.

    Raises SourceError when it is none of these or cannot be opened.
    """
    if rate is not None:
        Pace(rate)  # refuses a rate that is none, for live sources too
    if address.startswith("/dev/"):
        return CameraSource(address, fit=fit, rate=rate)
    if "://" in address:
        return VideoSource(address, fit=fit)
    path = Path(address)
    if address and path.is_dir():
        return FolderSource(path, fit=fit, rate=rate, spin_us=spin_us)
    if path.is_file():
        return VideoSource(address, fit=fit, rate=rate, spin_us=spin_us)
    raise SourceError(
        f"no source {address}",
        expected="a video file, a folder of images, /dev/videoN, or rtsp://…",
        fix="check the path",
    )
