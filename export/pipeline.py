"""Checkpoint → bundle: trace, calibrate, compare precisions, prove, build, measure, pack."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edge_cnnlstm.bundle.golden import Golden
from edge_cnnlstm.bundle.manifest import Candidate, Graph, Plan
from edge_cnnlstm.errors import ConfigError, DataError, ExportError
from edge_cnnlstm.spec import StateRules
from edge_cnnlstm.training.data.clip import Clip, Corpus, Split
from edge_cnnlstm.training.fold import fold
from edge_cnnlstm.training.model import CnnLstm
from edge_cnnlstm.training.recipe import Recipe
from edge_cnnlstm.training.spec_of import spec_of
from export import parity
from export.build import Build, build
from export.cost import Cost, LayerCost, cost_of, layer_costs
from export.finetune import finetune
from export.graphs import export_step
from export.intervals import intervals
from export.measure import Measured, agreement, measure_graph, measure_network
from export.operators import check_quantizers
from export.pack import pack
from export.parity import Curve, Parity, prove_graph
from export.plan import Wanted, choose
from export.points import quantizable, quantized_layers
from export.precisions import Precision, candidates
from export.quantize import Method, calibration_of, observe, rollouts_of
from export.rollout import frames_of, torch_course
from export.sensitivity import Sensitivity, scan, worst_loss
from export.timing import step_seconds

CALIBRATION_CLIPS = 64
GOLDEN_STEPS = 64
GOLDEN_RESETS = (0, 16, 40)
RESETS = (0.0, 0.25, 0.7)
"""Where the memory is emptied in the long rollout, as shares of it. Clips end without a reset, as scenes do."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What an export may be asked: see `python -m export --help`. `budget` is a share, the rest are counts."""

    precision: Wanted = "auto"
    budget: float = 0.005
    calibration: Method = "max"
    finetune_epochs: int = 0
    keep: tuple[str, ...] = ()
    test_clips: int = 400
    validation_clips: int = 200
    sensitivity_clips: int = 16
    steps: int = parity.STEPS
    rules: StateRules = field(default_factory=StateRules)


@dataclass(frozen=True, slots=True)
class Finetuned:
    """Accuracy of the int8 network on the validation clips, before and after; `kept` if it became better."""

    epochs: int
    before: dict[str, float]
    after: dict[str, float]
    kept: bool


@dataclass(frozen=True, slots=True)
class Exported:
    """Everything that an export found; by name of the precision, where there is one for each.

    `graphs` and `costs` are of all that were compared; `tested`, `parity` and `builds` of those that the bundle holds.
    `rollouts` are the frames of each calibration rollout.
    """

    settings: Settings
    network: CnnLstm
    layers: dict[str, LayerCost]
    rollouts: list[int]
    finetuned: Finetuned | None
    sensitivity: list[Sensitivity]
    precisions: dict[str, Precision]
    graphs: dict[str, onnx.ModelProto]
    costs: dict[str, Cost]
    plan: Plan
    parity: dict[str, Parity]
    drift: dict[str, Curve]
    builds: dict[str, Build]
    tested: dict[str, Measured]
    tested_torch: dict[str, Measured]

    def agreement(self, name: str) -> dict[str, float]:
        """Return how often a shipped graph's classes are those of FP32, and those of its own network in torch."""
        others = {"fp32": self.tested["fp32"]}
        if name in self.tested_torch:
            others["torch"] = self.tested_torch[name]
        shares = {
            other: agreement(self.tested[name].answers, theirs.answers, self.network.config.heads)
            for other, theirs in others.items()
        }
        return {other: share for other, share in shares.items() if share is not None}


Progress = Callable[[str], None]
Track = Callable[[str, int], Callable[[], None]]
"""Begins to show how far a long task of so many parts is; what it returns is called after each part."""


