"""`python -m export.untrained PRESET`: untrained networks as bundles, FP32 and int8 for CPUs, one for each line read.

What a step takes does not depend on what the weights have learnt: that is what they are for. Each line on stdin is
JSON, `{"path": …, "changed": {…}}`, the bundle to write and the settings that differ from the preset's; each is
answered by a line on stdout, the multiply-accumulates of a step. An empty object says first that all is loaded.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle.golden import Golden, dump
from edge_cnnlstm.bundle.manifest import FORMAT_VERSION, Graph, Manifest
from edge_cnnlstm.errors import EdgeError
from edge_cnnlstm.runtime.backends.ort import OnnxRuntimeBackend
from edge_cnnlstm.runtime.proof import replay
from edge_cnnlstm.training.config import ModelConfig
from edge_cnnlstm.training.data.occluded_digits import HEADS
from edge_cnnlstm.training.fold import fold
from edge_cnnlstm.training.model import CnnLstm
from edge_cnnlstm.training.spec_of import spec_of
from export.cost import layer_costs
from export.graphs import export_step
from export.points import quantizable, quantized_layers
from export.precisions import candidates
from export.quantize import MINIMUM_FRAMES, calibrate

INT8 = "int8_onnxruntime"
SEED = 0
LIVELIER = 1.5
"""What new LSTMs and heads are multiplied by: their own answers hardly move."""
GOLDEN_FRAMES = 8
RESET_AT = 4


@dataclass(frozen=True, slots=True)
class Macs:
    """Multiply-accumulates of one step in convolutions and matrix products, and how many of them the CNN's are."""

    step: int
    cnn: int


def main(preset: str) -> None:
    """Answer each line read; what exporters print goes to stderr. What was found is the last word on an EdgeError."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        print("{}", file=answers, flush=True)
        for line in sys.stdin:
            asked = json.loads(line)
            try:
                network = untrained(preset, asked["changed"])
                write_bundle(network, Path(asked["path"]))
            except EdgeError as error:
                sys.exit(" ".join(error.found.split()))
            print(json.dumps(asdict(macs_of(network))), file=answers, flush=True)


def untrained(preset: str, changed: Mapping[str, Any]) -> CnnLstm:
    """Return a folded network of a preset with some settings `changed`, the same one every time.

    Batch norms have seen noise and bring every layer to the scale that a trained one has: neither activations nor
    memories get near the subnormal numbers, which a CPU computes a hundred times slower. Raises ConfigError or a
    validation error of pydantic's for settings that no network has.
    """
    torch.manual_seed(SEED)
    config = ModelConfig.model_validate({"preset": preset, "heads": HEADS, **changed})
    network = CnnLstm(config)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the average of what was seen, and nothing of what was there before
    with torch.no_grad():
        network.see(torch.from_numpy(_noise(config, GOLDEN_FRAMES)))
        for weights in (*network.cells.parameters(), *network.heads.parameters()):
            weights.mul_(LIVELIER)
    return fold(network.eval())


def macs_of(network: CnnLstm) -> Macs:
    """Count what one step of a network multiplies."""
    layers = layer_costs(network)
    cnn = sum(layer.macs for name, layer in layers.items() if name.startswith("backbone."))
    return Macs(sum(layer.macs for layer in layers.values()), cnn)


def write_bundle(network: CnnLstm, path: Path) -> None:
    """Export a folded network with the project's own exporter, quantized on noise, and write it as a bundle.

    What FP32 answers over eight frames is what both graphs have to prove when they are opened. Raises what
    `export_step`, `calibrate` and the bundle's `write` raise.
    """
    split, spec = quantizable(network), spec_of(network)
    calibration = calibrate(split, [_noise(network.config, MINIMUM_FRAMES)])
    precisions = candidates(quantized_layers(split))
    modules = {"fp32": network, INT8: precisions[INT8].network(split, calibration)}
    content = {name: export_step(module).SerializeToString() for name, module in modules.items()}
    graphs = (
        Graph("fp32", "graphs/fp32.onnx", "portable", "fp32", precisions["fp32"].tolerance.largest),
        Graph(INT8, "graphs/int8.onnx", "onnxruntime", "int8", precisions[INT8].tolerance.largest),
    )
    frames, resets = _noise(network.config, GOLDEN_FRAMES), np.arange(GOLDEN_FRAMES) == RESET_AT
    backend = OnnxRuntimeBackend(content["fp32"], spec)
    course = replay(backend, Golden(frames, resets, {}))
    backend.close()
    expected = {output.name: np.concatenate(course[output.name]) for output in spec.outputs}
    expected |= {pair.output: course[pair.output][0] for pair in spec.states}
    golden = Golden(frames, resets, {graph.name: expected for graph in graphs})
    members = {graph.file: content[graph.name] for graph in graphs} | {bundle_format.GOLDEN: dump(golden)}
    manifest = Manifest(FORMAT_VERSION, network.config.preset, spec, graphs, {}, {})
    bundle_format.write(path, manifest, members)


def _noise(config: ModelConfig, count: int) -> np.ndarray:
    shape = (count, config.height, config.width, 3)
    return np.random.default_rng(SEED).integers(0, 256, shape, np.uint8)


if __name__ == "__main__":
    main(*sys.argv[1:])
