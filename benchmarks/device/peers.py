"""The same network as others run it on a GPU: a frame up, its memory kept there, the answers down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.device.step import REALTIME, noise, timed, warm_up
from benchmarks.processes import answer
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.errors import DependencyError
from edge_cnnlstm.runtime.backends.base import advance
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.spec import ModelSpec

TORCH = ("torch eager", "torch compiled")
ONNX_RUNTIME = ("onnxruntime-cuda", "onnxruntime-tensorrt")


def main(peer: str, path: str, graph: str, samples: str) -> dict[str, Any]:
    """Time so many steps of one stream; `path` is torch's checkpoint, and else a bundle, of which `graph` is run."""
    step, spec = torch_step(Path(path), compiled=peer == TORCH[1]) if peer in TORCH else ort_step(path, peer, graph)
    pixels = noise(spec)
    step(next(pixels))  # compiles, which makes garbage
    with REALTIME.loop():
        warm_up(lambda: step(next(pixels)))
        return {"step_ns": timed(lambda: step(next(pixels)), int(samples))}


def torch_step(checkpoint: Path, *, compiled: bool) -> tuple[Callable[[Pixels], object], ModelSpec]:
    """Return a step in torch, FP32 with its default settings, eager or with `mode="reduce-overhead"`.

    Raises DependencyError without torch's CUDA.
    """
    import torch

    from edge_cnnlstm.training.checkpoint import load_checkpoint
    from edge_cnnlstm.training.model import State
    from edge_cnnlstm.training.spec_of import spec_of

    if not torch.cuda.is_available():
        raise DependencyError(f"torch {torch.__version__} finds no GPU", expected="one", fix="install its CUDA build")
    model = load_checkpoint(checkpoint).cuda()
    spec = spec_of(model)
    pinned = torch.zeros(spec.frame.shape, dtype=torch.uint8).pin_memory()
    frame, (h, c), host = pinned.cuda(), model.initial_state(), pinned.numpy()
    dt = torch.zeros(1, 1).cuda() if spec.dt else None

    def forward(frame: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs, after = model.step(frame, State(h, c), dt)
        return (*after, *outputs.values())

    run = torch.compile(forward, mode="reduce-overhead") if compiled else forward

    @torch.no_grad()
    def step(pixels: Pixels) -> list[NDArray[Any]]:
        host[...] = pixels
        frame.copy_(pinned, non_blocking=True)
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]  # as torch has it
        h_next, c_next, *answers = run(frame, h, c)
        # A replay overwrites what the last one returned.
        h.copy_(h_next)
        c.copy_(c_next)
        return [np.asarray(answer.cpu()) for answer in answers]

    return step, spec


def ort_step(path: str, name: str, graph: str) -> tuple[Callable[[Pixels], object], ModelSpec]:
    """Return a step in ONNX Runtime's provider for CUDA or for TensorRT, as this project drives them."""
    from edge_cnnlstm.runtime.backends.ort_gpu import OnnxRuntimeCudaBackend, OnnxRuntimeTensorrtBackend

    make = {kind.name: kind for kind in (OnnxRuntimeCudaBackend, OnnxRuntimeTensorrtBackend)}[name]
    bundle = bundle_format.read(path)
    backend = make(bundle.graph(graph), bundle.manifest.model)
    return lambda pixels: advance(backend, pixels), backend.spec


if __name__ == "__main__":
    answer(main)
