from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.training.config import ConvConfig, ModelConfig, preset_config
from edge_cnnlstm.training.data.occluded_digits import HEADS


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'nano'"):
        preset_config("nanno", HEADS)


def test_layers_cannot_be_negative() -> None:
    with pytest.raises(ConfigError, match="0 or more"):
        preset_config("nano", HEADS, layers=-1)


@pytest.mark.parametrize("idle", [{"layers": 0}, {"preset": "reference", "scan": "rows"}])
def test_time_is_told_to_a_memory_along_frames_alone(idle: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="dt_input tells a memory"):
        ModelConfig.model_validate({"heads": HEADS, "dt_input": True, **idle})


@pytest.mark.parametrize("rate", [0, -30, 1001, float("nan")])
def test_a_frame_rate_is_a_possible_one(rate: float) -> None:
    with pytest.raises(ValidationError, match="frame_rate"):
        ModelConfig.model_validate({"heads": HEADS, "frame_rate": rate})


def test_a_config_survives_json() -> None:
    config = preset_config("nano", HEADS, layers=2)

    assert ModelConfig.model_validate_json(config.model_dump_json()) == config


def test_unknown_keys_and_missing_strides_are_refused() -> None:
    with pytest.raises(ValidationError, match="extra"):
        ConvConfig.model_validate({"channels": [8], "strides": [2], "chanels": [8]})
    with pytest.raises(ValidationError, match="2 stages need as many strides"):
        ConvConfig(channels=(8, 16), strides=(2,))
