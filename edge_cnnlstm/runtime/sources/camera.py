"""Video4Linux cameras."""

from __future__ import annotations

from collections.abc import Iterator

from edge_cnnlstm.errors import SourceError
from edge_cnnlstm.runtime.fit import Fit
from edge_cnnlstm.runtime.frame import Frame, Pixels
from edge_cnnlstm.runtime.optional import load_cv2
from edge_cnnlstm.runtime.sources.base import Pace, closed_source, frames_from
from edge_cnnlstm.runtime.sources.video import open_capture


class CameraSource:
    """A camera such as `/dev/video0`, or its number.

    A frame's capture time is when the driver handed it over. `rate` asks the camera for that many frames a
    second. Raises SourceError when it cannot be opened, and while iterating when it stops delivering.
    """

    live = True

    def __init__(self, device: str | int, *, fit: Fit | None = None, rate: float | None = None) -> None:
        self.device = device
        self._fit = fit
        self._closed = False
        self._capture = open_capture(device)
        if rate is not None:
            Pace(rate)  # refuses a rate that is none
            self._capture.set(load_cv2().CAP_PROP_FPS, rate)

    def __iter__(self) -> Iterator[Frame]:
        if self._closed:
            raise closed_source(self.device)
        return frames_from(self._images(), fit=self._fit, source=str(self.device), bgr=True)

    def close(self) -> None:
        self._closed = True
        self._capture.release()

    def _images(self) -> Iterator[Pixels]:
        while not self._closed:
            read, image = self._capture.read()
            if not read and not self._closed:
                raise SourceError(
                    f"camera {self.device} stopped delivering frames",
                    expected="a frame at every read",
                    fix="check the cable and the power, then open it again",
                )
            if read:
                yield image
