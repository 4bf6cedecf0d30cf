"""From nothing to the first answer: a process that opens a bundle, and one that opens the same network in torch."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.processes import answer

OURS = """
import sys, edge_cnnlstm, numpy
with edge_cnnlstm.open(sys.argv[1], backend=sys.argv[2], graph=sys.argv[3]) as stream:
    stream.step(numpy.zeros(stream.spec.frame.shape[1:], numpy.uint8))
"""
TORCH = """
import sys, torch
model = torch.jit.load(sys.argv[1])
with torch.inference_mode():
    model(*torch.load(sys.argv[2]))
"""


def start(code: str, *arguments: str) -> dict[str, Any]:
    """Run a program of Python; its seconds from start to end, and the most memory that it had, in bytes."""
    begun = time.monotonic()
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise RuntimeError(f"a cold start ended with status {process.returncode}")
    return {"seconds": time.monotonic() - begun, "bytes": used.ru_maxrss * 1024}


def torch_files(checkpoint: Path, folder: Path) -> list[str]:
    """Write a trained network as TorchScript, with one frame and an empty memory, as torch is usually deployed."""
    import torch

    from edge_cnnlstm.training.checkpoint import load_checkpoint
    from edge_cnnlstm.training.model import State

    network = load_checkpoint(checkpoint).eval()
    config, empty = network.config, network.initial_state()
    inputs = (torch.zeros(1, config.height, config.width, 3, dtype=torch.uint8), empty.h, empty.c)

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, frame: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, ...]:
            outputs, state = self.network.step(frame, State(h, c))
            return (*outputs.values(), *state)

    model, example = folder / "step.pt", folder / "inputs.pt"
    traced = torch.jit.trace(Step().eval(), inputs)  # type: ignore[no-untyped-call]  # as torch has it
    torch.jit.freeze(traced).save(str(model))
    torch.save(inputs, example)
    return [str(model), str(example)]


if __name__ == "__main__":
    answer(start)
