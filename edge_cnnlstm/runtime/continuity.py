"""Whether a frame goes on from the last one, by the rules that came with the network, and how much later it is."""

from __future__ import annotations

import math

from edge_cnnlstm.runtime.frame import Frame
from edge_cnnlstm.spec import StateRules


class Continuity:
    """What a stream must know of its last frame. It is fresh until a frame was accepted, and after each `forget`.

    `empty_since` says why the memory is empty, None once it is not; `source` names the last frame's source.
    """

    def __init__(self, rules: StateRules) -> None:
        self.empty_since: str | None = "start"
        self.source = ""
        self._index = -1
        self._captured_ns = self._arrived_ns = 0
        self.follow(rules)

    def follow(self, rules: StateRules) -> None:
        """Go by these rules from now on."""
        self.rules = rules
        self._gap_ns = math.inf if rules.gap_ms is None else rules.gap_ms * 1e6
        self._idle_ns = math.inf if rules.idle_ms is None else rules.idle_ms * 1e6

    def forget(self, reason: str) -> None:
        """Start anew: the memory was emptied, for this reason."""
        self.empty_since = reason

    def resume(self, reason: str | None) -> None:
        """Start anew with a memory that was put there; it is empty if there is a reason for that."""
        self.empty_since = reason
        self._index, self._captured_ns, self._arrived_ns = -1, 0, 0

    def broken_by(self, frame: Frame, captured_ns: int, now_ns: int) -> str | None:
        """Return which rule this frame breaks, None when it goes on from the last one."""
        if self.empty_since is not None or not self._arrived_ns:
            return None
        rules = self.rules
        other_source = frame.source != self.source
        if other_source and rules.source_change:
            return "source change"
        # Each source numbers its own frames, but all of them read one clock.
        again = frame.index <= self._index and not other_source
        if (again or captured_ns < self._captured_ns) and rules.seek:
            return "seek"
        if captured_ns - self._captured_ns > self._gap_ns:
            return "gap"
        if now_ns - self._arrived_ns > self._idle_ns:
            return "idle"
        return None

    def since_last(self, captured_ns: int) -> float:
        """Return the seconds since the last frame, 0 when there is none that counts."""
        return (
            0.0
            if self.empty_since is not None or not self._arrived_ns
            else max(0, captured_ns - self._captured_ns) / 1e9
        )

    def accept(self, frame: Frame, captured_ns: int, now_ns: int) -> tuple[int, int]:
        """Note that a frame was answered; return the frames lost since the last, and for how long, in ns, none came."""
        followed = self._arrived_ns and frame.source == self.source and self.empty_since != "seek"
        lost = max(0, frame.index - self._index - 1) if followed else 0
        idle_ns = now_ns - self._arrived_ns if self._arrived_ns else 0
        self.source, self._index = frame.source, frame.index
        self._captured_ns, self._arrived_ns = captured_ns, now_ns
        self.empty_since = None
        return lost, idle_ns
