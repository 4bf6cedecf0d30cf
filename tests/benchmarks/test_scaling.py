"""Holds what a sweep measures, what is fitted to it, and that every sample is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from benchmarks.processes import Turns
from benchmarks.scaling import figures, worker
from benchmarks.scaling.command import scaling
from benchmarks.scaling.fit import growth, with_exponent
from benchmarks.scaling.measure import FEWEST, results
from benchmarks.scaling.networks import Network, export_all
from benchmarks.scaling.show import section
from benchmarks.scaling.sweeps import SWEEPS, Case, Sweep, chosen
from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.runtime.backends.base import Arrays
from edge_cnnlstm.runtime.backends.ort import OnnxRuntimeBackend
from tests.benchmarks.conftest import SPEC, frames, step_graph

Make = Callable[..., Path]
PNG = b"\x89PNG"
STEP_NS = 1_000_000
CNN_MACS, LSTM_MACS = 900, 100


class Counting(OnnxRuntimeBackend):
    """Counts its steps."""

    steps = 0

    def infer(self) -> Arrays:
        self.steps += 1
        return super().infer()


# ---- fit


@pytest.mark.parametrize("exponent", [0.7, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("fixed", [0.0, 40.0])
def test_an_exponent_is_found_beside_a_fixed_cost_through_noise(exponent: float, fixed: float) -> None:
    x = np.array([32, 64, 96, 128, 160, 192, 224])
    noise = np.random.default_rng(0).normal(1, 0.01, len(x))

    found = growth(list(x), list((fixed + 500 * (x / 224) ** exponent) * noise), offset=True)

    assert found is not None
    assert found.exponent == pytest.approx(exponent, abs=0.1)
    assert found.fixed == pytest.approx(fixed, abs=12)


@pytest.mark.parametrize("exponent", [0.8, 1.0])
def test_without_a_fixed_cost_the_exponent_is_the_slope_of_the_logarithms(exponent: float) -> None:
    x = np.array([1, 2, 4, 8, 16])
    noise = np.random.default_rng(0).normal(1, 0.02, len(x))

    found = growth(list(x), list(30 * x**exponent * noise), offset=False)

    assert found is not None
    assert found.exponent == pytest.approx(exponent, abs=0.03)
    assert found.fixed == 0


@pytest.mark.parametrize(("points", "offset"), [(3, True), (2, False)])
def test_as_many_points_as_parameters_say_nothing_of_an_exponent(points: int, offset: bool) -> None:
    assert growth(range(1, points + 1), range(1, points + 1), offset=offset) is None
    assert growth(range(1, points + 2), range(1, points + 2), offset=offset) is not None


@pytest.mark.parametrize("offset", [True, False])
def test_a_curve_of_a_given_exponent_goes_through_points_that_grow_so(offset: bool) -> None:
    x = np.array([32.0, 64, 128, 256])
    y = (7.0 if offset else 0.0) + 0.3 * x**1.4

    np.testing.assert_allclose(with_exponent(list(x), list(y), 1.4, offset=offset).at(x), y, rtol=1e-9)


# ---- sweeps


def test_all_sweeps_run_unless_some_are_named_and_points_can_be_given() -> None:
    assert chosen([]) == list(SWEEPS.values())
    assert [(sweep.name, sweep.points) for sweep in chosen(["layers", "input=64,32"])] == [
        ("layers", SWEEPS["layers"].points),
        ("input", (32, 64)),
    ]


@pytest.mark.parametrize("word", ["depth", "input=", "input=32", "input=32,32", "input=32,x", "window=0,1"])
def test_a_sweep_that_cannot_be_run_is_refused(word: str) -> None:
    with pytest.raises(ConfigError):
        chosen([word])


@pytest.mark.parametrize("sweep", SWEEPS.values(), ids=SWEEPS)
def test_each_sweep_runs_every_point_in_both_precisions_and_one_case_twice(sweep: Sweep) -> None:
    cases = sweep.cases()

    assert len({case.name for case in cases}) == len(cases)
    for precision in ("fp32", "int8"):
        points = [case.point for case in cases if (case.precision, case.mode) == (precision, sweep.mode)]
        assert set(points) == set(sweep.points)
    (control,) = (case for case in cases if case.control)
    assert control.name.removesuffix(" control") in {case.name for case in cases}


def test_a_preset_that_there_is_not_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown preset 'smal'"):
        export_all([], "smal", tmp_path)


# ---- worker


@pytest.mark.parametrize(
    ("mode", "frames_a_call", "steps"), [("stream", 1, 1), ("group", 3, 1), ("window", 3, 3), ("window", 1, 1)]
)
def test_a_stream_and_a_group_step_once_a_call_and_a_window_once_a_frame(
    mode: str, frames_a_call: int, steps: int
) -> None:
    spec = SPEC.batched(frames_a_call) if mode == "group" else SPEC
    backend = Counting(step_graph(), spec)
    answer, arguments = worker._calls(backend, list(frames()), mode, frames_a_call)
    before = backend.steps

    for argument in arguments:
        answer(argument)

    assert backend.steps - before == steps * len(arguments)
    backend.close()


def test_a_window_remembers_its_own_frames_only() -> None:
    backend = OnnxRuntimeBackend(step_graph(), SPEC)
    answer, windows = worker._calls(backend, list(frames()), "window", 2)
    answer(windows[3])
    alone = backend.state.snapshot()
    for window in windows[:4]:
        answer(window)

    for name, values in backend.state.snapshot().items():
        np.testing.assert_array_equal(values, alone[name])
    backend.close()


def test_a_turn_has_as_many_samples_as_were_asked_for(make_bundle: Make) -> None:
    ready, turn = worker.opened(str(make_bundle()), "fp32", "stream", "1", "1")

    answer = turn({"steps": 5})

    assert len(answer["samples_ns"]) == 5
    assert min(answer["samples_ns"]) > 0
    assert answer["subnormal"] == 0
    assert 0 <= ready["deviation"] < 1e-4


def test_subnormal_numbers_are_told_from_zero_and_from_small_ones() -> None:
    tiny = np.finfo(np.float32).tiny
    values = np.array([0, tiny, -tiny, 1, tiny / 2, -tiny / 1024, 1e-20], np.float32)

    assert worker.subnormal(values) == 2


# ---- figures


def answered(sweep: Sweep, cost_ns: Callable[[Case], float], rounds: int = 7) -> dict[str, Any]:
    """Return the results of a sweep in which every call of a case takes the same."""
    answers = {case.name: [_answer(cost_ns(case))] * rounds for case in sweep.cases()}
    networks: Mapping[str, Network] = {
        case.name: Network(Path(), CNN_MACS + LSTM_MACS * (case.point if sweep.varies else 1), CNN_MACS)
        for case in sweep.cases()
    }
    return results(sweep, Turns(answers, [], {name: {"deviation": 0.01} for name in answers}, {}), networks)


def _answer(cost_ns: float) -> dict[str, Any]:
    samples = [round(cost_ns)] * FEWEST
    return {"samples_ns": samples, "cpu_ns": sum(samples), "subnormal": 0, "waiting_cpu_s": 0.0}


def by_name(found: Mapping[str, Any]) -> dict[str, figures.Figure]:
    return {figure.name: figure for figure in figures.of_sweep(found)}


def test_a_window_that_costs_as_much_as_its_frames_meets_the_goal_and_one_that_keeps_features_does_not() -> None:
    def again(case: Case) -> float:
        return STEP_NS * case.frames

    def kept(case: Case) -> float:
        return STEP_NS * (0.9 + 0.1 * case.frames)

    honest, clever = (by_name(answered(SWEEPS["window"], cost)) for cost in (again, kept))
    assert honest["window of 16 ÷ streaming, fp32"].value == pytest.approx(16)
    assert honest["window of 16 ÷ streaming, fp32"].met
    assert honest["window of 1 ÷ streaming, int8"].value == 1
    assert honest["window: exponent, fp32"].value == pytest.approx(1)
    assert honest["window: control, the same fp32 twice"].value == 1
    assert not clever["window of 16 ÷ streaming, int8"].met


def test_an_exponent_has_its_interval_from_the_rounds_and_what_the_macs_say_beside_it() -> None:
    found = answered(SWEEPS["input"], lambda case: 50_000 + 900_000 * (case.point / 224) ** 2)
    figure = by_name(found)["input: exponent, fp32"]

    assert figure.value == pytest.approx(2, abs=0.01)
    assert figure.low is not None
    assert figure.low <= figure.value <= (figure.high or 0)
    assert figure.goal is None
    assert found["growth"]["fp32"]["by_macs"] == pytest.approx(1, abs=0.01)


def test_a_step_without_an_lstm_layer_is_measured_and_not_fitted() -> None:
    found = answered(SWEEPS["layers"], lambda case: 9e6 if case.point == 0 else 1e5 * (5 + case.point))

    assert by_name(found)["layers: exponent, fp32"].value == pytest.approx(1, abs=0.02)
    assert 0 in {case["point"] for case in found["cases"]}


def test_a_case_that_others_kept_from_the_cores_is_named() -> None:
    found = answered(SWEEPS["window"], lambda case: STEP_NS * case.frames)
    assert figures.disturbance([found]) is None

    disturbed = next(case for case in found["cases"] if case["name"] == "int8 window 8")
    disturbed["cpu_ns"] = [spent // 2 for spent in disturbed["cpu_ns"]]

    assert "int8 window 8 had a core for 50%" in (figures.disturbance([found]) or "")


def test_every_sweep_has_a_table_and_windows_a_picture_of_their_own() -> None:
    found = [answered(sweep, lambda case: STEP_NS * (1 + case.point)) for sweep in SWEEPS.values()]
    ratios = [figure.document() for one in found for figure in figures.of_sweep(one)]

    shown = section({"sweeps": found, "ratios": ratios})

    titles = [table.title for table in shown.tables]
    assert [name.capitalize() for name in SWEEPS] == titles[2:]
    assert all(len(row) == len(table.columns) for table in shown.tables for row in table.rows)
    assert [picture.png[:4] for picture in shown.pictures] == [PNG, PNG]


# ---- for real


def test_a_sweep_of_two_networks_keeps_every_sample_and_the_command_that_repeats_it(tmp_path: Path) -> None:
    app, kept, page = typer.Typer(), tmp_path / "scaling.json", tmp_path / "scaling.html"
    app.command()(scaling)
    words = ["--sweep", "input=16,32", "--network", "nano", "--rounds", "2", "--steps", "8"]

    done = CliRunner().invoke(app, [*words, "-o", str(kept), "--page", str(page)], catch_exceptions=False)

    assert done.exit_code == 0
    report = json.loads(kept.read_text())
    assert report["command"] == f"python -m benchmarks scaling {' '.join(words)} --threads 1 --seed 0"
    (sweep,) = report["sweeps"]
    assert sweep["refused"] == {}
    assert [case["name"] for case in sweep["cases"]] == [case.name for case in chosen(words[1:2])[0].cases()]
    assert all([len(turn) for turn in case["samples_ns"]] == [8, 8] for case in sweep["cases"])
    assert all(case["subnormal"] == 0 for case in sweep["cases"])
    small, large = (case["macs"] for case in sweep["cases"] if case["precision"] == "int8")
    assert 2 * small < large
    assert [sorted(order) for order in sweep["order"]] == [sorted(case["name"] for case in sweep["cases"])] * 2
    assert "data:image/png" in page.read_text()
    assert str(tmp_path) not in kept.read_text()
