"""One case in one persistent process: says how accurate it is when ready, then takes its turns in either loop."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.bundle import reference_of
from benchmarks.peers.accuracy import Rollout
from benchmarks.peers.ours import OWN
from benchmarks.peers.peer import Material
from benchmarks.peers.prepared import peer_called
from benchmarks.peers.theirs import Theirs
from benchmarks.processes import Cost, Message, serve
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle.format import Bundle
from edge_cnnlstm.bundle.golden import Arrays, Golden
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.runtime.proof import Deviation


class Case(Protocol):
    """What is compared: our stream or a peer."""

    def deviation(self, golden: Golden, expected: Arrays) -> Deviation: ...

    def labels(self, rollout: Rollout) -> list[int]: ...

    def closed(self, golden: Sequence[Pixels], steps: int) -> Message: ...

    def paced(self, golden: Sequence[Pixels], frames: int) -> Message: ...


@dataclass(frozen=True, slots=True)
class Job:
    """What a process opens: a case by its name, with the cores that one step may use.

    `prepared` is what a peer's preparation wrote; `backend` and `graph` are what `auto` chose for ours. `rollout` is
    the folder of the frames that accuracy is measured on, None where it is known.
    """

    name: str
    bundle: str
    threads: int
    rollout: str | None = None
    checkpoint: str | None = None
    prepared: str | None = None
    backend: str = ""
    graph: str = ""

    def words(self) -> str:
        """Return it as the one word of a command line."""
        return json.dumps(asdict(self))


def opened(words: str) -> tuple[Message, Callable[[Message], Message]]:
    """Open a case, and answer with its deviation and its labels; a turn asks for `steps` or, paced, for `frames`."""
    job = Job(**json.loads(words))
    bundle = bundle_format.read(job.bundle)
    case, golden, frames = _open(job, bundle), bundle.golden, list(bundle.golden.frames)
    strays = case.deviation(golden, golden.expected[reference_of(bundle)]).output
    labels = case.labels(Rollout.read(Path(job.rollout))) if job.rollout else []

    def turn(request: Message) -> Message:
        if "steps" in request:
            return case.closed(frames, request["steps"])
        cost = Cost()
        return case.paced(frames, request["frames"]) | {"core_share": round(cost.share(), 4)}

    return {"deviation": strays if math.isfinite(strays) else None, "labels": labels}, turn


def _open(job: Job, bundle: Bundle) -> Case:
    if job.name in OWN:
        return OWN[job.name](Path(job.bundle), job.backend, job.graph, job.threads)
    material = Material(Path(job.bundle), Path(job.checkpoint) if job.checkpoint else None, job.threads)
    engine = peer_called(job.name).open(Path(job.prepared or ""), material)
    return Theirs(engine, bundle.manifest.model)


if __name__ == "__main__":
    serve(opened)
