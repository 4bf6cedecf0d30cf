"""The networks behind the points: untrained, and exported by the project's exporter, a program of its own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import Worker
from benchmarks.progress import bar
from benchmarks.scaling.sweeps import Sweep
from edge_cnnlstm.errors import BackendError
from edge_cnnlstm.training.config import NetworkConfig

Key = tuple[tuple[str, int], ...]
"""What is changed in the preset."""
UNCHANGED: Key = ()


@dataclass(frozen=True, slots=True)
class Network:
    """A bundle of an untrained network, and the multiply-accumulates of its step and of the CNN in it."""

    path: Path
    macs: int
    cnn_macs: int


def key_of(sweep: Sweep, point: int) -> Key:
    """Return what tells the network behind a point from others."""
    return tuple(sweep.settings(point).items())


def export_all(sweeps: Sequence[Sweep], preset: str, folder: Path) -> dict[Key, Network]:
    """Write a bundle for the preset and for every other network that the sweeps ask for.

    Raises ConfigError for an unknown preset, and BackendError when the exporter fails.
    """
    NetworkConfig.model_validate({"preset": preset})
    wanted = dict.fromkeys([UNCHANGED, *(key_of(sweep, point) for sweep in sweeps for point in sweep.points)])
    made = {}
    exporter = Worker("the exporter", "export.untrained", preset)
    with bar("exporting networks") as started, ExitStack() as stack:
        stack.callback(exporter.stop)
        refused = exporter.ready().get("refused")
        if refused is not None:
            raise BackendError(refused, expected="an exporter", fix="pip install 'edge-cnnlstm[export]'")
        advance = started(len(wanted))
        for number, key in enumerate(wanted):
            path = folder / f"{number}.edge"
            macs = exporter.turn({"path": str(path), "changed": dict(key)})
            made[key] = Network(path, macs["step"], macs["cnn"])
            advance(", ".join(f"{name} {value}" for name, value in key) or preset)
    return made
