"""Which suites the short set runs, and how far each is shortened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Suite:
    """One command of this package. `checkpoint` says whether it takes one, `bundle` whether it measures a bundle."""

    name: str
    options: str = ""
    bundle: bool = True
    checkpoint: bool = False

    def words(self, bundle: Path, checkpoint: Path | None) -> list[str]:
        """Return the words after `python -m benchmarks` that run it."""
        words = [self.name, *([str(bundle)] if self.bundle else []), *self.options.split()]
        return [*words, "--checkpoint", str(checkpoint)] if self.checkpoint and checkpoint else words


SHORT = (
    Suite("latency", "--seconds 2"),
    Suite("peers", "--paced-frames 45 --frames 500", checkpoint=True),
    Suite("roofline"),
    Suite("loadgen", "--seconds 8"),
    Suite("engines", "--threads 1 --steps 60"),
    Suite("agreement", "--frames 10000"),
    Suite("runtime", "--rounds 6 --soak 30", checkpoint=True),
)
