"""What every benchmark of a bundle asks of it: which file it is, and the graph that all others are compared with."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from edge_cnnlstm.bundle.format import Bundle
from edge_cnnlstm.errors import ConfigError


def identity(bundle: Bundle, path: Path) -> dict[str, str]:
    """Return which bundle was measured, as JSON data: its file, without the folder, its name and its digest."""
    return {"file": path.name, "name": bundle.manifest.name, "sha256": sha256(path.read_bytes()).hexdigest()}


def reference_of(bundle: Bundle) -> str:
    """Return the name of the bundle's first FP32 graph; raises ConfigError when it has none."""
    for graph in bundle.manifest.graphs:
        if graph.precision == "fp32":
            return graph.name
    raise ConfigError(
        f"a bundle with graphs {[graph.name for graph in bundle.manifest.graphs]}",
        expected="one of precision fp32, to compare the others with",
        fix="export the bundle again",
    )
