from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.latency import loops as latency_loops
from benchmarks.peers import comparison, loops, ours, prepared, show, worker
from benchmarks.peers.accuracy import MAY_LOSE, Accuracy, chosen, judge, label_head, reference_labels, write_rollout
from benchmarks.peers.as_used import AS_USED
from benchmarks.peers.figures import About, Closed, Paced, closed_figures, paced_figures
from benchmarks.peers.ours import AGAIN, OURS, UNTUNED, WINDOW, WINDOW_FRAMES
from benchmarks.peers.peer import Material
from benchmarks.peers.worker import Job
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.spec import HeadSpec

ORT = "onnxruntime fp32, as used"
EQUAL, STRAYS = Accuracy(2000, 1.0, 0.95, 0.0, True), Accuracy(2000, 0.9, 0.9, 0.05, False)
Make = Callable[..., Path]


def closed(
    name: str,
    family: str | None,
    us: float,
    *,
    precision: str = "int8",
    accuracy: Accuracy = EQUAL,
    tail: float = 1.1,
    samples: int = 300,
) -> Closed:
    turn = [round(1000 * us)] * samples
    turn[: samples // 50] = [round(1000 * us * tail)] * (samples // 50)
    whole = [2 * sample for sample in turn] if family else turn
    about = About(name, family, precision, "as it is")
    return Closed(about, 1, [whole] * 7, [turn] * 7 if family else None, accuracy, 0.01, [0.0] * 7)


def paced(name: str, family: str | None, us: float, accuracy: Accuracy = EQUAL) -> Paced:
    about = About(name, family, "fp32", "as it is")
    return Paced(about, [[round(1000 * us)] * 10] * 7, [0.05] * 7, accuracy, 0.01, [0.0] * 7)


CASES = (
    closed(OURS, None, 100, tail=1.3),
    closed(AGAIN, None, 102),
    closed(WINDOW, None, 1400),
    closed("ORT FP32", "onnxruntime", 125, precision="fp32", tail=1.2),
    closed("OV INT8", "openvino", 80, accuracy=STRAYS),
    closed("OV FP32", "openvino", 90, precision="fp32"),
)
AT_30_HZ = (
    paced(OURS, None, 100),
    paced(AGAIN, None, 100),
    paced(UNTUNED, None, 300),
    paced("ORT", "onnxruntime", 400),
    paced("torch", "torch", 200),
)


def test_best_is_the_fastest_of_the_named_engines_whose_accuracy_is_that_of_fp32() -> None:
    found = {figure.name: figure for figure in closed_figures(CASES, 1)}
    best = found["ours ÷ best peer's bare call (ORT FP32), p50, 1 thread"]
    assert (best.value, best.goal, best.met) == (0.8, 1.05, True)
    assert not any("OV INT8" in name for name in found)
    assert found["ours ÷ OV FP32, bare call, p50, 1 thread"].value == pytest.approx(100 / 90)
    assert found["ours ÷ OV FP32, whole answer, p50, 1 thread"].value == pytest.approx(100 / 180)


def test_a_tail_is_held_against_its_median_and_against_the_calmest_peer() -> None:
    found = {figure.name: figure for figure in closed_figures(CASES, 1)}
    assert found["ours p99 ÷ p50, 1 thread"].value == pytest.approx(1.3)
    assert not found["ours p99 ÷ p50, 1 thread"].met
    beside = found["ours p99 ÷ p50, over the least of any peer (OV FP32), 1 thread"]
    assert beside.value == pytest.approx(1.3 / 1.1)
    assert beside.samples == 2100


def test_too_few_samples_for_a_p99_give_no_figure_of_a_tail() -> None:
    assert any("p99" in figure.name for figure in closed_figures(CASES, 1))
    few = [closed(name, None, 100, samples=200) for name in (OURS, AGAIN, WINDOW)]
    assert not any("p99" in figure.name for figure in closed_figures(few, 1))


def test_window_control_and_our_own_accuracy_are_figures_too() -> None:
    found = {figure.name: figure for figure in closed_figures(CASES, 1)}
    assert (found["window of 16 ÷ ours, p50, 1 thread"].value, found["window of 16 ÷ ours, p50, 1 thread"].met) == (
        14,
        True,
    )
    assert found["ours, again ÷ ours, p50, 1 thread"].value == pytest.approx(1.02)
    assert found["ours: accuracy lost to FP32, points, 1 thread"].met


def test_our_own_loss_of_accuracy_misses_the_goal() -> None:
    for accuracy in (STRAYS, Accuracy(64, 63 / 64, None, None, False)):
        assert not closed_figures([replace(CASES[0], accuracy=accuracy), *CASES[1:]], 1)[0].met


def test_at_30_hz_ours_is_held_against_the_best_peer_as_commonly_used() -> None:
    found = {figure.name: figure for figure in paced_figures(AT_30_HZ)}
    best = found["ours paced ÷ best peer as commonly used (ORT), p50"]
    assert (best.value, best.met) == (0.25, True)
    assert found["ours ÷ torch, paced, p50"].value == 0.5
    assert found["ours, untuned ÷ ours, paced, p50"].value == 3
    assert found["share of a core at 30 Hz, ours, %"].value == pytest.approx(5)


def test_accuracy_within_half_a_point_is_equal_and_more_right_answers_are_no_loss() -> None:
    truth = np.zeros(1000, np.int64)
    reference = [0] * 900 + [1] * 100
    assert judge([0] * 895 + [1] * 105, reference, truth) == Accuracy(1000, 0.995, 0.895, MAY_LOSE, True)
    assert not judge([0] * 894 + [1] * 106, reference, truth).equal
    better = judge([0] * 950 + [1] * 50, reference, truth)
    assert (better.lost, better.equal) == (-0.05, True)


def test_without_a_truth_equal_means_the_label_of_fp32() -> None:
    assert judge([1] * 199 + [0], [1] * 200, None).equal
    assert not judge([1] * 198 + [0, 0], [1] * 200, None).equal


def test_one_logit_is_that_of_the_second_label() -> None:
    assert [chosen(np.array([logit], np.float32)) for logit in (-1, 2)] == [0, 1]
    assert chosen(np.array([1, 3, 2], np.float32)) == 1


def test_a_network_without_a_label_has_no_peers(tiny_bundle: Path) -> None:
    spec = bundle_format.read(tiny_bundle).manifest.model
    tracks = replace(spec, heads=(HeadSpec("target", "track", ("target_box", "target_presence")),))
    with pytest.raises(ConfigError, match="heads \\['target'\\]"):
        label_head(tracks)


def test_digits_come_with_their_truth_and_other_networks_see_their_golden_frames(
    make_bundle: Make, tiny_bundle: Path, tmp_path: Path
) -> None:
    asked = write_rollout(bundle_format.read(make_bundle()), 50, tmp_path)  # even or odd
    assert asked.frames.shape == (50, 8, 8, 3)
    assert asked.truth is not None
    assert set(asked.truth[:48]) <= {0, 1}
    assert len(set(asked.truth[:48])) == 1  # one clip shows one digit
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    bundle = bundle_format.read(tiny_bundle)
    unknown = write_rollout(bundle, 50, elsewhere)
    assert unknown.truth is None
    assert np.array_equal(unknown.frames, bundle.golden.frames)


@pytest.fixture
def job(make_bundle: Make, tmp_path: Path) -> Job:
    """Our stream on a tiny bundle, with a rollout of ten frames."""
    bundle, folder = make_bundle(), tmp_path / "rollout"
    folder.mkdir()
    write_rollout(bundle_format.read(bundle), 10, folder)
    return Job(OURS, str(bundle), 1, str(folder), backend="onnxruntime", graph="fp32")


@pytest.fixture
def as_used(job: Job, tmp_path: Path) -> Job:
    """ONNX Runtime as it is commonly used, on the same."""
    path = prepared.peer_called(ORT).prepare(Material(Path(job.bundle), None, 1), tmp_path)
    return replace(job, name=ORT, prepared=str(path))


def test_every_case_answers_what_fp32_answers(job: Job, as_used: Job) -> None:
    expected = reference_labels(Path(job.bundle), Path(job.rollout or ""))
    assert len(expected) == 10
    for each in (job, replace(job, name=WINDOW), as_used):
        ready, _ = worker.opened(each.words())
        assert ready["labels"] == expected
        assert ready["deviation"] < 1e-5


def test_ours_is_timed_as_a_whole_and_a_peer_both_barely_and_as_people_write_it(job: Job, as_used: Job) -> None:
    _, turn = worker.opened(job.words())
    assert {kind: len(samples) for kind, samples in turn({"steps": 5}).items()} == {"whole_ns": 5}
    _, turn = worker.opened(as_used.words())
    kinds = [list(turn({"steps": 5})) for _ in range(2)]
    assert kinds == [["bare_ns", "whole_ns"], ["whole_ns", "bare_ns"]]


def test_a_window_runs_every_frame_again(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[float] = []
    advance = latency_loops.advance
    monkeypatch.setattr(latency_loops, "advance", lambda *frame: ran.append(1) or advance(*frame))
    _, turn = worker.opened(replace(job, name=WINDOW).words())
    assert len(turn({"steps": 20})["whole_ns"]) == 2
    assert len(ran) == (2 + 2) * (WINDOW_FRAMES - 1)


def test_at_a_pace_every_frame_is_timed_from_when_it_was_due(
    job: Job, as_used: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, "RATE", 500.0)
    monkeypatch.setattr(ours, "RATE", 500.0)
    for each in (job, as_used):
        _, turn = worker.opened(each.words())
        found = turn({"frames": 6})
        assert len(found["paced_ns"]) == 6
        assert min(found["paced_ns"]) > 0
        assert found["core_share"] > 0


def test_a_late_answer_makes_the_next_ones_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "RATE", 1000.0)
    monkeypatch.setattr(loops, "WARM_UP_FRAMES", 0)
    stall = iter([lambda: loops.time.sleep(0.02), *[lambda: None] * 9])
    found = loops.paced(lambda _: next(stall)(), [np.zeros((1, 1, 3), np.uint8)] * 10)
    assert all(later >= 20_000_000 - 1_000_000 * index for index, later in enumerate(found))


def test_an_engine_by_hand_carries_its_memory_and_forgets_on_reset(as_used: Job) -> None:
    bundle = bundle_format.read(as_used.bundle)
    engine = prepared.peer_called(ORT).open(Path(as_used.prepared or ""), Material(Path(as_used.bundle), None, 1))
    found = []
    for again in range(3):
        if again == 2:
            engine.reset()
        engine.lay(bundle.golden.frames[0])
        engine.run()
        found.append(engine.outputs()["digit_logits"].copy())
    assert not np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_peers_are_prepared_apart_and_those_that_cannot_be_say_why(make_bundle: Make, tmp_path: Path) -> None:
    here, refusing = prepared.peer_called(ORT), prepared.peer_called("onnxruntime int8, as used")
    absent = replace(here, name="absent", needs=("onnxruntime", "no-such-engine"))
    paths, missing = prepared.prepare([here, refusing, absent], Material(make_bundle(), None, 1), tmp_path)
    assert list(paths) == [ORT]
    assert paths[ORT].read_bytes() == bundle_format.read(make_bundle()).graph("fp32")
    assert missing["absent"] == "not installed: pip install no-such-engine"
    assert missing[refusing.name] == "a bundle with graphs ['fp32', 'int8']"


def test_a_preparation_that_crashes_is_missing_with_its_last_words(make_bundle: Make, tmp_path: Path) -> None:
    found = prepared._prepare(AS_USED[0], Material(make_bundle(), None, 1), tmp_path / "nowhere")
    assert found["refused"].startswith("its preparation ended with exit code 1: FileNotFoundError")


def test_reasons_name_no_folder_of_this_machine() -> None:
    material = Material(Path("/home/me/runs/small.edge"), Path("/data/checkpoints/small"), 1)
    text = "no /scratch/x/0/graph.onnx, /home/me/runs/small.edge or /data/checkpoints/small/weights"
    assert (
        prepared.without_folders(text, Path("/scratch/x/0"), material) == "no graph.onnx, small.edge or small/weights"
    )


def report(**changes: Any) -> dict[str, Any]:
    plan = comparison.Plan(paced_frames=10)
    figures = [*closed_figures(CASES, 1), *paced_figures(AT_30_HZ)]
    made = {
        "plan": asdict(plan) | {"warm_up_frames": 32, "rate_hz": 30.0, "window_frames": 16},
        "rollout": {"frames": 2000, "truth": True},
        "ratios": [figure.document() for figure in figures],
        "closed": [asdict(case) for case in CASES],
        "paced": [asdict(case) for case in AT_30_HZ],
        "disturbances": ["Other programs were running."],
        "missing": {"LiteRT": "not installed: pip install ai-edge-litert"},
    }
    return dict(json.loads(json.dumps(made | changes)))


def test_tables_put_the_fastest_first_and_mark_who_strays() -> None:
    section = show.section(report())
    figures, closed_table, paced_table, settings = section.tables
    assert [row[0] for row in closed_table.rows][:3] == ["OV INT8 †", "OV FP32", "ours"]
    assert closed_table.rows[1][5] == "1.11 (1.11–1.11)"
    assert "no peer in any figure" in closed_table.caption
    assert paced_table.rows[0][6] == "5.0 %"
    assert paced_table.rows[0][3].startswith("*")
    assert all("ours ÷ OV FP32" not in row[0] for row in figures.rows)
    assert ("ORT FP32", "as it is") in settings.rows
    assert section.missing == {"LiteRT": "not installed: pip install ai-edge-litert"}
    assert section.pictures[0].png.startswith(b"\x89PNG")


def test_without_a_pace_there_is_no_table_of_it() -> None:
    assert len(show.section(report(paced=[])).tables) == 3


def test_the_words_that_repeat_a_run_name_no_folder() -> None:
    words = comparison.Plan((1, 2), rounds=3).words(Path("/secret/small"), ["torch"])
    assert " ".join(map(str, words)) == (
        "--checkpoint small --peer torch --threads 1 --threads 2 --rounds 3 --steps 300 --paced-frames 300 "
        "--frames 2000 --seed 0"
    )


def test_a_comparison_is_whole(make_bundle: Make, tmp_path: Path) -> None:
    material, plan = Material(make_bundle(), None, 1), comparison.Plan(rounds=1, steps=4, paced_frames=0, frames=20)
    found = comparison.compare(material, plan, AS_USED[:1], tmp_path)
    assert [case["about"]["name"] for case in found["closed"]] == [OURS, AGAIN, WINDOW]
    assert [len(case["whole_ns"][0]) for case in found["closed"]] == [4, 4, 1]
    assert all(case["accuracy"]["agreement"] == 1 for case in found["closed"])
    assert sorted(found["order"]["back to back, 1 thread"][0]) == sorted([OURS, AGAIN, WINDOW])
    assert found["missing"] == {}
    assert show.section(json.loads(json.dumps(found))).tables
