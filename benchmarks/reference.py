"""The graph that all others are compared with."""

from __future__ import annotations

from edge_cnnlstm.bundle.format import Bundle
from edge_cnnlstm.errors import ConfigError


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
