"""Calibration: what range each activation and each weight channel takes, seen on rollouts that carry their state.

nvidia-modelopt observes; what it learnt is then lowered to each engine's dialect by `lower_ort` and `lower_trt`.
"""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_cnnlstm.errors import DataError
from edge_cnnlstm.training.model import CnnLstm
from export.intervals import intervals
from export.points import QuantizationPoint, points
from export.qdq import Range

with warnings.catch_warnings():
    # modelopt warns at import that it found no transformers package; this network has no use for one.
    warnings.simplefilter("ignore")
    import modelopt.torch.quantization as modelopt
    from modelopt.torch.quantization.model_calib import enable_stats_collection
    from modelopt.torch.quantization.nn import QuantInputBase, TensorQuantizer

Method = Literal["max", "entropy", "percentile", "mse"]
METHODS: tuple[Method, ...] = ("max", "entropy", "percentile", "mse")
OPTIONS: dict[Method, dict[str, float]] = {"percentile": {"percentile": 99.99}, "entropy": {"stride": 8}}
"""Of modelopt's searches. Entropy looks at every eighth bin of 2,048: at every one it takes seconds an activation."""
LONG = 10
"""The longest rollout is at least so many times as long as a training clip: memories settle late."""
MINIMUM_FRAMES = 64
TOGETHER = 16
"""Frames whose convolutions run as one batch; more would not be faster, and takes more memory."""
FRAME_RANGE = Range(low=-2.0, magnitude=127 / 64)
"""Of the normalised frame, by definition. With it the scale is 1/64, and quantizing the frame loses nothing."""


class _CalibratedPoint(QuantInputBase):  # type: ignore[misc]  # modelopt ships no types
    """What modelopt turns a `QuantizationPoint` into."""


modelopt.register(original_cls=QuantizationPoint, quantized_cls=_CalibratedPoint)

Rollout = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Calibration:
    """What calibration learnt: the range of each activation by its point, and weight magnitudes by layer."""

    activations: dict[str, Range] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)


def rollouts_of(clips: Sequence[Rollout]) -> list[Rollout]:
    """Arrange clips into rollouts: a quarter alone, a quarter in fours, and the other half as one long one.

    So the ranges cover fresh, settled and stale memories alike. Raises DataError when that long one would be shorter
    than ten times the longest clip.
    """
    quarter = len(clips) // 4
    alone, fours, long = clips[:quarter], clips[quarter : 2 * quarter], clips[2 * quarter :]
    frames, wanted = sum(map(len, long)), LONG * max(map(len, clips), default=0)
    if not clips or frames < wanted:
        raise DataError(
            f"{len(clips)} calibration clips, whose longest rollout has {frames} frames",
            expected=f"at least {wanted or MINIMUM_FRAMES} frames in one rollout: {LONG} × the longest clip",
            fix="calibrate on more clips: with equally long ones, 20 or more",
        )
    return [*alone, *(np.concatenate(fours[at : at + 4]) for at in range(0, len(fours), 4)), np.concatenate(long)]


def observe(model: CnnLstm, rollouts: Sequence[Rollout], method: Method = "max") -> CnnLstm:
    """Return a copy of a quantizable network that computes with fake quantization, calibrated over rollouts.

    `rollouts` are frame sequences, uint8 [time, height, width, 3]; each starts from an empty memory and carries it to
    its end. `method` says how a range follows from what was seen: the largest value, or the range that loses the least
    by entropy (Kullback-Leibler), by mean square, or that holds 99.99 % of the values. Weights take their largest.
    Raises DataError for fewer than 64 frames, and for an activation that is not finite or always zero, by name.
    """
    frames = sum(map(len, rollouts))
    if frames < MINIMUM_FRAMES:
        raise DataError(
            f"{frames} calibration frames",
            expected=f"at least {MINIMUM_FRAMES}, in rollouts as the robot will see them",
            fix="calibrate on more clips",
        )
    observed = copy.deepcopy(model)
    # Not in inference mode: its tensors could not be trained on.
    with torch.no_grad(), _quiet():
        _watch(observed, rollouts)
        modelopt.quantize(observed, {"quant_cfg": _quantizers(method), "algorithm": None})
        enable_stats_collection(observed)
        for _, point in points(observed):
            # A histogram takes its bins from the first value that it sees, and the first memory is all zeros.
            _quantizer(point, "input").collect(torch.tensor([point.magnitude]))
        for module in observed.modules():
            if _is_on(getattr(module, "weight_quantizer", None)):
                _quantizer(module, "weight").collect(module.weight)
        if method != "max":
            for rollout in rollouts:
                _roll(observed, rollout)
        _finish(observed, method)
        for _, point in points(observed):
            if point.is_frame:
                _quantizer(point, "input").amax = torch.tensor(FRAME_RANGE.magnitude)
    return observed


