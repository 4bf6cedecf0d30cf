"""Which suites the short set runs, and how far each is shortened."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edge_cnnlstm.bundle.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured: a bundle, its manifest, and the checkpoint that it was exported from, if that is at hand."""

    bundle: Path
    manifest: Manifest
    checkpoint: Path | None = None


@dataclass(frozen=True, slots=True)
class Suite:
    """One command of this package.

    `checkpoint` says whether it takes one, `goals` what it is held against by the bundle's name, and `for_cpu` whether
    it is told to look at the first graph for CPUs alone.
    """

    name: str
    options: str = ""
    checkpoint: bool = False
    for_cpu: bool = False
    goals: dict[str, str] = field(default_factory=dict)
    chosen: tuple[str, ...] = ()

    def words(self, subject: Subject) -> list[str]:
        """Return the words after `python -m benchmarks` that run it."""
        words = [self.name, str(subject.bundle), *self.options.split()]
        words += self.goals.get(subject.manifest.name, "").split()
        graphs = [graph.name for graph in subject.manifest.graphs if graph.dialect == "onnxruntime"]
        words += [word for peer in self.chosen for word in ("--peer", peer)]
        words += ["--graph", graphs[0]] if self.for_cpu and graphs else []
        return [*words, "--checkpoint", str(subject.checkpoint)] if self.checkpoint and subject.checkpoint else words


PEERS = (
    *("torch TorchScript", "onnxruntime fp32 (portable graph)", "onnxruntime int8 (quantize_dynamic)"),
    *("openvino fp32", "openvino int8 (nncf)", "openvino int8 (bundle's graph)", "executorch int8"),
    *("onnxruntime fp32, as used", "onnxruntime int8, as used", "openvino int8, as used"),
)
"""Those that ours is held against, without what takes minutes to prepare."""
SHORT = (
    Suite("latency", "--loop closed --loop window --loop open --seconds 0.5"),
    Suite("peers", "--paced-frames 15 --frames 500", checkpoint=True, chosen=PEERS),
    Suite("roofline"),
    Suite("loadgen", "--seconds 3"),
    Suite(
        "engines",
        "--threads 1 --steps 60",
        goals={"small": "--goal-engine 2 --goal-ort 1.3", "base": "--goal-engine 2.8 --goal-ort 1.7"},
    ),
    Suite("agreement", "--frames 10000", for_cpu=True),
    Suite(
        "runtime",
        "--rounds 6 --suite overhead --suite paced --suite cold --suite group",
        checkpoint=True,
    ),
)
