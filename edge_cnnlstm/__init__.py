"""Stream camera frames through a CNN-LSTM, one at a time, on time.

    import edge_cnnlstm

    with edge_cnnlstm.open("gestures.edge") as stream:
        for frame in edge_cnnlstm.camera("/dev/video0", fit=stream.fit):
            prediction = stream.step(frame)

Importing this loads numpy and the standard library; engines, OpenCV and the bundle reader load when they are used.
"""

from __future__ import annotations

import logging

from edge_cnnlstm.errors import (
    BackendError,
    BundleError,
    CheckpointError,
    ClosedError,
    ConfigError,
    ContextLostError,
    DataError,
    DependencyError,
    DeviceMemoryError,
    EdgeError,
    ExportError,
    FrameError,
    ParityError,
    PlanError,
    PoisonError,
    SinkError,
    SourceError,
    ThreadError,
)
from edge_cnnlstm.runtime.cameras import Cameras
from edge_cnnlstm.runtime.fit import Fit
from edge_cnnlstm.runtime.frame import Frame
from edge_cnnlstm.runtime.group import StreamGroup
from edge_cnnlstm.runtime.opening import open_group
from edge_cnnlstm.runtime.opening import open_stream as open
from edge_cnnlstm.runtime.pipeline import Pipeline
from edge_cnnlstm.runtime.prediction import Box, Classification, Prediction, Regression, Track
from edge_cnnlstm.runtime.realtime import Realtime
from edge_cnnlstm.runtime.sources import camera, open_source, video
from edge_cnnlstm.runtime.stream import Stream
from edge_cnnlstm.runtime.wiring import Wiring
from edge_cnnlstm.spec import StateRules

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())

__all__ = [
    "BackendError",
    "Box",
    "BundleError",
    "Cameras",
    "CheckpointError",
    "Classification",
    "ClosedError",
    "ConfigError",
    "ContextLostError",
    "DataError",
    "DependencyError",
    "DeviceMemoryError",
    "EdgeError",
    "ExportError",
    "Fit",
    "Frame",
    "FrameError",
    "ParityError",
    "Pipeline",
    "PlanError",
    "PoisonError",
    "Prediction",
    "Realtime",
    "Regression",
    "SinkError",
    "SourceError",
    "StateRules",
    "Stream",
    "StreamGroup",
    "ThreadError",
    "Track",
    "Wiring",
    "__version__",
    "camera",
    "open",
    "open_group",
    "open_source",
    "video",
]
