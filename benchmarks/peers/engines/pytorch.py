"""torch on the CPU: eager, compiled, and as TorchScript."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.peers.peer import Bare, Material, Peer
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.errors import BackendError
from edge_cnnlstm.spec import ModelSpec

if TYPE_CHECKING:
    from benchmarks.peers.engines.network import Call

SCRIPT, CACHE = "step.pt", "inductor"


def _eager(material: Material, folder: Path) -> Path:
    from benchmarks.peers.engines.network import step_module

    step_module(material)  # the reason, if there is no checkpoint
    return folder


def _open_eager(prepared: Path, material: Material) -> Bare:  # noqa: ARG001 - there is nothing to prepare
    from benchmarks.peers.engines.network import step_module

    return _bare(step_module(material), material)


def _script(material: Material, folder: Path) -> Path:
    import torch

    from benchmarks.peers.engines.network import example, quietly, step_module

    with quietly():
        traced = torch.jit.trace(step_module(material), example(_spec(material)))  # type: ignore[no-untyped-call]  # as torch has it
        torch.jit.freeze(traced).save(str(folder / SCRIPT))
    return folder / SCRIPT


def _open_script(prepared: Path, material: Material) -> Bare:
    import torch

    from benchmarks.peers.engines.network import quietly

    with quietly():  # what it returns cannot be saved
        script = torch.jit.load(str(prepared))  # type: ignore[no-untyped-call]  # as torch has it
        return _bare(torch.jit.optimize_for_inference(script), material)


def _compile(material: Material, folder: Path) -> Path:
    _open_compiled(folder / CACHE, material).run()
    return folder / CACHE


def _open_compiled(prepared: Path, material: Material) -> Bare:
    """Compile, or take what was compiled from the cache."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(prepared)
    import torch
    from torch._inductor import config  # its documented switches lie behind an underscore

    from benchmarks.peers.engines.network import quietly, step_module

    config.freezing = True
    bare = _bare(torch.compile(step_module(material), mode="max-autotune-no-cudagraphs"), material)
    try:
        with quietly():
            bare.run()
    except Exception as error:  # whatever its compiler, or the C++ compiler behind it, raises
        raise BackendError(
            f"torch {torch.__version__} did not compile the network: {str(error).strip().splitlines()[0]}",
            expected="a network that torch.compile takes, and a C++ compiler",
            fix="install g++ (apt-get install g++)",
        ) from error
    bare.reset()
    return bare


def _bare(step: Call, material: Material) -> Bare:
    import torch

    from benchmarks.peers.engines.network import Chained

    torch.set_num_threads(material.threads)
    return Chained(torch.inference_mode()(step), _spec(material))


def _spec(material: Material) -> ModelSpec:
    return bundle_format.read(material.bundle).manifest.model


PEERS = (
    Peer(
        "torch eager",
        "torch",
        "fp32",
        "inference_mode, batch norms folded, images channels last; docs.pytorch.org, Performance Tuning Guide",
        ("torch",),
        _eager,
        _open_eager,
    ),
    Peer(
        "torch.compile",
        "torch",
        "fp32",
        "inductor, mode max-autotune-no-cudagraphs, weights frozen; docs.pytorch.org, Using Max-Autotune on CPU",
        ("torch",),
        _compile,
        _open_compiled,
    ),
    Peer(
        "torch TorchScript",
        "torch",
        "fp32",
        "traced, frozen, optimize_for_inference; docs.pytorch.org, torch.jit.optimize_for_inference",
        ("torch",),
        _script,
        _open_script,
    ),
)
