"""From nothing to the first answer: a process that opens a bundle, and one that opens the same network in torch."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.processes import answer
from edge_cnnlstm.bundle import format as bundle_format

OURS = """
import sys, edge_cnnlstm, numpy
with edge_cnnlstm.open(sys.argv[1], backend=sys.argv[2], graph=sys.argv[3]) as stream:
    stream.step(numpy.zeros(stream.spec.frame.shape[1:], numpy.uint8))
"""
FLOOR = """
import sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.add_free_dimension_override_by_name("batch", 1)
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
types = {"tensor(uint8)": numpy.uint8, "tensor(float)": numpy.float32}
session.run(None, {each.name: numpy.zeros(each.shape, types[each.type]) for each in session.get_inputs()})
"""
"""What nobody who uses ONNX Runtime from Python can do without."""
TORCH = """
import sys, torch
model = torch.jit.load(sys.argv[1])
with torch.inference_mode():
    model(*torch.load(sys.argv[2]))
"""


def start(code: str, *arguments: str) -> dict[str, Any]:
    """Run a program of Python; its seconds from start to end, those of a processor, and its most memory, in bytes.

    It ran once before: whatever it imports has been compiled, as what was installed has, and is in the page cache.
    """
    _once(code, *arguments)
    begun = time.monotonic()
    used = _once(code, *arguments)
    return {
        "seconds": time.monotonic() - begun,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "bytes": used.ru_maxrss * 1024,
    }


def _once(code: str, *arguments: str) -> resource.struct_rusage:
    keeping = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL, env=keeping)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise RuntimeError(f"a cold start ended with status {process.returncode}")
    return used


def graph_file(bundle: Path, graph: str, folder: Path) -> Path:
    """Write one of a bundle's graphs to a file of its own."""
    path = folder / "graph.onnx"
    path.write_bytes(bundle_format.read(bundle).graph(graph))
    return path


def torch_files(checkpoint: Path, folder: Path) -> list[str]:
    """Write a trained network as TorchScript, with one frame and an empty memory, as torch is usually deployed."""
    import torch

    from edge_cnnlstm.training.checkpoint import load_checkpoint
    from edge_cnnlstm.training.step import StepModule

    network = load_checkpoint(checkpoint).eval()
    config, empty = network.config, network.initial_state()
    inputs = (torch.zeros(1, config.height, config.width, 3, dtype=torch.uint8), empty.h, empty.c)

    model, example = folder / "step.pt", folder / "inputs.pt"
    traced = torch.jit.trace(StepModule(network).eval(), inputs)  # type: ignore[no-untyped-call]  # as torch has it
    torch.jit.freeze(traced).save(str(model))
    torch.save(inputs, example)
    return [str(model), str(example)]


if __name__ == "__main__":
    answer(start)
