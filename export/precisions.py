"""The ways to compute one network: which layers are int8, in which dialect, and how far the result may stray."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge_cnnlstm.bundle.manifest import Dialect
from edge_cnnlstm.training.model import CnnLstm
from export.lower_ort import lower_ort
from export.lower_trt import lower_trt
from export.parity import Tolerance
from export.quantize import Calibration

FP32 = Tolerance(1e-3, 1e-4)
TENSORRT = Tolerance(0.3, 0.005)
"""TensorRT may round between two operators or not. At worst a gate then opens, and a memory is replaced, a
frame sooner: such moments are rare, so it is the typical step that tells a sound graph from another.
"""
ONNXRUNTIME = Tolerance(0.3, 0.03)
"""A CPU multiplies by one rounded ratio of scales, torch by one scale after the other: once in 100,000 values they
round to different sides. Shallow networks stay a hundred times below this; fifty layers multiply what the first differ
in.
"""


@dataclass(frozen=True, slots=True)
class Precision:
    """One way to compute a network; `layers` are those that become int8, `rest` what the others compute in."""

    name: str
    dialect: Dialect
    description: str
    layers: tuple[str, ...]
    tolerance: Tolerance
    lower: Callable[[CnnLstm, Calibration, tuple[str, ...]], CnnLstm]

    @property
    def rest(self) -> str:
        """What the layers that are not int8 compute in."""
        return "fp16" if self.dialect == "tensorrt" else "fp32"

    def network(self, model: CnnLstm, calibration: Calibration) -> CnnLstm:
        """Return a quantizable network as this precision computes it, in torch."""
        return self.lower(model, calibration, self.layers)


def candidates(layers: tuple[str, ...], keep: tuple[str, ...] = ()) -> dict[str, Precision]:
    """Return every precision worth comparing, by name, for a network with these layers, but for those to `keep`.

    Gates are apart from convolutions, because a matrix times one vector reads each weight once: int8 halves what is
    read, and adds the cost of quantizing x and h. Only a measurement tells.
    """
    able = tuple(name for name in layers if name not in keep)
    gates = tuple(name for name in able if ".gates_" in name)
    rest = tuple(name for name in able if name not in gates)
    but = f", but for {', '.join(keep)}" if keep else ""
    found = [
        Precision("fp32", "portable", "fp32", (), FP32, lambda model, *_: model),
        Precision("fp16_tensorrt", "tensorrt", "fp16, fp32 cell state", (), TENSORRT, lower_trt),
        Precision("int8_tensorrt", "tensorrt", f"int8{but}, fp16 between, fp32 cell state", able, TENSORRT, lower_trt),
        Precision("int8_onnxruntime", "onnxruntime", f"int8{but}, fp32 between", able, ONNXRUNTIME, lower_ort),
    ]
    if gates and rest:
        text = f"int8 convolutions{but}, {{}} gates"
        found[2:2] = [Precision("mixed_tensorrt", "tensorrt", text.format("fp16"), rest, TENSORRT, lower_trt)]
        found[4:4] = [Precision("mixed_onnxruntime", "onnxruntime", text.format("fp32"), rest, ONNXRUNTIME, lower_ort)]
    return {precision.name: precision for precision in found}
