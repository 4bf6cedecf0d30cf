from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_cnnlstm.errors import ExportError
from edge_cnnlstm.training.config import PRESETS, ModelConfig, preset_config
from edge_cnnlstm.training.data.occluded_digits import HEADS
from edge_cnnlstm.training.fold import fold
from edge_cnnlstm.training.model import CnnLstm
from export.points import points, quantizable, quantized_layers


class Branching(nn.Module):
    """What people write: a rectifier shared by many, functional calls, a way around, an activation of another kind."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.Conv2d(8, 8, 3, 1, 1)
        self.norm = nn.BatchNorm2d(8)
        self.third, self.fourth = nn.Conv2d(8, 8, 1), nn.Conv2d(16, 4, 3, 2, 1)
        self.relu = nn.ReLU()

    def forward(self, image: Tensor) -> Tensor:
        x = self.relu(self.norm(self.first(image)))
        y = self.relu(self.second(functional.max_pool2d(x, 3, 1, 1)))
        z = functional.silu(self.third(x + y))
        return functional.relu(self.fourth(torch.cat([z, y], dim=1)))


class Deciding(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image if image.sum() > 0 else -image


def with_backbone(module: type[nn.Module], **changes: object) -> CnnLstm:
    torch.manual_seed(0)
    config = ModelConfig.model_validate(
        {
            "height": 16,
            "width": 16,
            "hidden": 8,
            "heads": HEADS,
            "backbone": {"kind": "module", "module": f"{module.__module__}:{module.__name__}"},
            **changes,
        }
    )
    return CnnLstm(config).eval()


def placed(model: CnnLstm) -> dict[str, tuple[set[str], str | None]]:
    split = quantizable(fold(model))
    return {name.rpartition(".")[2]: (point.read_by, point.made_by) for name, point in points(split)}


@pytest.mark.parametrize(
    ("preset", "layers", "scan"),
    [*((preset, layers, "frames") for preset in sorted(PRESETS) for layers in (0, 1, 3)), ("reference", 3, "rows")],
)
def test_tracing_folding_and_splitting_change_nothing(preset: str, layers: int, scan: str) -> None:
    torch.manual_seed(0)
    config = preset_config(preset, HEADS, layers=layers)
    model = CnnLstm(config.model_copy(update={"scan": scan}))
    frames = torch.randint(0, 256, (1, 3, config.height, config.width, 3), dtype=torch.uint8)
    with torch.no_grad():
        model.see(frames[0])  # gives the batch norms something to have learnt
    model.eval()
    split = quantizable(fold(model))

    with torch.inference_mode():
        expected, state = model.sequence(frames, model.initial_state())
        found, found_state = split.sequence(frames, split.initial_state())

    assert not any(isinstance(module, nn.BatchNorm2d) for module in split.modules())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found_state.c, state.c, rtol=1e-4, atol=1e-4)


def test_each_activation_of_nano_is_quantized_once_where_it_is_made(trained: CnnLstm) -> None:
    found = placed(trained)

    assert found["point_image"] == ({"backbone.stages_0"}, None)
    assert found["point_stages_2"] == ({"backbone.stages_3"}, "backbone.stages_0")
    # The last map is read by a convolution and by the global maximum; what both make is joined for the memory.
    assert found["point_stages_11"] == ({"backbone.where_0"}, "backbone.stages_9")
    assert found["point_where_1"] == (set(), "backbone.where_0")
    assert found["point_cat"] == ({"cells.0.gates_x"}, None)
    assert found["point_h"] == ({"cells.0.gates_h"}, None)
    assert len(found) == 8


def test_pooling_reads_what_was_quantized_before_it() -> None:
    found = placed(CnnLstm(preset_config("reference", HEADS)).eval())

    assert found["point_stages_1"] == ({"backbone.stages_3"}, "backbone.stages_0")
    assert found["point_stages_7"] == ({"cells.0.gates_x"}, "backbone.stages_6")
    assert not any("stages_2" in name or "stages_5" in name for name in found)


def test_a_users_dataflow_is_followed_through_branches_and_functions() -> None:
    found = placed(with_backbone(Branching))

    def layer(name: str) -> str:
        return f"backbone.stages_0_{name}"

    assert found["point_image"] == ({layer("first")}, None)
    # Read through a pooling by the second convolution, and added to.
    assert found["point_stages_0_relu"] == ({layer("second")}, layer("first"))
    assert found["point_add"] == ({layer("third")}, None)
    # No rectifier follows the third: its own output is what a CPU needs quantized, and what SiLU makes is another.
    assert found["point_stages_0_third"] == (set(), layer("third"))
    assert found["point_cat"] == ({layer("fourth")}, None)


def test_a_shared_rectifier_is_not_taken_out_for_one_of_its_users() -> None:
    split = quantizable(fold(with_backbone(Branching)))

    assert [point.rectifier for _, point in points(split)] == [None] * len(list(points(split)))


def test_layers_are_listed_in_the_order_that_they_compute(trained: CnnLstm) -> None:
    assert quantized_layers(quantizable(fold(trained))) == (
        "backbone.stages_0",
        "backbone.stages_3",
        "backbone.stages_6",
        "backbone.stages_9",
        "backbone.where_0",
        "cells.0.gates_x",
        "cells.0.gates_h",
    )


def test_a_backbone_that_looks_at_values_is_refused() -> None:
    with pytest.raises(ExportError, match=r"(?s)cannot be traced.*`if`"):
        fold(with_backbone(Deciding))
