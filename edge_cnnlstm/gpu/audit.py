"""What an engine really runs: its layers as TensorRT's inspector lists them, held against what the plan says.

Needs a loaded engine, hence a GPU. The documents that the tests read were written after ones that TensorRT 10 and 11
have printed elsewhere; nothing here has been run on an engine of this project yet.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from edge_cnnlstm.errors import BackendError
from edge_cnnlstm.gpu import tensorrt
from edge_cnnlstm.gpu.cuda import Session
from edge_cnnlstm.gpu.engine import Engine, Plan, deserialize

UNKNOWN = "unknown"

DTYPES = {
    "fp32": ("fp32", 4), "float": ("fp32", 4), "half": ("fp16", 2), "fp16": ("fp16", 2), "bf16": ("bf16", 2),
    "bfloat16": ("bf16", 2), "int8": ("int8", 1), "uint8": ("uint8", 1), "fp8": ("fp8", 1), "int32": ("int32", 4),
    "int64": ("int64", 8), "bool": ("bool", 1),
}  # fmt: skip
"""TensorRT's words for types, lower case: what they are called here, and bytes per value."""

COMPUTES = re.compile(r"conv|gemm|matmul|matrix|mha", re.IGNORECASE)
"""Kinds of layers that multiply; those called kgen, fusion or Reformat may hold such a layer, and more often do not."""

OPERANDS_THEN_PRODUCT = re.compile(r"_(?:bf16|[if]\d+)+_(tf32|bf16|[if]\d+)(?:bf16|tf32|[if]\d+)_")
"""In a kernel's name: what it reads, then what it multiplies and adds up in, as in `_f32f32_tf32f32_f32_`."""

PRODUCTS = {"i8": "int8", "f16": "fp16", "bf16": "bf16", "tf32": "tf32", "f32": "fp32"}

KERNEL_NAMES = (
    (re.compile(r"tf32"), "tf32"),
    (re.compile(r"int8|imma|_s8|_i8|_i\d{4}"), "int8"),
    (re.compile(r"bf16"), "bf16"),
    (re.compile(r"fp16|f16|hmma|_h\d{3}"), "fp16"),
    (re.compile(r"fp32|f32|sgemm|scudnn"), "fp32"),
)
"""Signs in other kernels' names, the more telling first: those that read int8 mostly name FP32 too."""


@dataclass(frozen=True, slots=True)
class EngineTensor:
    """What a layer reads or writes; `format` is how it lies in memory, in TensorRT's words."""

    name: str
    shape: tuple[int, ...]
    format: str

    @property
    def dtype(self) -> str:
        """The type of its values, "int8" or "fp16" for instance; "unknown" where TensorRT does not say."""
        return _dtype(self.format)[0]

    @property
    def bytes(self) -> int | None:
        """Its values' bytes, without what the format pads; None where TensorRT does not say."""
        size = _dtype(self.format)[1]
        return math.prod(self.shape) * size if size and min(self.shape, default=1) >= 0 else None


@dataclass(frozen=True, slots=True)
class EngineLayer:
    """One layer of an engine.

    `kind` is TensorRT's word, `precision` what it multiplies in: "int8", "fp16", "fp32", "tf32", "bf16" or "unknown".
    `tactic` is the kernel, where one is named; `sources` are the ONNX nodes that were fused into it. `weight_bytes` are
    its weights and bias, where they are told. From an engine built without details only the name is known.
    """

    name: str
    kind: str = UNKNOWN
    precision: str = UNKNOWN
    tactic: str | None = None
    inputs: tuple[EngineTensor, ...] = ()
    outputs: tuple[EngineTensor, ...] = ()
    weight_bytes: int | None = None
    sources: tuple[str, ...] = ()

    @property
    def bytes(self) -> int | None:
        """What it reads and writes each time it runs; None where TensorRT does not say."""
        sizes = [tensor.bytes for tensor in (*self.inputs, *self.outputs)]
        known = [size for size in sizes if size is not None]
        return sum(known) + (self.weight_bytes or 0) if known and len(known) == len(sizes) else None

    @property
    def computes(self) -> bool:
        """Whether this is by its kind or its kernel a convolution or a matrix product."""
        return bool(COMPUTES.search(self.kind)) or _kernel_precision(self.tactic) != UNKNOWN


@dataclass(frozen=True, slots=True)
class Stray:
    """A layer that does not run in the precision that was planned, or of which that cannot be told.

    `found` is "unknown" then; `layer` is the engine's layer that it was found in, None when it was not found.
    """

    name: str
    planned: str
    found: str
    layer: str | None

    def __str__(self) -> str:
        if self.layer is None:
            return f"{self.name}: planned {self.planned}, not found in the engine"
        runs = "what it runs in cannot be told" if self.found == UNKNOWN else f"runs in {self.found}"
        where = "" if self.layer == self.name else f", in {self.layer!r}"
        return f"{self.name}: planned {self.planned}, {runs}{where}"


def examine(plan: Plan, name: str, trt: Any) -> tuple[list[EngineLayer], list[Stray]]:
    """Load a plan on this device's GPU, and return its layers and those that do not run as planned.

    Raises what `deserialize` and `layers` raise, and DependencyError without a GPU.
    """
    with closing(Session()) as session, session:
        found = layers(deserialize(plan.data, name, trt))
    return found, strays(found, plan.precisions)


