from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import processes
from benchmarks.device import command, step
from benchmarks.device.figures import Case, figures, summary
from benchmarks.device.network import KERNELS, SOURCE, Network, addresses
from benchmarks.device.stand_in import NAME as STAND_IN
from benchmarks.goals import Figure
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.errors import BackendError
from edge_cnnlstm.gpu.engine import WATCH
from edge_cnnlstm.runtime.backends.scripted import Script
from edge_cnnlstm.spec import ModelSpec
from tests.conftest import PERIOD, ROOT, DtScript, Weights, tiny_frames
from tests.gpu.stand_in import network, tiny_network

STREAMS = 3
MANY = 20_140


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The source that runs on the GPU, as loops for this processor."""
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler here")
    library = tmp_path_factory.mktemp("kernels") / "stand_in.so"
    flags = ["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-x", "c++", "-include", "cmath"]
    subprocess.run(["g++", *flags, SOURCE, "-o", library], check=True)
    return ctypes.CDLL(str(library))


def run(kernels: ctypes.CDLL, network: Network, arrays: dict[str, np.ndarray]) -> None:
    columns = np.full(network.columns, 0xCD, np.uint8)
    made = network.step(addresses(arrays), addresses(network.weights), columns.ctypes.data)
    for name in KERNELS:
        getattr(kernels, name)(made)


@pytest.mark.parametrize("told", [False, True])
def test_the_kernels_compute_the_tiny_network_for_each_stream(
    kernels: ctypes.CDLL,
    told: bool,
    tiny_spec: ModelSpec,
    tiny_dt_spec: ModelSpec,
    tiny_script: Script,
    tiny_dt_script: DtScript,
    tiny_weights: Weights,
) -> None:
    spec = (tiny_dt_spec if told else tiny_spec).batched(STREAMS)
    network = tiny_network(spec, tiny_weights)
    arrays: dict[str, Any] = {name: np.zeros(shape, dtype) for name, (_, shape, dtype) in network.tensors().items()}
    memories: list[Any] = [{name: np.zeros((1, 1, 4), np.float32) for name in "hc"} for _ in range(STREAMS)]
    for at, frames in enumerate(tiny_frames(20 * STREAMS, seed=6).reshape(20, STREAMS, 8, 8, 3)):
        arrays["frame"][...] = frames
        dt = np.array([0, PERIOD * at, 100], np.float32)
        if told:
            arrays["dt"][:, 0] = dt
        run(kernels, network, arrays)
        for slot, pixels in enumerate(frames):
            if told:
                answers, memories[slot] = tiny_dt_script(pixels, memories[slot], float(dt[slot]))
            else:
                answers, memories[slot] = tiny_script(pixels, memories[slot])
            for name, expected in answers.items():
                np.testing.assert_allclose(arrays[name][slot], expected[0], rtol=0, atol=1e-5, err_msg=name)
            total = sum(np.abs(memory).sum() for memory in memories[slot].values())
            np.testing.assert_allclose(arrays[WATCH][slot], total, rtol=1e-5)
            for pair in spec.states:
                np.testing.assert_allclose(arrays[pair.output][:, [slot]], memories[slot][pair.input], atol=1e-5)
        for pair in spec.states:
            arrays[pair.input][...] = arrays[pair.output]


def test_a_stream_in_a_batch_answers_bit_for_bit_as_it_does_alone_in_every_layer(kernels: ctypes.CDLL) -> None:
    def step_of(streams: int, slots: slice) -> dict[str, np.ndarray]:
        noise = network(streams=streams)
        draw = np.random.default_rng(4)
        arrays: dict[str, Any] = {name: np.zeros(shape, kind) for name, (_, shape, kind) in noise.tensors().items()}
        arrays["frame"][...] = draw.integers(0, 256, (STREAMS, 16, 16, 3))[slots]
        for name in "hc":
            arrays[name][...] = draw.normal(size=(2, STREAMS, 8))[:, slots]
        run(kernels, noise, arrays)
        return arrays

    together = step_of(STREAMS, slice(None))
    for slot in range(STREAMS):
        alone = step_of(1, slice(slot, slot + 1))
        for name in ("logits", WATCH):
            np.testing.assert_array_equal(together[name][slot], alone[name][0])
        for name in ("h_next", "c_next"):
            np.testing.assert_array_equal(together[name][:, slot], alone[name][:, 0])


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc here")
@pytest.mark.parametrize("architecture", ["sm_87", "sm_90"])
def test_nvcc_takes_the_kernels_for_an_orin_and_a_hopper(architecture: str, tmp_path: Path) -> None:
    flags = ["--cubin", "-Werror", "all-warnings", "-arch", architecture]
    subprocess.run(["nvcc", *flags, SOURCE, "-o", tmp_path / "stand_in.cubin"], check=True)
    assert all(name.encode() in (tmp_path / "stand_in.cubin").read_bytes() for name in KERNELS)


def test_nothing_stands_in_for_another_kind_of_memory(tiny_spec: ModelSpec) -> None:
    h, c = tiny_spec.states
    for states in ((), (h,), (h, replace(c, shape=(2, 1, 4)))):
        with pytest.raises(BackendError, match="two pairs"):
            Network.random(replace(tiny_spec, states=states))


def answer(
    step_us: float, *, gpu_us: float = 20, launch_us: float = 4, bare_us: float = 10, count: int = MANY
) -> dict[str, Any]:
    """What a process answers in which every sample is the same."""
    series = {"step_ns": step_us, "gpu_ns": gpu_us, "launch_ns": launch_us, "bare_ns": bare_us}
    return {name: [round(1e3 * value)] * count for name, value in series.items()} | {
        "bytes_copied": 1280,
        "bytes_of_memory_copied": 0,
    }


ROUNDS = {
    "batch 1, copied, graph": [answer(10.0), answer(40.0), answer(20.0)] * 2,
    "batch 1, mapped, graph": [answer(15.0), answer(30.0), answer(40.0)] * 2,
    "batch 1, copied, enqueued": [answer(50.0, launch_us=us) for us in (12.0, 6.0, 8.0) * 2],
    "batch 8, copied, graph": [answer(20.0), answer(40.0), answer(80.0)] * 2,
    "torch eager": [{"step_ns": [round(1e3 * us)] * 10} for us in (100, 800, 300) * 2],
}


def named(rounds: dict[str, Any], engine: str = "tensorrt 10.3") -> dict[str, Figure]:
    return {figure.name: figure for figure in figures(rounds, engine, "copied", ["torch eager", "torch compiled"])}


def test_ratios_are_taken_within_a_round_and_come_first() -> None:
    found = named(ROUNDS)
    assert next(iter(found)) == "torch eager ÷ ours, host to host, p50"
    values = {name: (figure.value, figure.low, figure.high) for name, figure in found.items()}
    assert values["torch eager ÷ ours, host to host, p50"] == (15, 10, 20)
    assert values["enqueueing ÷ replaying a graph, until the call returns, p50"] == (2, 1.5, 3)
    assert values["step ÷ bare loop over the same graph, p50"] == (2, 1, 4)
    assert values["mapped ÷ copied, host to host, p50"] == (1.5, 0.75, 2)
    assert values["frames a second, 8 streams ÷ one"] == (4, 2, 8)
    assert values["host to host, p50, µs"] == (20, 10, 40)
    assert "torch compiled ÷ ours, host to host, p50" not in found


def test_each_figure_is_held_against_its_goal() -> None:
    met = {name: figure.met for name, figure in named(ROUNDS).items() if figure.goal is not None}
    assert met == {
        "enqueueing ÷ replaying a graph, until the call returns, p50": True,
        "step ÷ bare loop over the same graph, p50": False,
        "GPU time of a step, p99 ÷ p50": True,
        "GPU time of a step, p99.9 ÷ p50": True,
        "bytes of memory that a step copies, at most": True,
        "host to host, p50, µs": True,
    }


def test_one_case_that_copies_memory_misses_the_goal() -> None:
    rounds = ROUNDS | {"batch 8, copied, graph": [answer(20.0) | {"bytes_of_memory_copied": 64}] * 6}
    found = named(rounds)["bytes of memory that a step copies, at most"]
    assert (found.value, found.met) == (64, False)


def test_the_tail_of_the_gpus_time_is_taken_over_all_rounds_and_only_from_enough_samples() -> None:
    slow = answer(10.0, count=MANY // 2)
    slow["gpu_ns"][-300:] = [30_000] * 300
    found = named({"batch 1, copied, graph": [answer(10.0, count=MANY // 2), slow]})
    assert found["GPU time of a step, p99 ÷ p50"].value == 1.5
    few = named({"batch 1, copied, graph": [slow]})
    assert "GPU time of a step, p99 ÷ p50" in few
    assert "GPU time of a step, p99.9 ÷ p50" not in few
    assert "host to host, p99.9, µs" not in few


def test_a_stand_in_is_named_in_every_figure_and_compared_with_nobody() -> None:
    found = named(ROUNDS, STAND_IN)
    assert all(name.startswith("stand-in: ") for name in found)
    assert not any("torch" in name for name in found)
    assert found["stand-in: host to host, p50, µs"].goal is None
    assert found["stand-in: step ÷ bare loop over the same graph, p50"].goal == 1.05


def test_what_was_not_measured_has_no_figure() -> None:
    assert figures({"torch eager": ROUNDS["torch eager"]}, "tensorrt 10.3", "copied", ["torch eager"]) == []


def test_a_summary_has_percentiles_in_place_of_samples_and_says_for_which_there_are_enough() -> None:
    found = summary([answer(10.0, count=1_500), answer(20.0, count=1_500)])
    assert found.keys() == {"step_ns", "gpu_ns", "launch_ns", "bare_ns"}
    assert found["step_ns"] == {
        "p50_us": 10,
        "p99_us": 20,
        "p99_9_us": 20,
        "rounds_p50_us": [10, 20],
        "samples": 3_000,
        "enough_for": ["p99"],
    }


def test_everything_has_a_turn_a_round_in_an_order_that_the_seed_draws() -> None:
    turns = list[str]()

    def measurement(name: str) -> dict[str, Any]:
        turns.append(name)
        return {"name": name}

    measurements: Any = {name: lambda name=name: measurement(name) for name in "abcdef"}
    found, order, _ = command.take_turns(measurements, 3, 1, {})
    assert turns == [name for names in order for name in names]
    assert [sorted(names) for names in order] == [list("abcdef")] * 3
    assert len({tuple(names) for names in order}) > 1
    assert command.take_turns(measurements, 3, 1, {})[1] == order
    assert found["c"] == [{"name": "c"}] * 3


def test_what_fails_is_shown_as_missing_with_its_words_and_not_asked_again() -> None:
    calls, missing = [], dict[str, str]()

    def broken() -> dict[str, Any]:
        calls.append(1)
        if len(calls) == 2:
            raise BackendError("-m x /a/folder ended with 1: no such provider", expected="", fix="")
        return {}

    found, _, _ = command.take_turns({"broken": broken, "whole": dict}, 4, 0, missing)
    assert found == {"whole": [{}] * 4}
    assert missing == {"broken": "1: no such provider"}
    assert len(calls) == 2


def test_where_tensorrt_takes_its_process_with_it_the_stand_in_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> dict[str, Any]:
        raise BackendError("-m x /a/folder ended with -11: no word", expected="", fix="")

    monkeypatch.setattr(command, "run", crash)
    found = command.engine_for(Path("model.edge"))
    assert found == {"engine": STAND_IN, "graph": None, "refused": {"TensorRT": "-11: no word"}}


@pytest.mark.parametrize("rounds", [1, 7])
def test_every_case_is_measured_with_samples_for_a_p99_9_in_all(tiny_bundle: Path, rounds: int) -> None:
    bundle = bundle_format.read(tiny_bundle)
    found, missing = command.measurements_of(tiny_bundle, bundle, None, None, [1, 4], rounds)
    assert set(found) == {
        *(Case(batch, transfer, "graph").name for batch in (1, 4) for transfer in ("copied", "mapped")),
        *(Case(1, transfer, "enqueued").name for transfer in ("copied", "mapped")),
        "onnxruntime-cuda",
        "onnxruntime-tensorrt",
    }
    assert missing.keys() == {"torch eager", "torch compiled"}
    for measurement in found.values():
        assert measurement.args[-1] * rounds >= MANY  # type: ignore[attr-defined]


def test_the_command_that_repeats_a_run_names_no_folder() -> None:
    words = command.words(Path("/secret/checkpoint"), [1, 8], 3, 0)
    assert " ".join(words) == "--checkpoint checkpoint --batch 1 --batch 8 --rounds 3 --seed 0"


@pytest.mark.parametrize(("beyond", "expected"), [(0, 0), (512, 512)])
def test_bytes_beyond_frames_and_answers_are_the_memorys(tiny_dt_spec: ModelSpec, beyond: int, expected: int) -> None:
    spec = tiny_dt_spec.batched(4)
    crossing = 4 * 8 * 8 * 3 + 256 + 256 + 256 + 256 + 256
    backend: Any = SimpleNamespace(spec=spec, bytes_copied=crossing + beyond)
    assert step.memory_copied(backend) == expected
    assert step.memory_copied(SimpleNamespace(spec=spec, bytes_copied=0)) == 0  # type: ignore[arg-type]


def test_without_pycuda_the_command_says_what_is_missing(tiny_bundle: Path) -> None:
    program = f"""
import sys
sys.modules["pycuda"] = None
sys.argv = ["benchmarks", "device", {str(tiny_bundle)!r}]
from benchmarks.__main__ import app, console
console.run(app)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot import PyCUDA")
    assert "expected:" in done.stderr


def test_a_process_that_an_error_of_ours_ends_says_what_was_found() -> None:
    with pytest.raises(BackendError, match=r"nowhere\.edge") as error:
        processes.run("benchmarks.device.peers", "onnxruntime-cuda", "nowhere.edge", "", 1)
    assert "to fix" not in error.value.found