def export(
    model: CnnLstm,
    recipe: Recipe,
    corpus: Corpus,
    bundle: Path,
    name: str,
    settings: Settings,
    *,
    progress: Progress = print,
    track: Track = lambda _what, _parts: lambda: None,
) -> Exported:
    """Lower a trained network to every target, prove and measure each graph, and write the bundle called `name`.

    `corpus` is what the network was trained on: its training clips calibrate, its validation clips choose the precision
    and make the rollouts, its test clips measure what is shipped. The bundle is replayed by another process before this
    returns. Raises DataError when calibration fails or the clips do not tell what the heads are asked, ExportError when
    a graph cannot be traced or built or loses too much, and ParityError when one does not compute what torch computes.
    """
    _check_heads(model, corpus)
    folded = fold(model)
    split = quantizable(folded)
    layers = quantized_layers(split)
    _check_kept(settings.keep, layers)
    precisions = candidates(layers, settings.keep)

    progress("Calibrating on rollouts that carry their memory")
    rollouts = rollouts_of([clip.frames for clip in first_clips(corpus, "train", CALIBRATION_CLIPS)])
    observed = observe(split, rollouts, settings.calibration)
    checked = first_clips(corpus, "validation", settings.validation_clips)
    learnt, finetuned = split, None
    if settings.finetune_epochs:
        progress(f"Fine-tuning with quantization for {settings.finetune_epochs} epochs")
        learnt, finetuned = _finetuned(split, observed, recipe, corpus, settings.finetune_epochs, checked)
    calibration = calibration_of(observed)
    sensitivity: list[Sensitivity] = []
    if settings.sensitivity_clips:
        advance = track("Quantizing one layer at a time", len(layers))
        sensitivity = scan(observed, layers, checked[: settings.sensitivity_clips], advance)

    progress(f"Comparing {len(precisions)} precisions on {len(checked)} validation clips")
    # What is not quantized keeps the weights that it was trained with.
    networks = {
        key: precision.network(learnt if precision.layers else split, calibration)
        for key, precision in precisions.items()
    } | {"fp32": folded}
    graphs = {key: export_step(network) for key, network in networks.items()}
    for key, graph in graphs.items():
        check_quantizers(graph, split, precisions[key])
    costs = {key: cost_of(precision, layer_costs(split)) for key, precision in precisions.items()}
    rows = _compared(model, precisions, graphs, costs, checked)
    plan = choose(precisions, rows, settings.precision, settings.budget)
    shipped = {key: networks[key] for key in _shipped(plan, precisions)}

    progress(f"Proving {', '.join(shipped)}: {settings.steps} steps beside torch, and corrupted controls")
    proofs, drift = _proven(shipped, graphs, precisions, frames_of(checked, settings.steps))
    progress("Building the TensorRT graphs ahead of time")
    builds = {
        key: build(graphs[key], key, network)
        for key, network in shipped.items()
        if precisions[key].dialect != "onnxruntime"
    }
    clips = first_clips(corpus, "test", settings.test_clips)
    progress(f"Measuring what is shipped on {len(clips)} test clips")
    tested = {key: measure_graph(graphs[key], spec_of(model), clips, model.config.heads) for key in shipped}
    tested_torch = {key: measure_network(network, clips) for key, network in shipped.items() if precisions[key].layers}

    progress("Packing, and replaying the bundle in a fresh process")
    records = tuple(
        Graph(
            key,
            f"graphs/{key}.onnx",
            precisions[key].dialect,
            precisions[key].description,
            precisions[key].tolerance.largest,
            tested[key].quality,
        )
        for key in shipped
    )
    files = {key: graphs[key].SerializeToString() for key in shipped}
    spec = replace(spec_of(model), rules=settings.rules)
    pack(bundle, name, spec, records, files, _golden(shipped, frames_of(checked, GOLDEN_STEPS)), plan)
    return Exported(
        settings,
        model,
        layer_costs(split),
        [len(frames) for frames in rollouts],
        finetuned,
        sensitivity,
        precisions,
        graphs,
        costs,
        plan,
        proofs,
        drift,
        builds,
        tested,
        tested_torch,
    )


def first_clips(corpus: Corpus, split: Split, count: int) -> list[Clip]:
    """Return the first clips of a split, as they are scored on: not augmented."""
    clips = corpus.clips(corpus.splits[split], training=False)
    return [clips.clip(index) for index in range(min(count, len(clips)))]


def _check_heads(model: CnnLstm, corpus: Corpus) -> None:
    if model.config.heads != corpus.heads:
        raise DataError(
            f"a network with heads {[(head.name, head.task, head.labels) for head in model.config.heads]}",
            expected=f"those of its data: {[(head.name, head.task, head.labels) for head in corpus.heads]}",
            fix="export with the data that the network was trained on, labels in the same order",
        )


def _check_kept(keep: Sequence[str], layers: Sequence[str]) -> None:
    for name in keep:
        if name not in layers:
            raise ConfigError(
                f"no layer {name!r} to keep", expected=f"one of {', '.join(layers)}", fix="correct the name"
            )