def calibration_of(observed: CnnLstm) -> Calibration:
    """Return what an observed network learnt."""
    learnt = Calibration()
    for name, point in points(observed):
        seen = Range(point.low, float(_quantizer(point, "input").amax))
        learnt.activations[name] = FRAME_RANGE if point.is_frame else seen
    for name, module in observed.named_modules():
        if _is_on(getattr(module, "weight_quantizer", None)):
            learnt.weights[name] = _quantizer(module, "weight").amax.detach().flatten().clone()
    return learnt


def calibrate(model: CnnLstm, rollouts: Sequence[Rollout], method: Method = "max") -> Calibration:
    """Observe a quantizable network over rollouts and return what was learnt; errors as `observe` raises them."""
    return calibration_of(observe(model, rollouts, method))


def _quantizers(method: Method) -> list[dict[str, object]]:
    activation = {"num_bits": 8, "axis": None, "calibrator": "max" if method == "max" else "histogram"}
    return [
        {"quantizer_name": "*", "enable": False},
        {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": 8, "axis": 0}},
        {"quantizer_name": "*point*input_quantizer", "cfg": activation},
        # The heads are a few thousand weights that decide everything: they stay in floating point.
        {"quantizer_name": "heads.*", "enable": False},
    ]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # modelopt prints how many quantizers it inserted, and probes for packages that this network does not need.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _watch(network: CnnLstm, rollouts: Sequence[Rollout]) -> None:
    """Note the range of values at each point, and stop at the first that is not finite."""
    handles = [point.register_forward_pre_hook(_noting(name)) for name, point in points(network)]
    for rollout in rollouts:
        _roll(network, rollout)
    for handle in handles:
        handle.remove()


def _noting(name: str) -> Callable[[QuantizationPoint, tuple[Tensor, ...]], None]:
    def note(point: QuantizationPoint, inputs: tuple[Tensor, ...]) -> None:
        if not torch.isfinite(inputs[0]).all():
            raise DataError(
                f"the activation at {name!r} is NaN or infinite on a calibration frame",
                expected="finite activations",
                fix="check the weights before it, and the calibration frames",
            )
        low, high = (float(value) for value in inputs[0].aminmax())
        point.low, point.magnitude = min(point.low, low), max(point.magnitude, high, -low)

    return note


def _roll(network: CnnLstm, rollout: Rollout) -> None:
    state, dt = network.initial_state(), intervals(network.config, np.zeros(len(rollout), np.bool_))
    for begin in range(0, len(rollout), TOGETHER):
        together = slice(begin, begin + TOGETHER)
        told = None if dt is None else torch.from_numpy(dt[None, together])
        _, state = network.sequence(torch.from_numpy(rollout[together])[None], state, told)


def _least_square(calibrator: Any) -> Tensor:
    """Return the range whose int8 rounding and clipping cost the least mean square over a histogram.

    modelopt's own search (seen in 0.47) hands the number of bits over as a bias, and always ends at the smallest range.
    """
    counts, edges = (torch.as_tensor(part).double() for part in (calibrator._calib_hist, calibrator._calib_bin_edges))  # noqa: SLF001 - as above
    centres = (edges[1:] + edges[:-1]) / 2
    ranges = centres[len(centres) // 16 :]
    steps = ranges[:, None] / 127
    rounded = torch.clamp(torch.round(centres / steps), max=127) * steps
    costs = ((rounded - centres).square() * counts).sum(dim=1)
    return ranges[costs.argmin()].float()


def _quantizer(module: nn.Module, what: Literal["input", "weight"]) -> Any:
    return module.get_submodule(f"{what}_quantizer")


def _is_on(module: object) -> bool:
    return isinstance(module, TensorQuantizer) and module.is_enabled


def _finish(observed: CnnLstm, method: Method) -> None:
    for name, module in observed.named_modules():
        if not _is_on(module):
            continue
        if method == "max" or name.endswith("weight_quantizer"):
            module.load_calib_amax()
        elif method == "mse":
            module.amax = _least_square(module._calibrator)  # noqa: SLF001 - the histogram has no public name
        else:
            module.load_calib_amax(method, **OPTIONS[method])
        module.enable_quant()
        module.disable_calib()
        if not float(module.amax.max()) > 0:
            raise DataError(
                f"{name.removesuffix('.input_quantizer').removesuffix('.weight_quantizer')!r} is zero throughout",
                expected="activations and weights that differ from zero",
                fix="the layer before it is dead: check the weights and the calibration frames",
            )
