"""From a trained network to a calibrated one: fold, split, calibrate on rollouts that carry their state.

nvidia-modelopt observes; what it learnt (one range per activation, one magnitude per weight channel) is then
lowered to each engine's dialect by `lower_ort` and `lower_trt`.
"""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_cnnlstm.errors import DataError
from edge_cnnlstm.training.model import CnnLstm, LstmCell, lstm_update
from export.qdq import Range

with warnings.catch_warnings():
    # modelopt warns at import that it found no transformers package; this network has no use for one.
    warnings.simplefilter("ignore")
    import modelopt.torch.quantization as modelopt
    from modelopt.torch.quantization.nn import QuantInputBase, TensorQuantizer

MINIMUM_FRAMES = 64
FRAME_MAGNITUDE = 127 / 64
"""Calibrated magnitude of the normalised frame. With it the scale is 1/64, and quantizing the frame loses nothing."""


class QuantizationPoint(nn.Identity):
    """A place where an activation is quantized once for several readers."""


class _CalibratedPoint(QuantInputBase):  # type: ignore[misc]  # modelopt ships no types
    """What modelopt turns a `QuantizationPoint` into."""


modelopt.register(original_cls=QuantizationPoint, quantized_cls=_CalibratedPoint)


class SplitCell(nn.Module):
    """An LSTM cell whose gates read x and h through two linear maps, so that each has a scale of its own.

    x is what a rectifier left, without bound; h lies in (−1, 1). One shared scale would leave h a handful of
    the 256 levels. Equal to `LstmCell` but for the order of one addition.
    """

    def __init__(self, cell: LstmCell) -> None:
        super().__init__()
        weight, bias = cell.gates.weight.detach(), cell.gates.bias.detach()
        hidden = len(bias) // 4
        inputs = weight.shape[1] - hidden
        self.gates_x = nn.Linear(inputs, 4 * hidden)
        self.gates_h = nn.Linear(hidden, 4 * hidden, bias=False)
        self.gates_x.weight, self.gates_x.bias = nn.Parameter(weight[:, :inputs].clone()), nn.Parameter(bias.clone())
        self.gates_h.weight = nn.Parameter(weight[:, inputs:].clone())

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return lstm_update(self.gates_x(x) + self.gates_h(h), c)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What calibration learnt: per module name, the range of its input and the magnitudes of its weights."""

    inputs: dict[str, Range] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)


def fold_batch_norm(model: CnnLstm) -> CnnLstm:
    """Return a copy in evaluation mode whose batch norms are part of the convolutions before them."""
    folded = copy.deepcopy(model).eval()
    for parent in folded.modules():
        if isinstance(parent, nn.Sequential):
            _fold_in(parent)
    return folded


def _fold_in(parent: nn.Sequential) -> None:
    kept: list[nn.Module] = []
    for child in parent:
        if isinstance(child, nn.BatchNorm2d) and kept and isinstance(kept[-1], nn.Conv2d):
            kept[-1] = nn.utils.fusion.fuse_conv_bn_eval(kept[-1], child)
        else:
            kept.append(child)
    while len(parent):
        del parent[-1]
    parent.extend(kept)


def quantizable(folded: CnnLstm) -> CnnLstm:
    """Return a copy with split gates and a quantization point wherever several readers share an activation."""
    model = copy.deepcopy(folded)
    model.cells = nn.ModuleList(SplitCell(cast("LstmCell", cell)) for cell in model.cells)
    model.backbone.stages.append(QuantizationPoint())
    if isinstance(model.backbone.where, nn.Sequential):
        model.backbone.where.append(QuantizationPoint())
    return model


def calibrate(model: CnnLstm, rollouts: Iterable[NDArray[np.uint8]]) -> Calibration:
    """Observe every activation of a `quantizable` network over rollouts.

    `rollouts` are frame sequences, uint8 [time, height, width, 3]. The memory is carried from each to the next
    and emptied before every fourth, so the ranges cover fresh, settled and stale states alike. Raises DataError
    for fewer than 64 frames and for activations that are not finite.
    """
    observed = copy.deepcopy(model)
    sequences = list(rollouts)
    frames = sum(len(sequence) for sequence in sequences)
    if frames < MINIMUM_FRAMES:
        raise DataError(
            f"{frames} calibration frames",
            expected=f"at least {MINIMUM_FRAMES}, in rollouts as the robot will see them",
            fix="calibrate on more clips",
        )

    lows: dict[str, float] = {}

    def roll(network: CnnLstm) -> None:
        watched = [_watch(module, name, lows) for name, module in network.named_modules() if _reads(module)]
        state = network.initial_state()
        for index, sequence in enumerate(sequences):
            if index % 4 == 0:
                state = network.initial_state()
            _, state = network.sequence(torch.from_numpy(sequence)[None], state)
        for handle in watched:
            handle.remove()

    quiet = contextlib.redirect_stdout(io.StringIO())  # modelopt prints how many quantizers it inserted
    with torch.inference_mode(), quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # modelopt probes for optional packages that this network does not need
        modelopt.quantize(observed, _QUANTIZERS, roll)
    return _learnt(observed, lows)


_QUANTIZERS = {
    "quant_cfg": [
        {"quantizer_name": "*", "enable": False},
        {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": 8, "axis": 0}},
        {"quantizer_name": "*input_quantizer", "cfg": {"num_bits": 8, "axis": None}},
        # The heads are a few thousand weights that decide everything: they stay in floating point.
        {"quantizer_name": "heads.*", "enable": False},
        # It reads the shared, already quantized map.
        {"quantizer_name": "backbone.where.0.input_quantizer", "enable": False},
    ],
    "algorithm": "max",
}


def _reads(module: nn.Module) -> bool:
    quantizer = getattr(module, "input_quantizer", None)
    return isinstance(quantizer, TensorQuantizer) and quantizer.is_enabled


def _watch(module: nn.Module, name: str, lows: dict[str, float]) -> torch.utils.hooks.RemovableHandle:
    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not torch.isfinite(inputs[0]).all():
            raise DataError(
                f"the input of {name!r} is NaN or infinite on a calibration frame",
                expected="finite activations",
                fix="check the weights before that layer, and the calibration frames",
            )
        lows[name] = min(lows.get(name, float("inf")), float(inputs[0].min()))

    return module.register_forward_pre_hook(note)


def _learnt(observed: CnnLstm, lows: dict[str, float]) -> Calibration:
    learnt = Calibration()
    for name, module in observed.named_modules():
        if _reads(module):
            learnt.inputs[name] = Range(lows[name], float(module.input_quantizer.amax))
        weights = getattr(module, "weight_quantizer", None)
        if isinstance(weights, TensorQuantizer) and weights.is_enabled:
            learnt.weights[name] = weights.amax.detach().flatten().clone()
    for name, seen in learnt.inputs.items():
        if seen.magnitude <= 0:
            raise DataError(
                f"the input of {name!r} is zero on every calibration frame",
                expected="activations that differ from zero",
                fix="the layer before it is dead: check the weights and the calibration frames",
            )
    first = next(iter(learnt.inputs))
    learnt.inputs[first] = Range(low=-2.0, magnitude=FRAME_MAGNITUDE)
    return learnt
