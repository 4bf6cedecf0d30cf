"""What others make of the same network: ONNX Runtime's own quantizer, uint8 activations × int8 weights, in many forms.

Which form is fastest depends on the network, the engine and the number of threads, so all are timed, and the fastest
runs as the peer. Range calibration is ONNX Runtime's default, on the bundle's golden frames and the memories that the
FP32 graph has at each.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.bundle.format import Bundle
from edge_cnnlstm.runtime.backends.base import advance
from edge_cnnlstm.runtime.backends.ort import OnnxRuntimeBackend
from edge_cnnlstm.spec import BATCH

IMAGE_OPERATORS = ("Conv", "Add", "MaxPool", "Relu", "Clip", "Concat")
PRODUCTS = ("MatMul", "Gemm")
SUMS_IN_FP32 = {"OpTypesToExcludeOutputQuantization": list(PRODUCTS)}


@dataclass(frozen=True, slots=True)
class Form:
    """One way to ask for it.

    `products` says which matrix products become int8: none, those of the gates, or all, heads included. `rectifiers`
    says whether Relu and Clip are among what is quantized; `optimized` whether ONNX Runtime optimizes the FP32 graph
    first. `fused` writes each LSTM cell as one LSTM operator. The operators that `dynamic` names are quantized last,
    and their inputs step by step.
    """

    name: str
    products: str = "none"
    rectifiers: bool = True
    per_channel: bool = True
    optimized: bool = True
    integer_operators: bool = False
    fused: bool = False
    dynamic: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


FORMS = (
    Form("convolutions"),
    Form("convolutions, one scale a tensor", per_channel=False),
    Form("convolutions, rectifiers left out", rectifiers=False),
    Form("convolutions, as integer operators", integer_operators=True),
    Form("convolutions, not optimized first", optimized=False),
    Form("convolutions, gates dynamic", dynamic=PRODUCTS),
    Form("convolutions, LSTM operators", fused=True),
    Form("convolutions, LSTM operators dynamic", fused=True, dynamic=("LSTM",)),
    Form("convolutions and gates", "gates"),
    Form("convolutions and gates, sums in FP32", "gates", options=SUMS_IN_FP32),
    Form("convolutions and gates, not optimized first", "gates", optimized=False),
    Form("convolutions, gates and heads, sums in FP32", "all", options=SUMS_IN_FP32),
)

Feeds = dict[str, NDArray[np.generic]]


def quantize_all(bundle: Bundle, reference: str, folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Write every form of the FP32 graph called `reference` into a folder: files, and why others failed, by form."""
    import onnx

    feeds = calibration_feeds(bundle, reference)
    memory = {pair.output for pair in bundle.manifest.model.states}
    original = folder / "fp32.onnx"
    onnx.save(_for_one_stream(bundle.graph(reference)), original)
    files, failed = {}, {}
    for number, form in enumerate(FORMS):
        path = folder / f"u8s8-{number}.onnx"
        try:
            with _quietly():
                quantize(original, path, form, feeds, memory)
        except Exception as error:  # noqa: BLE001 - the quantizer raises whatever its parts raise; the form is then listed
            failed[form.name] = " ".join(str(error).split()) or type(error).__name__
        else:
            files[form.name] = path
    return files, failed


def calibration_feeds(bundle: Bundle, reference: str) -> list[Feeds]:
    """Return the FP32 graph's inputs at every step of the golden rollout."""
    spec, backend = bundle.manifest.model, OnnxRuntimeBackend(bundle.graph(reference), bundle.manifest.model)
    frames, dt = bundle.golden.frames, bundle.golden.dt
    feeds: list[Feeds] = []
    for at, (pixels, reset) in enumerate(zip(frames, bundle.golden.resets, strict=True)):
        if reset:
            backend.state.reset()
        told = {} if dt is None or spec.dt is None else {spec.dt.name: dt[at].reshape(1, 1)}
        feeds.append({spec.frame.name: pixels[None], **told, **backend.state.snapshot()})
        advance(backend, pixels, 0.0 if dt is None else float(dt[at]))
    backend.close()
    return feeds


def _for_one_stream(graph: bytes) -> Any:
    """Return the graph with its shapes fixed: the quantizer, like any optimizer, makes more of shapes that it knows."""
    import onnx
    from onnxruntime.tools.onnx_model_utils import make_dim_param_fixed

    model = onnx.load_from_string(graph)
    make_dim_param_fixed(model.graph, BATCH, 1)
    return model


def quantize(original: Path, path: Path, form: Form, feeds: list[Feeds], memory: set[str]) -> None:
    """Quantize an FP32 graph in one form, into `path`; `memory` are its state outputs.

    Raises whatever ONNX Runtime's quantizer raises, and ValueError when the network has nothing of what the form
    changes.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from benchmarks.engines.fused import with_lstm_operators

    if form.fused:
        written = path.with_suffix(".fused.onnx")
        onnx.save(with_lstm_operators(onnx.load(original)), written)
        original = written
    prepared = path.with_suffix(".prepared.onnx")
    quant_pre_process(original, prepared, skip_symbolic_shape=True, skip_optimization=not form.optimized)
    images, gates, heads = _nodes(prepared, form, memory)
    chosen = images + {"none": [], "gates": gates, "all": gates + heads}[form.products]
    if not chosen:
        raise ValueError("no such operators in this network")
    static = path.with_suffix(".static.onnx") if form.dynamic else path
    quantize_static(
        prepared,
        static,
        _Reader(feeds),
        quant_format=QuantFormat.QOperator if form.integer_operators else QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=form.per_channel,
        nodes_to_quantize=chosen,
        extra_options=form.options,
    )
    if form.dynamic:
        quantize_dynamic(
            static,
            path,
            op_types_to_quantize=list(form.dynamic),
            # Each Gemm is first replaced by a MatMul of that name.
            nodes_to_exclude=[*heads, *(f"{name}_MatMul" for name in heads)],
            per_channel=form.per_channel,
            weight_type=QuantType.QInt8,
        )


class _Reader:
    """Hands calibration one set of inputs after the other."""

    def __init__(self, feeds: list[Feeds]) -> None:
        self._left = iter(feeds)

    def get_next(self) -> Feeds | None:
        return next(self._left, None)


def _nodes(prepared: Path, form: Form, memory: set[str]) -> tuple[list[str], list[str], list[str]]:
    """Give every node a name; return those that make images, the gates' products, and the heads'.

    What has four dimensions is an image. The gates' products are those that the memory depends on.
    """
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(prepared))
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"node{index}"
    onnx.save(model, prepared)
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in model.graph.value_info}
    kinds = IMAGE_OPERATORS if form.rectifiers else tuple(set(IMAGE_OPERATORS) - {"Relu", "Clip"})
    images = [node.name for node in model.graph.node if node.op_type in kinds and ranks.get(node.output[0]) == 4]
    needed = set(memory)
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
    products = [node for node in model.graph.node if node.op_type in PRODUCTS]
    gates = [node.name for node in products if node.output[0] in needed]
    return images, gates, [node.name for node in products if node.output[0] not in needed]


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence the quantizer's advice about its own preprocessing, which was done."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