def _finetuned(
    split: CnnLstm, observed: CnnLstm, recipe: Recipe, corpus: Corpus, epochs: int, clips: Sequence[Clip]
) -> tuple[CnnLstm, Finetuned]:
    """Fine-tune the observed network in place; return the quantizable one with its weights, if they became better."""
    before, weights = measure_network(observed, clips).quality, copy.deepcopy(observed.state_dict())
    finetune(observed, recipe, corpus, epochs)
    after = measure_network(observed, clips).quality
    kept = sum(after.values()) > sum(before.values())
    if not kept:
        observed.load_state_dict(weights)
    learnt = copy.deepcopy(split)
    learnt.load_state_dict({name: observed.state_dict()[name] for name in split.state_dict()})
    return learnt, Finetuned(epochs, before, after, kept)


def _compared(
    model: CnnLstm,
    precisions: dict[str, Precision],
    graphs: dict[str, onnx.ModelProto],
    costs: dict[str, Cost],
    clips: Sequence[Clip],
) -> dict[str, Candidate]:
    """Measure every candidate on the validation clips, and time those that this machine can run in earnest."""
    spec = spec_of(model)
    accuracy = {key: measure_graph(graph, spec, clips, model.config.heads).quality for key, graph in graphs.items()}
    if not accuracy["fp32"]:
        raise ExportError(
            "no score to measure the loss by",
            expected="accuracy, mean IoU or R² of one head or more",
            fix="measure on more clips: --validation-clips, or more held-out data",
        )
    files = {key: graph.SerializeToString() for key, graph in graphs.items()}
    here = {key: file for key, file in files.items() if precisions[key].dialect != "tensorrt"}
    seconds = step_seconds(here, spec, clips[0].frames)
    return {
        key: Candidate(
            name=key,
            precision=precision.description,
            accuracy=accuracy[key],
            lost=worst_loss(accuracy["fp32"], accuracy[key])[0],
            bytes=len(files[key]),
            measured_us=1e6 * seconds[key] if key in seconds else None,
            estimated_us=None if precision.dialect == "onnxruntime" else 1e6 * costs[key].seconds,
        )
        for key, precision in precisions.items()
    }


def _shipped(plan: Plan, precisions: dict[str, Precision]) -> list[str]:
    """Return the graphs that the bundle holds: for each engine the chosen one first, then what it can fall back on.

    The fastest int8 graph for a CPU is among them even where FP32 was faster: the robot's processor may be another.
    """
    on_cpu = [row for row in plan.candidates if precisions[row.name].dialect == "onnxruntime"]
    within = [row for row in on_cpu if row.lost <= plan.budget and row.measured_us is not None]
    int8 = [min(within, key=lambda row: row.measured_us or 0).name] if within else []
    return list(dict.fromkeys([plan.chosen["onnxruntime"], plan.chosen["tensorrt"], *int8, "fp16_tensorrt", "fp32"]))


def _proven(
    networks: dict[str, CnnLstm],
    graphs: dict[str, onnx.ModelProto],
    precisions: dict[str, Precision],
    frames: NDArray[np.uint8],
) -> tuple[dict[str, Parity], dict[str, Curve]]:
    """Prove each graph over one long rollout, and follow how far each network drifts from FP32 on it."""
    resets = np.isin(np.arange(len(frames)), [int(share * len(frames)) for share in RESETS])
    courses = {
        key: torch_course(network, frames[:, None], resets, intervals(network.config, resets))
        for key, network in networks.items()
    }
    proofs = {
        key: prove_graph(key, graphs[key], network, frames, resets, precisions[key].tolerance, courses[key])
        for key, network in networks.items()
    }
    drift = {
        key: parity.curve_of(parity.relative_errors(course, courses["fp32"]))
        for key, course in courses.items()
        if key != "fp32"
    }
    return proofs, drift


def _golden(networks: dict[str, CnnLstm], frames: NDArray[np.uint8]) -> Golden:
    """Record what each network says over the first frames, and what it remembers at the end."""
    resets = np.isin(np.arange(len(frames)), GOLDEN_RESETS)
    dt = intervals(next(iter(networks.values())).config, resets)
    expected = {}
    for key, network in networks.items():
        course = torch_course(network, frames[:, None], resets, dt)
        expected[key] = {
            name: values[-1] if name in {"h_next", "c_next"} else values[:, 0] for name, values in course.items()
        }
    return Golden(frames, resets, expected, None if dt is None else dt[:, 0])
