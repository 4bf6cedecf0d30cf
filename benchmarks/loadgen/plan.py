"""What is asked for, and how it reaches the process that does it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """One bundle in one engine, and how much LoadGen asks of it.

    `bundle` is its path; `backend` and `graph` are as `edge_cnnlstm.open` has them; `threads` are the cores of a step.
    `streams` are stepped together in MultiStream and Offline. `frames` is the size of the library that LoadGen draws
    from. `seconds` is the minimum duration that LoadGen holds a scenario to. `load` is the share of what a stream was
    seen to do that Server asks of it.
    """

    bundle: str
    backend: str = "auto"
    graph: str | None = None
    threads: int = 1
    streams: int = 8
    frames: int = 1024
    seconds: float = 60.0
    load: float = 0.5

    def word(self) -> str:
        """Return the plan as one word of a command line."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, word: str) -> Plan:
        """Return the plan that a word says."""
        return cls(**json.loads(word))
