"""Writing the bundle: proven by another process before it takes its name, and nothing left behind when it fails."""

from __future__ import annotations

import contextlib
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle import golden as golden_format
from edge_cnnlstm.bundle.golden import Golden
from edge_cnnlstm.bundle.manifest import FORMAT_VERSION, Graph, Manifest, Plan
from edge_cnnlstm.errors import ConfigError, ExportError
from edge_cnnlstm.spec import ModelSpec

MADE_WITH = ("torch", "onnx", "nvidia-modelopt", "onnxruntime")


def refuse_existing(*paths: Path) -> None:
    """Raise ConfigError unless each path is free, and in a folder that exists."""
    for path in paths:
        if path.exists():
            raise ConfigError(f"{path} exists", expected="a new name", fix="choose another, or replace it: --overwrite")
        if not path.parent.is_dir():
            raise ConfigError(f"no folder {path.parent}", expected="an existing folder", fix=f"mkdir -p {path.parent}")


@contextlib.contextmanager
def all_or_nothing(*finals: Path) -> Iterator[tuple[Path, ...]]:
    """Yield a temporary path for each file; all take their names, the first one last, or, when anything fails, vanish.

    Raises ExportError when a file cannot be written, as on a full disk.
    """
    temporary = tuple(path.with_name(f".{path.name}.unproven") for path in finals)
    try:
        yield temporary
        for unproven, final in reversed(list(zip(temporary, finals, strict=True))):
            unproven.replace(final)
    except OSError as error:
        raise ExportError(
            f"cannot write {finals[0]}: {error}",
            expected="room and permission to write",
            fix="nothing half-written was left behind: make room, or choose another folder",
        ) from error
    finally:
        for unproven in temporary:
            unproven.unlink(missing_ok=True)


def pack(
    destination: Path,
    name: str,
    spec: ModelSpec,
    graphs: tuple[Graph, ...],
    files: Mapping[str, bytes],
    golden: Golden,
    plan: Plan,
) -> None:
    """Write a bundle and have a fresh process verify it; `files` are the ONNX graphs by name.

    Raises ExportError when that process refuses it.
    """
    labels = [label for head in spec.heads for label in head.labels]
    members = {graph.file: files[graph.name] for graph in graphs} | {
        bundle_format.GOLDEN: golden_format.dump(golden),
        "labels.txt": "".join(f"{label}\n" for label in labels).encode(),
        "card.md": _card(name, spec, graphs, plan).encode(),
    }
    made_with = {"python": platform.python_version()} | {package: version(package) for package in MADE_WITH}
    bundle_format.write(destination, Manifest(FORMAT_VERSION, name, spec, graphs, {}, made_with, plan), members)
    verified = subprocess.run(
        [sys.executable, "-m", "edge_cnnlstm.cli", "verify", str(destination)],
        capture_output=True,
        text=True,
        check=False,
    )
    if verified.returncode:
        raise ExportError(
            f"the bundle failed in a fresh process:\n{verified.stdout}{verified.stderr}",
            expected="`edge-cnnlstm verify` to accept it",
            fix="report this: the same graphs passed in the exporting process",
        )


def _card(name: str, spec: ModelSpec, graphs: tuple[Graph, ...], plan: Plan) -> str:
    scores = list(graphs[0].accuracy)
    rows = "".join(
        f"| {graph.name} | {graph.precision} | {' | '.join(f'{graph.accuracy[score]:.1%}' for score in scores)} |\n"
        for graph in graphs
    )
    heads = ", ".join(f"{head.name} ({head.task})" for head in spec.heads)
    reasons = "".join(f"- {plan.chosen[target]} for {target}: {why}.\n" for target, why in plan.reasons.items())
    return (
        f"# {name}\n\n"
        f"Frames: {spec.width}×{spec.height} RGB, other sizes by `{spec.fit}`. Heads: {heads}.\n\n"
        f"| graph | precision | {' | '.join(scores)} |\n|---|---|{'---|' * len(scores)}\n{rows}\n"
        f"Accuracy may drop by {plan.budget:.2%}.\n\n{reasons}"
    )