def layers(loaded: Engine) -> list[EngineLayer]:
    """Return the layers of a loaded engine, in the order they run.

    Raises BackendError when TensorRT's inspector says nothing, or what is not understood.
    """
    trt, engine = loaded.trt, loaded.engine
    loaded.logger.errors.clear()
    inspector = engine.create_engine_inspector()
    if inspector is None:
        raise BackendError(
            f"{tensorrt.version(trt)} gives no inspector: {loaded.logger.reason}",
            expected="an inspector of the loaded engine",
            fix="load the plan again; if that does not help, build it again",
        )
    return parse(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def parse(document: str) -> list[EngineLayer]:
    """Return the layers of what TensorRT's inspector prints as JSON, whichever version it is.

    Raises BackendError when that is no such document.
    """
    try:
        # Names may be separated by control characters, which strict JSON escapes.
        rows = json.loads(document, strict=False)["Layers"]
        return [_layer(row) for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackendError(
            f"TensorRT's inspector printed what is not understood: {error!r}",
            expected='JSON with a list called "Layers"',
            fix="report this with the version of TensorRT; the engine itself may be sound",
        ) from error


def strays(layers: Sequence[EngineLayer], precisions: Mapping[str, str]) -> list[Stray]:
    """Return every planned layer that runs in another precision, or that cannot be told of: none is taken for sound.

    `precisions` is that of the Plan. A layer that was fused is looked for in what it was fused into; one that was split
    is reported with the first part that differs.
    """
    found = (_stray(name, planned, layers) for name, planned in precisions.items())
    return [stray for stray in found if stray is not None]


def _stray(name: str, planned: str, layers: Sequence[EngineLayer]) -> Stray | None:
    holding = [layer for layer in layers if name in layer.sources]
    # What else names it copies or converts for it.
    parts = [layer for layer in holding if layer.computes] or holding
    if not parts:
        return Stray(name, planned, UNKNOWN, None)
    return next((Stray(name, planned, part.precision, part.name) for part in parts if part.precision != planned), None)


def _layer(row: dict[str, Any] | str) -> EngineLayer:
    if isinstance(row, str):
        return EngineLayer(row, sources=_sources(row, ""))
    name, kind = row["Name"], row.get("LayerType", UNKNOWN)
    inputs, outputs = (tuple(map(_tensor, row.get(side, ()))) for side in ("Inputs", "Outputs"))
    tactic = row.get("TacticName") or None
    weights = [row[part] for part in ("Weights", "Bias") if isinstance(row.get(part), dict)]
    return EngineLayer(
        name,
        kind,
        _precision(kind, tactic, row.get("Weights"), inputs, outputs),
        tactic,
        inputs,
        outputs,
        sum(part.get("Count", 0) * _dtype(part.get("Type", ""))[1] for part in weights) if weights else None,
        _sources(name, row.get("Metadata", "")),
    )


def _tensor(row: dict[str, Any]) -> EngineTensor:
    """TensorRT 10 tells format and type in one phrase, TensorRT 11 apart."""
    words = [row.get(key, "") for key in ("Format/Datatype", "Format", "Datatype", "DataType")]
    return EngineTensor(row.get("Name", ""), tuple(row.get("Dimensions", ())), " ".join(filter(None, words)))


def _sources(name: str, metadata: str) -> tuple[str, ...]:
    """Return the ONNX nodes that a layer was made of, by its metadata, else by the parts of its name."""
    if told := re.findall(r"\[ONNX Layer: ([^\]]+)\]", metadata):
        return tuple(dict.fromkeys(told))
    parts = [re.sub(r"_myl\d*(_\d+)?$", "", part) for part in re.split(r"\s*(?:\+|\|\|)\s*", name)]
    return tuple(dict.fromkeys(parts))


def _precision(
    kind: str, tactic: str | None, weights: Any, inputs: Sequence[EngineTensor], outputs: Sequence[EngineTensor]
) -> str:
    """Tell what a layer multiplies in, from what is surest: its kernel, its weights, what it reads."""
    kernel = _kernel_precision(tactic)
    if kernel != UNKNOWN:
        return kernel
    if isinstance(weights, dict) and "Type" in weights:
        return _dtype(weights["Type"])[0]
    if COMPUTES.search(kind):
        return inputs[0].dtype if inputs else UNKNOWN
    # A kernel that was generated for several operators may convert inside: only one type throughout is telling.
    types = {tensor.dtype for tensor in (*inputs, *outputs)}
    return types.pop() if len(types) == 1 else UNKNOWN


def _kernel_precision(tactic: str | None) -> str:
    # The names of generated kernels list operators and end in a checksum, in which anything may stand.
    if tactic is None or tactic.startswith("__myl"):
        return UNKNOWN
    spelled = OPERANDS_THEN_PRODUCT.search(tactic)
    if spelled and spelled[1] in PRODUCTS:
        return PRODUCTS[spelled[1]]
    return next((precision for sign, precision in KERNEL_NAMES if sign.search(tactic)), UNKNOWN)


def _dtype(words: str) -> tuple[str, int]:
    """Return the type that TensorRT's description of a tensor names, and bytes per value."""
    return next((DTYPES[word] for word in re.findall(r"\w+", words.lower()) if word in DTYPES), (UNKNOWN, 0))
