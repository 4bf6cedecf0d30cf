"""The precision plan: every candidate's accuracy and speed, and the one that each engine gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import onnxruntime

from edge_cnnlstm import provenance
from edge_cnnlstm.bundle.manifest import Candidate, Dialect, Plan
from edge_cnnlstm.errors import ConfigError, ExportError
from export.cost import ORIN_NANO
from export.precisions import Precision

Wanted = Literal["auto", "fp32", "fp16", "mixed", "int8"]
TARGETS: tuple[Dialect, ...] = ("tensorrt", "onnxruntime")
MEASURED_ON = (
    f"ONNX Runtime {onnxruntime.__version__}, one thread, {provenance.cpu_model() or 'this CPU'} "
    f"{f'with {dot}' if (dot := provenance.int8_dot()) else 'without an int8 dot product: others gain more by int8'}"
)
ESTIMATED_FOR = f"{ORIN_NANO.name}, from its peak rates: a lower bound"


def choose(precisions: Mapping[str, Precision], rows: Mapping[str, Candidate], wanted: Wanted, budget: float) -> Plan:
    """Choose one graph for each target: the fastest within the budget, or the one that was asked for.

    Raises ExportError when the one asked for loses more than `budget`, and ConfigError when this network has no such
    form.
    """
    chosen: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for target in TARGETS:
        able = [name for name, precision in precisions.items() if precision.dialect in {target, "portable"}]
        if wanted == "auto":
            chosen[target], reasons[target] = _fastest(target, able, rows, budget)
        else:
            chosen[target] = name = _named(wanted, target, able)
            reasons[target] = f"{name} was asked for"
            if rows[name].lost > budget:
                raise ExportError(
                    f"{name} loses {100 * rows[name].lost:.2f} points on the validation clips",
                    expected=f"at most {100 * budget:.2f}",
                    fix="fine-tune it with --qat, keep its most sensitive layers with --keep, choose another precision "
                    "with --precision auto, or allow more with --budget",
                )
    return Plan(budget, tuple(rows.values()), chosen, reasons, MEASURED_ON, ESTIMATED_FOR)


def _fastest(target: Dialect, able: list[str], rows: Mapping[str, Candidate], budget: float) -> tuple[str, str]:
    kind = "estimated" if target == "tensorrt" else "measured"
    times = {name: getattr(rows[name], f"{kind}_us") for name in able}
    within = [name for name in able if rows[name].lost <= budget]
    best = min(within, key=times.__getitem__)
    others = sorted((name for name in within if name != "fp32"), key=times.__getitem__)
    reason = f"{best} is the fastest of {len(within)} within the budget, {kind} at {times[best]:,.0f} µs a step"
    if best != "fp32":
        reason += f" against {times['fp32']:,.0f} µs in FP32; {_cost(rows[best].lost)}"
    elif others:
        reason += f"; the next, {others[0]}, takes {times[others[0]]:,.0f} µs"
    beyond = [f"{name} loses {100 * rows[name].lost:.2f}" for name in able if name not in within]
    return best, f"{reason}. Beyond the budget: {', '.join(beyond)}" if beyond else reason


def _cost(lost: float) -> str:
    return f"it loses {100 * lost:.2f} points" if lost > 0 else "no score is lower"


def _named(wanted: str, target: Dialect, able: list[str]) -> str:
    # A CPU has no fast FP16: it computes that network in FP32.
    name = "fp32" if wanted == "fp32" or (wanted == "fp16" and target != "tensorrt") else f"{wanted}_{target}"
    if name not in able:
        raise ConfigError(
            f"--precision {wanted} for a network without LSTM gates or without other layers",
            expected=f"one of {', '.join(able)}",
            fix="choose --precision int8 or auto",
        )
    return name
