"""What a peer is: an engine that a user would pick instead, at its documented best, with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edge_cnnlstm.bundle.golden import Arrays, Golden
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.runtime.proof import Deviation, compare
from edge_cnnlstm.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Material:
    """What a peer is made from: a bundle, the checkpoint that it was exported from if it is at hand, and the cores
    that one step may use.
    """

    bundle: Path
    checkpoint: Path | None
    threads: int


class Bare(Protocol):
    """An engine that is ready, as its user calls it: nothing of this project around it, the memory carried as its
    documentation shows at best.
    """

    def reset(self) -> None:
        """Empty the memory."""

    def lay(self, pixels: Pixels, dt: float = 0.0) -> None:
        """Put a frame, uint8 [height, width, 3], and the seconds since the last where the engine reads them."""

    def run(self) -> None:
        """Run the engine once, the last run's memory in, the new one kept: the call that is timed."""

    def outputs(self) -> Arrays:
        """Return what the last run answered and remembers, by the names of the spec's outputs and state outputs.

        Shapes as the spec has them; the arrays may be the engine's own, which the next run overwrites.
        """


@dataclass(frozen=True, slots=True)
class Peer:
    """An engine in one precision.

    `settings` is one line for the reader: what was chosen, and where its documentation says so. `needs` names the
    distributions that pip installs. `prepare` writes into a folder what `open` reads, and may be slow; it runs in a
    process of its own. Both raise EdgeError with the reason when the engine does not take the network.
    """

    name: str
    family: str
    precision: str
    settings: str
    needs: tuple[str, ...]
    prepare: Callable[[Material, Path], Path]
    open: Callable[[Path, Material], Bare]


def deviation(bare: Bare, spec: ModelSpec, golden: Golden, expected: Arrays) -> Deviation:
    """Return how far an engine strays from what was expected of it over the golden rollout; it is left reset."""
    course: dict[str, list[Any]] = {output.name: [] for output in spec.outputs}
    bare.reset()
    times = [0.0] * len(golden.frames) if golden.dt is None else golden.dt.tolist()
    for pixels, reset, dt in zip(golden.frames, golden.resets, times, strict=True):
        if reset:
            bare.reset()
        bare.lay(pixels, dt)
        bare.run()
        found = bare.outputs()
        for output in spec.outputs:
            course[output.name].append(found[output.name].copy())
    for pair in spec.states:
        course[pair.output] = [found[pair.output].copy()]
    bare.reset()
    return compare(course, expected, spec)
