"""The program tegrastats, followed on a thread of its own."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import IO

from edge_cnnlstm.runtime.telemetry.sample import Reading
from edge_cnnlstm.runtime.telemetry.tegrastats import parse

LONGEST_LINE = 8192
RESTART_SECONDS = 5.0
GIVE_UP_AFTER = 3
"""So many starts in a row without a line, and the program is not started again."""
END_SECONDS = 2.0
FRESH_INTERVALS = 3
"""A line that is older than so many intervals says nothing about now."""


class Tegrastats:
    """Runs `command`, which prints a line every `interval_s`, and knows what its latest line says.

    A program that ends is started again; `read` raises ChildProcessError once that is hopeless. `close` ends the
    program and the thread.
    """

    name = "tegrastats"

    def __init__(self, command: Sequence[str], interval_s: float = 1.0, *, restart_s: float = RESTART_SECONDS) -> None:
        self._command = list(command)
        self._restart_s = restart_s
        self._fresh_ns = int(FRESH_INTERVALS * interval_s * 1e9)
        self._latest: tuple[str, int] | None = None
        self._hopeless = False
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._follow, name="edge-cnnlstm-tegrastats", daemon=True)
        self._thread.start()

    @classmethod
    def find(cls, interval_s: float = 1.0) -> Tegrastats | None:
        """Start the machine's tegrastats; None when it has none."""
        program = shutil.which("tegrastats")
        milliseconds = max(100, round(interval_s * 1000))
        return cls([program, "--interval", str(milliseconds)], milliseconds / 1000) if program else None

    def read(self) -> Reading:
        """Return what the latest line says, or nothing when it is stale."""
        if self._hopeless:
            raise ChildProcessError(f"{self._command[0]} ended {GIVE_UP_AFTER} times without a line")
        latest = self._latest
        if latest is None or time.monotonic_ns() - latest[1] > self._fresh_ns:
            return Reading()
        return parse(latest[0])

    def close(self) -> None:
        """End the program and the thread. May be called twice."""
        with self._lock:
            self._closing.set()
            process = self._process
        if process is not None:
            _end(process)
        self._thread.join(timeout=2 * END_SECONDS)

    def _follow(self) -> None:
        failures = 0
        while failures < GIVE_UP_AFTER:
            failures = 0 if self._run_once() else failures + 1
            if self._closing.wait(self._restart_s):
                return
        self._hopeless = True

    def _run_once(self) -> bool:
        """Follow the program until it ends; say whether it printed anything."""
        with self._lock:
            if self._closing.is_set():
                return True
            try:
                process = subprocess.Popen(
                    self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
                )
            except OSError:
                return False
            self._process = process
        assert process.stdout is not None  # noqa: S101 - asked for above
        with process.stdout as pipe:
            printed = self._take_lines(pipe)
        _end(process)
        return printed

    def _take_lines(self, pipe: IO[bytes]) -> bool:
        printed = False
        # With a limit, so that a program that never ends its line cannot fill the memory.
        while line := pipe.readline(LONGEST_LINE):
            self._latest = line.decode(errors="replace"), time.monotonic_ns()
            printed = True
        return printed


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
