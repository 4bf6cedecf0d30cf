"""The manifest: what a bundle holds, what its graphs expect, and what was measured of them."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, field
from typing import Literal

from edge_cnnlstm.bundle import record
from edge_cnnlstm.bundle.archive import damaged
from edge_cnnlstm.errors import BundleError, ConfigError
from edge_cnnlstm.spec import ModelSpec

FORMAT_VERSION = 3
_AGAIN = "export the bundle again"
_MEMBER_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*", re.ASCII)
Dialect = Literal["portable", "onnxruntime", "tensorrt"]


@dataclass(frozen=True, slots=True)
class Member:
    """A file in the bundle: its SHA-256 in hexadecimal and its size in bytes."""

    sha256: str
    size: int

    @classmethod
    def of(cls, data: bytes) -> Member:
        """Describe a member's content."""
        return cls(hashlib.sha256(data).hexdigest(), len(data))


@dataclass(frozen=True, slots=True)
class Graph:
    """One lowering of the network.

    `tolerance` is how far an engine running this graph may stray from the golden rollout, outputs and state: the
    difference over the tensor's largest magnitude there. `accuracy` maps the name of a measurement to its value.
    """

    name: str
    file: str
    dialect: Dialect
    precision: str
    tolerance: float
    accuracy: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < math.inf:
            raise ConfigError(
                f"graph {self.name!r} has tolerance {self.tolerance}", expected="a finite number above 0", fix=_AGAIN
            )


@dataclass(frozen=True, slots=True)
class Candidate:
    """One precision that the export compared: its accuracy on validation clips, the most that it loses there, its size
    in bytes, and a step in microseconds, as measured where an engine could run and as estimated for a board.
    """

    name: str
    precision: str
    accuracy: dict[str, float]
    lost: float
    bytes: int
    measured_us: float | None
    estimated_us: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """Why the graphs have the precision that they have.

    `budget` is the accuracy that could be spent, as a share; `chosen` is the graph by dialect, `reasons` why that one.
    `measured_on` and `estimated_for` say where.
    """

    budget: float
    candidates: tuple[Candidate, ...]
    chosen: dict[str, str]
    reasons: dict[str, str]
    measured_on: str
    estimated_for: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """`manifest.json`."""

    format_version: int
    name: str
    model: ModelSpec
    graphs: tuple[Graph, ...]
    members: dict[str, Member]
    made_with: dict[str, str]
    plan: Plan | None = None

    def graph(self, name: str) -> Graph:
        """Return the graph called `name`; raises BundleError when there is none."""
        for graph in self.graphs:
            if graph.name == name:
                return graph
        raise BundleError(
            f"no graph {name!r} in bundle {self.name!r}",
            expected=f"one of {', '.join(graph.name for graph in self.graphs)}",
            fix="choose one of these, or export the bundle again",
        )


def dump(manifest: Manifest) -> bytes:
    """Return the manifest as JSON, one encoding only."""
    return (json.dumps(asdict(manifest), indent=1, ensure_ascii=True) + "\n").encode("ascii")


def parse(data: bytes) -> Manifest:
    """Read a manifest. Raises BundleError naming the first field that is wrong."""
    try:
        document = json.loads(data.decode())
        json.dumps(document, ensure_ascii=False).encode()  # half a surrogate pair can be neither printed nor written
        version = document.get("format_version")
    except (ValueError, AttributeError, RecursionError) as error:
        raise damaged(f"a manifest that is not a JSON object ({error})") from error
    if version != FORMAT_VERSION:
        raise BundleError(
            f"bundle format {version!r}",
            expected=f"format {FORMAT_VERSION}",
            fix="update edge-cnnlstm" if isinstance(version, int) and version > FORMAT_VERSION else "export it again",
        )
    try:
        manifest = record.read(Manifest, document)
    except record.MisreadError as error:
        raise damaged(f"manifest field {error}") from error
    except ConfigError as error:
        raise damaged(f"a manifest that contradicts itself: {error.found}, expected {error.expected}") from error
    _check_names(manifest)
    return manifest


def _check_names(manifest: Manifest) -> None:
    graphs = [graph.name for graph in manifest.graphs]
    if not graphs or len(set(graphs)) != len(graphs):
        raise damaged(f"a manifest with graphs {graphs}, not each name once")
    for name in manifest.members:
        if not _MEMBER_NAME.fullmatch(name):
            raise damaged(f"a manifest with a member {name!r}, not a plain relative path")
