"""What each layer costs in accuracy when it alone is int8: which to keep in FP16, if it comes to that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from edge_cnnlstm.training.config import HeadConfig
from edge_cnnlstm.training.data.clip import Clip
from edge_cnnlstm.training.evaluate import evaluate, torch_answer
from edge_cnnlstm.training.metrics.quality import quality
from edge_cnnlstm.training.model import CnnLstm
from export.points import points


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """How much of which score is lost with this layer alone in int8; `weights` is how many it has."""

    layer: str
    lost: float
    score: str
    weights: int


def scan(
    observed: CnnLstm, layers: Sequence[str], clips: Sequence[Clip], advance: Callable[[], None]
) -> list[Sensitivity]:
    """Quantize one layer at a time, its weights and what it reads, and score the clips.

    `observed` is a calibrated network (`quantize.observe`), used as it is and left with every quantizer on; `advance`
    is called after each layer.
    """
    heads = observed.config.heads
    _switch(observed, ())
    without = _scores(observed, clips, heads)
    found = []
    for layer in layers:
        _switch(observed, (layer,))
        lost, score = worst_loss(without, _scores(observed, clips, heads))
        weight = observed.get_submodule(layer).weight
        found.append(Sensitivity(layer, lost, score, int(weight.numel())))  # type: ignore[operator]  # a tensor
        advance()
    _switch(observed, layers)
    return found


def worst_loss(before: dict[str, float], after: dict[str, float]) -> tuple[float, str]:
    """Return the largest loss among all scores, and which score that is."""
    return max((value - after[name], name) for name, value in before.items())


def _scores(network: CnnLstm, clips: Sequence[Clip], heads: tuple[HeadConfig, ...]) -> dict[str, float]:
    return quality(evaluate(torch_answer(network), clips, heads).scores, heads)


def _switch(observed: CnnLstm, layers: Sequence[str]) -> None:
    """Turn on the quantizers of these layers, and all others off."""
    for name, module in observed.named_modules():
        if name.endswith("weight_quantizer"):
            _set(module, name.removesuffix(".weight_quantizer") in layers)
    for _, point in points(observed):
        _set(point.get_submodule("input_quantizer"), point.serves(layers, outputs=False))


def _set(quantizer: nn.Module, on: bool) -> None:
    calibrated = getattr(quantizer, "amax", None) is not None
    if calibrated and on:
        quantizer.enable()  # type: ignore[operator]  # modelopt ships no types
    elif calibrated:
        quantizer.disable()  # type: ignore[operator]  # modelopt ships no types
