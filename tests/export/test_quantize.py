from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edge_cnnlstm.errors import DataError
from edge_cnnlstm.training.checkpoint import load_recipe_of
from edge_cnnlstm.training.data.clip import Clip, Corpus
from edge_cnnlstm.training.model import CnnLstm
from export.finetune import finetune
from export.lower_ort import lower_ort
from export.lower_trt import lower_trt
from export.measure import measure_network
from export.points import points, quantized_layers
from export.precisions import Precision
from export.quantize import METHODS, Calibration, Method, calibrate, calibration_of, observe, rollouts_of
from export.sensitivity import scan

Rollouts = list[NDArray[np.uint8]]


def clips_of(count: int, frames: int = 16) -> Rollouts:
    return [np.full((frames, 2, 2, 3), index, np.uint8) for index in range(count)]


def test_rollouts_hold_short_and_long_memories_and_every_clip_once() -> None:
    found = rollouts_of(clips_of(32))

    assert sorted(map(len, found)) == [16] * 8 + [64] * 2 + [256]
    assert sorted(int(frame[0, 0, 0]) for rollout in found for frame in rollout[::16]) == list(range(32))


@pytest.mark.parametrize("count", [0, 1, 17])
def test_too_few_clips_for_a_long_rollout_are_refused(count: int) -> None:
    with pytest.raises(DataError, match=r"(?s)longest rollout.*one rollout"):
        rollouts_of(clips_of(count))


def test_too_few_frames_are_refused(split: CnnLstm) -> None:
    with pytest.raises(DataError, match="at least 64"):
        calibrate(split, [np.zeros((3, 64, 64, 3), np.uint8)])


def test_the_largest_activation_makes_the_range(split: CnnLstm, rollouts: Rollouts, calibration: Calibration) -> None:
    seen = [0.0]
    watched = copy.deepcopy(split)
    watched.get_submodule("backbone.stages_3").register_forward_pre_hook(
        lambda _, inputs: seen.append(float(inputs[0].max()))
    )
    with torch.inference_mode():
        for rollout in rollouts:
            watched.sequence(torch.from_numpy(rollout)[None], watched.initial_state())

    assert calibration.activations["backbone.point_stages_2"].magnitude == pytest.approx(max(seen), rel=1e-4)
    assert calibration.activations["backbone.point_stages_2"].low == 0
    assert calibration.activations["cells.0.point_h"].low < 0


def test_weights_are_quantized_per_channel_and_x_apart_from_h(split: CnnLstm, calibration: Calibration) -> None:
    x, h = calibration.activations["backbone.point_cat"], calibration.activations["cells.0.point_h"]
    weight = split.get_submodule("backbone.stages_3").weight

    assert h.magnitude <= 1
    assert x.magnitude > 1.5 * h.magnitude
    torch.testing.assert_close(calibration.weights["backbone.stages_3"], weight.abs().amax((1, 2, 3)))
    assert set(calibration.weights) == set(quantized_layers(split))


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"max"}))
def test_other_methods_clip_what_is_rare_and_keep_what_is_not(
    method: Method, split: CnnLstm, rollouts: Rollouts, calibration: Calibration
) -> None:
    found = calibrate(split, rollouts[:9], method)

    point = "backbone.point_stages_2"
    assert 0.2 < found.activations[point].magnitude / calibration.activations[point].magnitude < 1.02
    assert found.activations["backbone.point_image"] == calibration.activations["backbone.point_image"]
    assert all(torch.equal(weight, calibration.weights[name]) for name, weight in found.weights.items())


def test_weights_that_are_not_finite_are_refused_by_name(split: CnnLstm, rollouts: Rollouts) -> None:
    broken = copy.deepcopy(split)
    with torch.no_grad():
        broken.get_submodule("backbone.stages_3").bias[0] = float("inf")

    with pytest.raises(DataError, match=r"backbone\.point_stages_5"):
        calibrate(broken, rollouts)


def test_a_dead_layer_is_refused_by_name(split: CnnLstm, rollouts: Rollouts) -> None:
    broken = copy.deepcopy(split)
    with torch.no_grad():
        broken.get_submodule("backbone.stages_3").bias.fill_(-1e6)

    with pytest.raises(DataError, match=r"'backbone\.point_stages_5' is zero throughout"):
        calibrate(broken, rollouts)


@pytest.mark.parametrize("lower", [lower_ort, lower_trt])
def test_a_channel_of_zeros_stays_zero(lower: object, split: CnnLstm, rollouts: Rollouts) -> None:
    pruned = copy.deepcopy(split)
    with torch.no_grad():
        pruned.get_submodule("backbone.stages_3").weight[5] = 0
    network = lower(pruned, calibrate(pruned, rollouts), quantized_layers(pruned))  # type: ignore[operator]

    weights = network.get_submodule("backbone.stages_3").weight()
    assert torch.isfinite(weights).all()
    assert not weights[5].any()
    assert weights[4].any()


def test_the_lowered_networks_answer_as_the_fake_quantized_one(
    split: CnnLstm, rollouts: Rollouts, networks: dict[str, CnnLstm], clips: list[Clip]
) -> None:
    observed = measure_network(observe(split, rollouts), clips)

    for name in ("int8_tensorrt", "int8_onnxruntime"):
        lowered = measure_network(networks[name], clips)
        for score, value in observed.quality.items():
            assert lowered.quality[score] == pytest.approx(value, abs=0.03), (name, score)


@pytest.mark.slow
def test_fine_tuning_recovers_what_quantization_lost(
    checkpoint: object, corpus: Corpus, split: CnnLstm, rollouts: Rollouts, clips: list[Clip]
) -> None:
    observed = observe(split, rollouts)
    trained = measure_network(observed, clips).quality["target.iou"]
    for name, point in points(observed):
        if name.startswith("backbone.point_stages"):
            # So narrow a range clips most of what each convolution has to say.
            point.get_submodule("input_quantizer").amax = point.get_submodule("input_quantizer").amax * 0.2
    ranges = {name: point.get_submodule("input_quantizer").amax.clone() for name, point in points(observed)}
    lost = trained - measure_network(observed, clips).quality["target.iou"]

    finetune(observed, load_recipe_of(checkpoint), corpus, 3, progress=False)  # type: ignore[arg-type]  # a Path

    left = trained - measure_network(observed, clips).quality["target.iou"]
    assert lost > 0.02
    assert left < lost / 2
    for name, point in points(observed):
        assert torch.equal(point.get_submodule("input_quantizer").amax, ranges[name])
    assert set(calibration_of(observed).weights) == set(quantized_layers(split))


def test_one_layer_at_a_time_says_which_one_costs(
    split: CnnLstm, rollouts: Rollouts, clips: list[Clip], precisions: dict[str, Precision]
) -> None:
    observed = observe(split, rollouts)
    quantizer = observed.get_submodule("backbone.point_stages_5").get_submodule("input_quantizer")
    quantizer.amax = quantizer.amax * 0.02
    layers = precisions["int8_tensorrt"].layers
    seen: list[None] = []

    found = scan(observed, layers, clips, lambda: seen.append(None))

    losses = {row.layer: row.lost for row in found}
    assert tuple(losses) == layers
    assert len(seen) == len(layers)
    assert max(losses, key=losses.__getitem__) == "backbone.stages_6"
    assert losses["backbone.stages_6"] > 0.05
    assert losses["backbone.stages_0"] < 0.02
    assert all(row.weights == split.get_submodule(row.layer).weight.numel() for row in found)
