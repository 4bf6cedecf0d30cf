"""LiteRT on the CPU: FP32 by litert-torch, and int8 of that by ai-edge-quantizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.engines.memory import normalise
from benchmarks.peers.peer import Bare, Material, Peer
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle.golden import Arrays
from edge_cnnlstm.errors import BackendError, DependencyError
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.spec import ModelSpec

Views = dict[str, Callable[[], NDArray[Any]]]
STATED = "interpreter with XNNPACK, frames normalised outside of the call; ai.google.dev/edge/litert, LiteRT Torch"
IMAGES = ("CONV_2D", "DEPTHWISE_CONV_2D", "MAX_POOL_2D", "PAD")
CONVERTER = (
    "litert-torch==0.10.0 litert-converter==0.5.0 xdsl==0.28.0 jax jaxlib jaxtyping lark opt_einsum wadler-lindig "
    "multipledispatch ordered-set termcolor fire tabulate kagglehub transformers tokenizers torchao"
)


class Interpreted:
    """A LiteRT file in its interpreter, memory copied from its outputs to its inputs, as it has no other way."""

    def __init__(self, path: Path, spec: ModelSpec, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._spec, self._interpreter = spec, Interpreter(str(path), num_threads=threads)
        self._interpreter.allocate_tensors()
        signature = self._interpreter.get_signature_runner()
        self._inputs = self._views(_inputs(spec), signature.get_input_details())
        self._outputs = self._views(_outputs(spec), signature.get_output_details())
        self._carried = [(self._inputs[pair.input], self._outputs[pair.output]) for pair in spec.states]
        self.reset()

    def reset(self) -> None:
        for read, _ in self._carried:
            read().fill(0)

    def lay(self, pixels: Pixels, dt: float = 0.0) -> None:
        frame = self._inputs[self._spec.frame.name]()
        frame[0] = pixels
        normalise(frame)
        if self._spec.dt is not None:
            self._inputs[self._spec.dt.name]().fill(dt)

    def run(self) -> None:
        self._interpreter.invoke()
        for read, written in self._carried:
            np.copyto(read(), written())

    def outputs(self) -> Arrays:
        return {name: view().copy() for name, view in self._outputs.items()}

    def _views(self, places: dict[str, str], details: dict[str, dict[str, Any]]) -> Views:
        """Return what shows each tensor in place, by our name; a view that is kept would forbid the next run."""
        return {ours: self._interpreter.tensor(details[theirs]["index"]) for ours, theirs in places.items()}


def _inputs(spec: ModelSpec) -> dict[str, str]:
    """Return what litert-torch calls each input, which is its position, by our name."""
    names = [tensor.name for tensor in spec.inputs] + [pair.input for pair in spec.states]
    return {name: f"args_{position}" for position, name in enumerate(names)}


def _outputs(spec: ModelSpec) -> dict[str, str]:
    names = [output.name for output in spec.outputs] + [pair.output for pair in spec.states]
    return {name: f"output_{position}" for position, name in enumerate(names)}


def _open(prepared: Path, material: Material) -> Bare:
    return Interpreted(prepared, bundle_format.read(material.bundle).manifest.model, material.threads)


def _fp32(material: Material, folder: Path) -> Path:
    from benchmarks.peers.engines.network import convertible, example, quietly

    try:
        import litert_torch
        import torch
    except ImportError as error:
        raise DependencyError(
            f"litert-torch is missing ({error}): it requires xdsl 0.28, which requires typing-extensions below 4.13, "
            "which this project's other packages are too new for",
            expected="litert-torch, which works all the same beside newer typing-extensions",
            fix=f"pip install --no-deps {CONVERTER}",
        ) from error
    path = folder / "fp32.tflite"
    try:
        with quietly():
            spec = bundle_format.read(material.bundle).manifest.model
            litert_torch.convert(convertible(material), example(spec, torch.float32)).export(str(path))
    except Exception as error:  # its passes raise what they like
        raise BackendError(
            f"litert-torch does not convert the network: {' '.join(str(error).split())[:400]}",
            expected="operators that it can lower",
            fix="update litert-torch",
        ) from error
    return path


def _int8(material: Material, folder: Path) -> Path:
    from ai_edge_quantizer import qtyping, quantizer

    from benchmarks.peers.engines.network import convertible_feeds

    names = _inputs(bundle_format.read(material.bundle).manifest.model).values()
    feeds = [
        {name: tensor.numpy() for name, tensor in zip(names, step, strict=True)}
        for step in convertible_feeds(bundle_format.read(material.bundle))
    ]
    asked = quantizer.Quantizer(str(_fp32(material, folder)))
    for kind in (*IMAGES, "FULLY_CONNECTED"):
        asked.add_static_config(".*", qtyping.TFLOperationName[kind], 8, 8)
    # What the memory adds up stays in FP32, or its errors would grow with every step.
    asked.add_static_config("^(?!.*LstmCell)", qtyping.TFLOperationName.ADD, 8, 8)
    path = folder / "int8.tflite"
    asked.quantize(_widest([asked.calibrate({"serving_default": [step]}) for step in feeds])).export_model(path)
    return path


def _widest(ranges: Sequence[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return each tensor's range over all steps: the quantizer itself would forget the first of them."""
    return {
        tensor: {
            "min": np.minimum.reduce([step[tensor]["min"] for step in ranges]),
            "max": np.maximum.reduce([step[tensor]["max"] for step in ranges]),
        }
        for tensor in ranges[0]
    }


PEERS = (
    Peer(
        "litert fp32",
        "litert",
        "fp32",
        STATED,
        ("ai-edge-litert",),
        _fp32,
        _open,
    ),
    Peer(
        "litert int8",
        "litert",
        "int8",
        f"static int8 on golden frames, all of the CNN and every matrix product; {STATED}, AI Edge Quantizer",
        ("ai-edge-litert", "ai-edge-quantizer"),
        _int8,
        _open,
    ),
)
