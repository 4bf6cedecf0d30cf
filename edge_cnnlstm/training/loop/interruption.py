"""Ctrl-C and SIGTERM, heard between two batches."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from typing_extensions import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)
log = logging.getLogger("edge_cnnlstm.training")


class Interruption:
    """While it is entered, the first Ctrl-C or SIGTERM sets `asked`; a second one has its usual effect at once."""

    def __init__(self) -> None:
        self.asked = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        # Only the main thread may listen for signals; elsewhere nobody can press Ctrl-C anyway.
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._hear) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _hear(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
        log.warning("Stopping after this batch, or the validation under way, and saving; once more to stop at once")
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
