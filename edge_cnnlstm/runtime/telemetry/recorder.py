"""Telemetry beside a stream: one thread, one sample a second, and what became of the machine meanwhile."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.gpu.board import l4t_release
from edge_cnnlstm.runtime.telemetry.history import History
from edge_cnnlstm.runtime.telemetry.jetson import Jetson
from edge_cnnlstm.runtime.telemetry.linux import Linux
from edge_cnnlstm.runtime.telemetry.nvml import Nvml
from edge_cnnlstm.runtime.telemetry.sample import QUANTITIES, Sample, Source, merge
from edge_cnnlstm.runtime.telemetry.tegrastats_process import Tegrastats
from edge_cnnlstm.runtime.telemetry.verdict import Judge

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger(__name__)

CAPACITY = 1024
PATIENCE_SECONDS = 5.0

Finder = Callable[[], Source | None]
Answer = TypeVar("Answer")


def finders(interval_s: float, root: Path = Path("/")) -> dict[str, Finder]:
    """Return what looks for each source; where two know the same thing, the earlier one is believed."""
    return {
        Jetson.name: functools.partial(Jetson.find, root),
        Linux.name: functools.partial(Linux.find, root),
        Tegrastats.name: functools.partial(Tegrastats.find, interval_s),
        Nvml.name: Nvml.find,
    }


class Telemetry:
    """Samples this machine while it is open; `samples`, `reasons` and `document()` can be read at any time.

        with Telemetry() as telemetry:
            ...
        report["telemetry"] = telemetry.document()

    Samples are taken on a thread of its own: when it starts, every `interval_s`, and when it stops. Memory is
    bounded by `capacity` samples, spread over the whole run; the verdict sees every one. A source that fails is
    dropped with one line in the log, and nothing here raises into the stream. A sample of 25 files and a line
    of tegrastats costs 0.3 ms on a server, plus what drivers take to answer, while other threads run.
    """

    def __init__(
        self, interval_s: float = 1.0, *, sources: Mapping[str, Finder] | None = None, capacity: int = CAPACITY
    ) -> None:
        if not interval_s > 0:
            raise ConfigError(f"an interval of {interval_s} s", expected="more than 0", fix="change interval_s")
        self.interval_s = interval_s
        self._finders = finders(interval_s) if sources is None else sources
        self._history = History(capacity)
        self._judge = Judge()
        self._sources: list[Source] = []
        self._used: list[str] = []
        self._dropped: dict[str, str] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._started = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Find the sources and take the first sample; does nothing when already started."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._stop.clear()
        self._started.clear()
        self._thread = threading.Thread(target=self._run, name="edge-cnnlstm-telemetry", daemon=True)
        self._thread.start()
        # A driver that hangs must not keep the stream from its first frame.
        self._started.wait(PATIENCE_SECONDS)

    def stop(self) -> None:
        """Take the last sample and let go of the sources; does nothing when already stopped."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(PATIENCE_SECONDS)

    @property
    def samples(self) -> list[Sample]:
        """The kept samples in order; the list is the caller's."""
        with self._lock:
            return self._history.samples

    @property
    def reasons(self) -> list[str]:
        """Why what was measured meanwhile is invalid, in words; empty when nothing speaks against it."""
        with self._lock:
            return self._judge.reasons

    def document(self) -> dict[str, Any]:
        """Return everything as plain JSON values.

        Times in seconds since `started_ns`, a monotonic time as the latencies use; None where a value is unknown.
        `valid` is None on a machine that does not say whether it throttles.
        """
        with self._lock:
            samples = self._history.samples
            verdict = {"valid": self._judge.valid, "reasons": self._judge.reasons}
            used, dropped, count = list(self._used), dict(self._dropped), self._history.count
        start = samples[0].taken_ns if samples else None
        return {
            "sources": used,
            "dropped": dropped,
            "l4t": l4t_release(),
            "interval_s": self.interval_s,
            "started_ns": start,
            "samples_taken": count,
            "times_s": [round((sample.taken_ns - samples[0].taken_ns) / 1e9, 3) for sample in samples],
            "series": {quantity: _series(samples, quantity) for quantity in QUANTITIES},
            "power_mode": [sample.power_mode for sample in samples],
            "trips_c": dict(samples[-1].trips_c) if samples else {},
            "verdict": verdict,
        }

    def record(self, sample: Sample) -> None:
        """Take a sample that was made elsewhere, as if it had been read here."""
        with self._lock:
            self._history.add(sample)
            self._judge.add(sample)

    def _run(self) -> None:
        try:
            self._find()
            self._read()
            self._started.set()
            # Without sources there is nothing to wake up for.
            while self._sources and not self._stop.wait(self.interval_s):
                self._read()
            self._read()
        finally:
            self._started.set()
            for source in self._sources:
                self._attempt(source.name, source.close)
            self._sources = []

    def _find(self) -> None:
        found = [self._attempt(name, find) for name, find in self._finders.items()]
        self._sources = [source for source in found if source is not None]
        with self._lock:
            self._used = [source.name for source in self._sources]

    def _read(self) -> None:
        """Ask every source; the sample's time is when the first was asked."""
        now_ns = time.monotonic_ns()
        answers = [(source, self._attempt(source.name, source.read)) for source in self._sources]
        for source, reading in answers:
            if reading is None:
                self._sources.remove(source)
                self._attempt(source.name, source.close)
        readings = [reading for _, reading in answers if reading is not None]
        if readings:
            self.record(merge(now_ns, readings))

    def _attempt(self, name: str, call: Callable[[], Answer]) -> Answer | None:
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - whatever a driver does, the stream goes on
            with self._lock:
                known = name in self._dropped
                self._dropped.setdefault(name, f"{type(error).__name__}: {error}")
            if not known:
                log.warning("telemetry goes on without %s: %s", name, error)
            return None


def _series(samples: list[Sample], quantity: str) -> dict[str, list[float | None]]:
    columns = [getattr(sample, quantity) for sample in samples]
    names = sorted({name for column in columns for name in column})
    return {name: [_rounded(column.get(name)) for column in columns] for name in names}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
