"""Samples of a run of any length in constant memory."""

from __future__ import annotations

from edge_cnnlstm.runtime.telemetry.sample import Sample


class History:
    """Keeps at most `capacity` samples, evenly spread over the whole run, and the latest.

    When it is full, every other sample goes, and from then on half as many are kept.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = max(2, capacity)
        self._kept: list[Sample] = []
        self._latest: Sample | None = None
        self._stride = 1
        self.count = 0

    def add(self, sample: Sample) -> None:
        """Take the next sample."""
        if self.count % self._stride == 0:
            if len(self._kept) == self._capacity:
                del self._kept[1::2]
                self._stride *= 2
            # Looked at again, because a longer stride may leave this one out.
            if self.count % self._stride == 0:
                self._kept.append(sample)
        self._latest = sample
        self.count += 1

    @property
    def samples(self) -> list[Sample]:
        """The kept samples in order; the last one is the run's latest. The list is the caller's."""
        if self._latest is None or self._kept[-1] is self._latest:
            return list(self._kept)
        return [*self._kept, self._latest]
