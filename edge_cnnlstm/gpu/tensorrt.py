"""Which TensorRT speaks here: its module, its version, its log, and Ctrl-C while it works."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from edge_cnnlstm.errors import DependencyError

OLDEST = {"tensorrt": (10, 3), "tensorrt_rtx": (1, 7)}
"""The oldest version of each module that has every name used here, and that these graphs were built with."""

MOST_ERRORS = 100
"""An engine whose context is dead may say so at every frame; the first errors tell why."""

AHEAD_OF_TIME = "to only prove that a graph builds, on any machine: pip install tensorrt-rtx, and --ahead-of-time"
FIX = {
    "tensorrt": "on a Jetson: apt-get install python3-libnvinfer, and a virtual environment made with "
    f"--system-site-packages; on another machine with an NVIDIA GPU: pip install tensorrt; {AHEAD_OF_TIME}",
    "tensorrt_rtx": "pip install 'tensorrt-rtx>=1.7'",
}
NEWER = {
    "tensorrt": "on a Jetson: flash JetPack 6.1 or newer, whose TensorRT is 10.3; elsewhere: pip install -U tensorrt",
    "tensorrt_rtx": FIX["tensorrt_rtx"],
}

SHORTAGE = re.compile(
    r"out ?of ?memory|cudaErrorMemoryAllocation|requested amount of gpu memory|memory is insufficient"
    r"|insufficient memory|workspace limit|cuda initialization failure with error: 2\b",
    re.IGNORECASE,
)
"""What TensorRT 10 to 11 and TensorRT-RTX say where memory is lacking; the last is cudaErrorMemoryAllocation.

Not so an empty plan, which TensorRT calls "an empty memory buffer".
"""
TELLS_SIZE = re.compile(r"request\D*\d", re.IGNORECASE)
NO_NEWS = re.compile(r"Converting conv (activation|weight) scales to fp32")
"""What TensorRT-RTX warns of at every int8 convolution."""

log = logging.getLogger(__name__)


def load(ahead_of_time: bool = False) -> ModuleType:
    """Return the TensorRT of this machine; `tensorrt_rtx` to build `ahead_of_time`, which needs no GPU.

    Otherwise that is `tensorrt`, or `tensorrt_rtx` where only that is installed. Only imports it: whether there is a
    GPU is for `gpu.cuda` to say, and to be asked first. Raises DependencyError when it is missing, cannot be imported,
    or is older than OLDEST.
    """
    only_rtx = not _is_installed("tensorrt") and _is_installed("tensorrt_rtx")
    name = "tensorrt_rtx" if ahead_of_time or only_rtx else "tensorrt"
    try:
        trt = importlib.import_module(name)
    # The packages look for their libraries on import, and one refuses to be there on the wrong machine.
    except (ImportError, OSError, RuntimeError) as error:
        raise DependencyError(
            f"cannot import {name}: {error}", expected="TensorRT's Python binding", fix=FIX[name]
        ) from error
    if _numbers(trt.__version__) < OLDEST[name]:
        raise DependencyError(
            f"{version(trt)} is installed", expected=f"{'.'.join(map(str, OLDEST[name]))} or newer", fix=NEWER[name]
        )
    return trt


def version(trt: Any) -> str:
    """Return the module and its full version: "tensorrt 10.3.0"."""
    return f"{trt.__name__} {trt.__version__}"


@functools.cache
def logger(trt: Any) -> Any:
    """Return the logger of a TensorRT module, which speaks through `logging`: one for the whole process.

    TensorRT itself has but one, as long as a builder, a runtime or an engine lives, and ignores any other. It keeps
    what is reported as errors in `errors`, the first MOST_ERRORS of them; `reason` is the first, which says why the
    others followed. `shortage` is what it said of memory that was lacking, the last with a size if there is one, ""
    when it did not. Let it `forget` before a call whose failure is to be explained.
    """

    class Logger(trt.ILogger):  # type: ignore[misc]  # the base class exists only once TensorRT is imported
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []
            self.shortage = ""

        @property
        def reason(self) -> str:
            return self.errors[0] if self.errors else "no reason given"

        def log(self, severity: Any, message: str) -> None:
            # How much was asked for it says in a warning.
            if SHORTAGE.search(message) and (TELLS_SIZE.search(message) or not self.shortage):
                self.shortage = message
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                if len(self.errors) < MOST_ERRORS:
                    self.errors.append(message)
                log.error(message)
            elif severity == trt.ILogger.WARNING and not NO_NEWS.search(message):
                log.warning(message)
            else:
                log.debug(message)

    return Logger()


def forget(logger: Any) -> None:
    """Let a logger keep nothing of what was said before."""
    logger.errors.clear()
    logger.shortage = ""


class Interrupt:
    """Whether Ctrl-C was pressed since interrupts are held; may be asked in any thread."""

    def __init__(self) -> None:
        self._pressed = False
        self._heard = bytearray()
        self._wakes: socket.socket | None = None

    @property
    def asked(self) -> bool:
        # Python's own handler has to wait until the main thread is back from TensorRT; the signal's number does not.
        if not self._pressed and self._wakes is not None:
            with contextlib.suppress(BlockingIOError):
                self._heard.extend(self._wakes.recv(4096))
        return self._pressed or signal.SIGINT in self._heard

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Hear Ctrl-C, in the main thread only."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            handler = signal.signal(signal.SIGINT, lambda _number, _frame: setattr(self, "_pressed", True))
            woken = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
            self._wakes = ours
            try:
                yield
            finally:
                signal.set_wakeup_fd(woken)
                signal.signal(signal.SIGINT, handler)
                self._pressed, self._wakes = self.asked, None
                # Whoever is woken by signals, as asyncio is, would miss those that came meanwhile.
                if woken != -1:
                    with contextlib.suppress(OSError):
                        os.write(woken, self._heard.replace(bytes([signal.SIGINT]), b""))


@contextlib.contextmanager
def interrupts_held() -> Iterator[Interrupt]:
    """Note Ctrl-C while TensorRT works, and raise KeyboardInterrupt on the way out.

    Python runs a signal's handler in whatever Python the main thread comes to next: here that is what TensorRT calls
    back, and its binding prints and drops what is raised there, or cancels the build for it without a word why.
    """
    interrupt = Interrupt()
    before = signal.getsignal(signal.SIGINT)
    # Only the main thread hears signals. Where Ctrl-C is ignored, or heard by other than Python, it stays so.
    if threading.current_thread() is not threading.main_thread() or before in (signal.SIG_IGN, None):
        yield interrupt
        return
    try:
        with interrupt.listening():
            yield interrupt
    finally:
        if interrupt.asked:
            signal.raise_signal(signal.SIGINT)  # whoever listened before hears it now
            raise KeyboardInterrupt


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)[:2]))
