"""From a bundle on disk to a stream, or a group of them, that is ready for its first frame."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.runtime.group import StreamGroup
from edge_cnnlstm.runtime.selection import proven_engine
from edge_cnnlstm.runtime.stream import Stream
from edge_cnnlstm.runtime.wiring import AS_FOUND, Wiring
from edge_cnnlstm.spec import StateRules

if TYPE_CHECKING:
    from edge_cnnlstm.gpu.progress import Progress


def open_stream(
    path: Path | str,
    *,
    backend: str = "auto",
    graph: str | None = None,
    threads: int = 1,
    deadline_ms: float | None = None,
    rules: StateRules | None = None,
    strict: bool = False,
    wiring: Wiring = AS_FOUND,
    progress: Progress | None = None,
) -> Stream:
    """Open a bundle: verify it, load the graph that the backend is fast in, prove the engine, warm up, reset.

    `backend` is `auto`, which takes TensorRT where it and a GPU are here, and else measures once on each machine which
    of the installed ones is the fastest, and on which of the bundle's graphs, and remembers it; or one by name.
    TensorRT builds its plan first if there is none in its cache, which may take minutes. Should it fail, or not
    reproduce the bundle's golden rollout, graphs that are quantized less are tried, and the processor at last, each
    with a warning that says why; `strict` raises that error instead. `graph` names one of the bundle's graphs, and no
    other is tried; `threads` is the number of cores one step may use; `deadline_ms` is the age at which a prediction
    counts as late; `rules` replace the bundle's for when memory is emptied; `wiring` is how frames reach a GPU;
    `progress` is told how far a build is. Raises BundleError for a damaged bundle, ConfigError for an unknown backend,
    DependencyError when what it needs is missing, and BackendError when the engine does not reproduce the bundle's
    golden rollout. The caller closes the stream.
    """
    found = proven_engine(
        path, backend, graph, threads=threads, streams=1, strict=strict, wiring=wiring, progress=progress
    )
    return Stream(
        found.engine,
        deadline_ms=deadline_ms,
        rules=rules,
        graph=found.graph,
        digest=found.digest,
        passed_over=found.passed_over,
    )


def open_group(
    path: Path | str,
    slots: int,
    *,
    backend: str = "auto",
    graph: str | None = None,
    threads: int = 1,
    deadline_ms: float | None = None,
    rules: StateRules | None = None,
    strict: bool = False,
    wiring: Wiring = AS_FOUND,
    progress: Progress | None = None,
) -> StreamGroup:
    """Open a bundle for up to `slots` streams that are stepped together; the rest is as `open_stream` has it."""
    if not isinstance(slots, int) or slots < 1:
        raise ConfigError(f"{slots!r} slots", expected="a whole number of at least 1", fix="change slots")
    found = proven_engine(
        path, backend, graph, threads=threads, streams=slots, strict=strict, wiring=wiring, progress=progress
    )
    return StreamGroup(found.engine, deadline_ms=deadline_ms, rules=rules)
