"""What an export found, as plain data: the JSON beside the bundle, from which the report is drawn."""

from __future__ import annotations

import time
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from edge_cnnlstm import provenance
from edge_cnnlstm.bundle.manifest import Candidate
from export.operators import operators, optimized_operators
from export.pipeline import RESETS, Exported
from export.sensitivity import worst_loss

SCHEMA_VERSION = 1
MADE_WITH = ("edge-cnnlstm", "torch", "onnx", "onnxruntime", "nvidia-modelopt", "tensorrt-rtx", "numpy")


def document(found: Exported, bundle: Path, file: str, *, started: float) -> dict[str, Any]:
    """Return everything measured; `bundle` is where it stands now, and `file` the name that it will take."""
    config, settings = found.network.config, found.settings
    return {
        "schema_version": SCHEMA_VERSION,
        "bundle": {"file": file, "bytes": bundle.stat().st_size, "sha256": sha256(bundle.read_bytes()).hexdigest()},
        "started": started,
        "seconds": time.time() - started,
        "machine": provenance.machine(),
        "versions": provenance.versions(*MADE_WITH),
        "commit": provenance.git_commit(Path(__file__).parent),
        "network": {
            "preset": config.preset,
            "height": config.height,
            "width": config.width,
            "layers": config.layers,
            "hidden": config.hidden,
            "dt_input": config.dt_input,
            "parameters": sum(weights.numel() for weights in found.network.parameters()),
            "macs": sum(layer.macs for layer in found.layers.values()),
        },
        "rules": asdict(settings.rules),
        "budget": settings.budget,
        "validation_clips": settings.validation_clips,
        "test_clips": len(found.tested["fp32"].answers),
        "calibration": {
            "method": settings.calibration,
            "rollouts": len(found.rollouts),
            "frames": sum(found.rollouts),
            "longest": max(found.rollouts),
        },
        "qat": asdict(found.finetuned) if found.finetuned else None,
        "candidates": [_candidate(found, name) for name in found.precisions],
        "choice": {
            target: {"name": name, "reason": found.plan.reasons[target]} for target, name in found.plan.chosen.items()
        },
        "graphs": {name: _graph(found, name) for name in found.tested},
        "parity": {
            "steps": settings.steps,
            "resets": [int(share * settings.steps) for share in RESETS],
            "graphs": {name: _parity(found, name) for name in found.parity},
        },
        "drift": {name: asdict(curve) for name, curve in found.drift.items()},
        "sensitivity": [asdict(row) | {"kept": row.layer in settings.keep} for row in found.sensitivity],
        "tensorrt": {
            name: {
                "version": built.plan.version,
                "plan_bytes": len(built.plan.data),
                "seconds": built.plan.seconds,
                "layers": built.plan.layers,
                "int8_weight_bytes": built.int8_weight_bytes,
                "expected_int8_weight_bytes": built.expected_int8_weight_bytes,
            }
            for name, built in found.builds.items()
        },
    }


def _candidate(found: Exported, name: str) -> dict[str, Any]:
    plan, precision, cost = found.plan, found.precisions[name], found.costs[name]
    row = next(row for row in plan.candidates if row.name == name)
    reference = next(row for row in plan.candidates if row.name == "fp32")
    return {
        "name": name,
        "dialect": precision.dialect,
        "precision": precision.description,
        "int8_layers": len(precision.layers),
        "layers": len(found.layers),
        "accuracy": row.accuracy,
        "lost": row.lost,
        "lost_most": worst_loss(reference.accuracy, row.accuracy)[1],
        "bytes": row.bytes,
        "macs": cost.macs,
        "weight_bytes": cost.weight_bytes,
        "activation_bytes": cost.activation_bytes,
        "latency": {
            "p50_us": row.estimated_us if row.measured_us is None else row.measured_us,
            "p99_us": None,
            "kind": "estimated" if row.measured_us is None else "measured",
            "where": plan.estimated_for if row.measured_us is None else plan.measured_on,
        },
        "other_latencies": _estimate(found, row),
        "within_budget": row.lost <= plan.budget,
        "chosen": name in plan.chosen.values(),
        "shipped": name in found.tested,
    }


def _estimate(found: Exported, row: Candidate) -> list[dict[str, Any]]:
    """Return the estimate of a candidate that was measured as well: the one by which it is compared for a board."""
    if row.measured_us is None or row.estimated_us is None:
        return []
    where = found.plan.estimated_for
    return [{"p50_us": row.estimated_us, "p99_us": None, "kind": "estimated", "where": where}]


def _graph(found: Exported, name: str) -> dict[str, Any]:
    graph = found.graphs[name]
    # ONNX Runtime does not run TensorRT's dialect in earnest, so its optimizer has nothing to say of it.
    here = found.precisions[name].dialect != "tensorrt"
    return {
        "bytes": graph.ByteSize(),
        "operators": operators(graph),
        "optimized": optimized_operators(graph) if here else None,
        "accuracy": found.tested[name].quality,
        "scores": found.tested[name].scores,
        "agreement": found.agreement(name),
    }


def _parity(found: Exported, name: str) -> dict[str, Any]:
    proof = asdict(found.parity[name])
    largest, typical = proof.pop("tolerance")
    controls = {kind: strayed._asdict() for kind, strayed in found.parity[name].controls.items()}
    return proof | {"tolerance": largest, "typical_tolerance": typical, "controls": controls}
