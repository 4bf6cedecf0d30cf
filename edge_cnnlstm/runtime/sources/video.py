"""Video files and network streams, decoded by OpenCV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_cnnlstm.errors import SourceError
from edge_cnnlstm.runtime.fit import Fit
from edge_cnnlstm.runtime.frame import Frame, Pixels
from edge_cnnlstm.runtime.optional import load_cv2
from edge_cnnlstm.runtime.sources.base import closed_source, frames_from


class VideoSource:
    """A video file, or an `rtsp://` address, which is live.

    `rate` replays a file at that many frames a second, as exactly as `spin_us` says (see `realtime.Realtime`); without
    it frames come as fast as they are read. Raises SourceError when it cannot be opened or holds no frame.
    """

    def __init__(self, address: str, *, fit: Fit | None = None, rate: float | None = None, spin_us: int = 0) -> None:
        self.live = "://" in address
        if not self.live and not Path(address).is_file():
            raise SourceError(f"no file {address}", expected="a video file", fix="check the path")
        self.address = address
        self._fit = fit
        self._rate = rate
        self._spin_us = spin_us
        self._capture = open_capture(address)

    def __iter__(self) -> Iterator[Frame]:
        if not self._capture.isOpened():
            raise closed_source(self.address)
        return frames_from(
            self._images(), fit=self._fit, source=self.address, rate=self._rate, spin_us=self._spin_us, bgr=True
        )

    def close(self) -> None:
        self._capture.release()

    def _images(self) -> Iterator[Pixels]:
        count = 0
        while self._capture.isOpened():
            read, image = self._capture.read()
            if not read and self.live and self._capture.isOpened():
                raise SourceError(
                    f"{self.address} stopped delivering frames",
                    expected="a frame at every read",
                    fix="check the network and the camera, then open it again",
                )
            if not read:
                break
            count += 1
            yield image
        if not count:
            raise SourceError(
                f"no frame in {self.address}",
                expected="a video that OpenCV can decode",
                fix="check that it plays, or convert it to H.264 in an .mp4 file",
            )


def open_capture(address: str | int) -> Any:
    """Return an opened OpenCV capture; raises SourceError when OpenCV cannot open it."""
    cv2 = load_cv2()
    capture = cv2.VideoCapture(address)
    if not capture.isOpened():
        raise SourceError(
            f"OpenCV {cv2.__version__} cannot open {address}",
            expected="a camera, a video file or a stream that it can decode",
            fix="check that it exists, that this user may read it (group `video` for cameras), and that nothing "
            "else is using it",
        )
    return capture
