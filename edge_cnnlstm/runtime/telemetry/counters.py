"""Counters that only ever count up, until a driver is loaded again or 32 bits are full."""

from __future__ import annotations

from collections.abc import Mapping

WRAP = 2**32
PLAUSIBLE = 2**16
"""More events than this between two samples are a counter that began again, not one that wrapped."""


def rise(before: int, now: int) -> int:
    """Return how many events were counted between two readings; 0 when the counter began again in between."""
    if now >= before:
        return now - before
    wrapped = now - before + WRAP
    return wrapped if 0 < wrapped < PLAUSIBLE else 0


class Rises:
    """Adds up what each counter rose by since it was first seen; one that is missing for a while is waited for."""

    def __init__(self) -> None:
        self.by_name: dict[str, int] = {}
        self._last: dict[str, int] = {}

    def add(self, counts: Mapping[str, int]) -> None:
        """Take the counters' present values."""
        for name, now in counts.items():
            self.by_name[name] = self.by_name.get(name, 0) + rise(self._last.get(name, now), now)
            self._last[name] = now

    @property
    def total(self) -> int:
        """The rise of all counters together."""
        return sum(self.by_name.values())
