"""A small run folder becomes a report, and every file that is missing or wrong is named."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_cnnlstm.cli.report import report
from edge_cnnlstm.errors import ConfigError, DataError, DependencyError
from edge_cnnlstm.report import gather, plots
from edge_cnnlstm.report.ages import frames_below
from edge_cnnlstm.runtime.histogram import Histogram

WIDTH, HEIGHT = 64, 48
HIDDEN = range(14, 19)
"""The second scene hides its digit in these frames; the first shows it all along."""
DROPPED = (1, 15)
WRONG = (0, 16)
STARTED = 1_000_000.0


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def scores(visible: float, hidden: float) -> dict[str, float]:
    return {
        "digit.accuracy": 0.5,
        "digit.accuracy.visible": visible,
        "digit.accuracy.hidden": hidden,
        "target.iou": 0.7,
        "target.centre_error_px.visible": 1.5,
        "target.centre_error_px.hidden": 3.25,
    }


def evaluated(visible: float, hidden: float) -> dict[str, Any]:
    across = {"frames": [-1, 0, 1, 2], "accuracy": [visible, visible, hidden, None]}
    return {"clips": 400, "scores": scores(visible, hidden), "heads": {"digit": {"across": across}, "target": {}}}


def truth() -> list[dict[str, Any]]:
    first = [{"label": "3", "box": [32.0, 24.0, 10.0, 20.0], "visible": True} for _ in range(10)]
    second = [{"label": "7", "box": [30.0, 20.0, 12.0, 18.0], "visible": at not in HIDDEN} for at in range(10, 24)]
    return first + second


def predictions() -> list[dict[str, Any]]:
    return [
        {
            "frame": frame,
            "digit": {"label": "0" if frame in WRONG else shown["label"], "score": 0.9, "scores": [0.02] * 5},
            "target": {"box": [24.0, 11.0, 12.0, 18.0], "presence": 0.9 if shown["visible"] else 0.1},
        }
        for frame, shown in enumerate(truth())
        if frame not in DROPPED
    ]


def stream(ages_ns: list[int]) -> dict[str, Any]:
    ages = Histogram()
    for age in ages_ns:
        ages.record(age)
    row = {f"p{name}": ages.percentile(percent) / 1e6 for name, percent in (("50", 50), ("90", 90), ("99", 99))}
    row |= {"p99_9": ages.percentile(99.9) / 1e6, "max": ages.maximum / 1e6, "mean": 2.0}
    stage = dict.fromkeys(row, 0.5)
    if not ages_ns:
        row = stage = dict.fromkeys(row)
    return {
        "bundle": "digits.edge",
        "source": "unseen.mp4",
        "backend": "onnxruntime",
        "rate": 30.0,
        "frames_in": len(ages_ns) + len(DROPPED),
        "predicted": len(ages_ns),
        "dropped": len(DROPPED),
        "deadline_ms": 33.333,
        "deadline_misses": 0,
        "longest_miss_burst": 0,
        "latency_ms": {**dict.fromkeys(("wait", "fit", "infer", "decode"), stage), "age": row},
        "age_histogram_ns": ages.buckets(),
    }


def exported() -> dict[str, Any]:
    proof = {"largest": 0.025, "typical": 0.0007, "tolerance": 0.3, "typical_tolerance": 0.05}
    graphs = {"int8_onnxruntime": (0.98, 0.96), "int8_tensorrt": (0.97, 0.95), "fp32": (0.99, 0.97)}
    dialects = {"fp32": "portable", "int8_tensorrt": "tensorrt", "int8_onnxruntime": "onnxruntime"}
    return {
        "started": STARTED + 100,
        "seconds": 8.0,
        "test_clips": 200,
        "candidates": [
            {"name": name, "dialect": dialect, "precision": f"{name} in words"}
            for name, dialect in (*dialects.items(), ("mixed_tensorrt", "tensorrt"))
        ],
        "choice": {
            engine: {"name": f"int8_{engine}", "reason": "it is fast"} for engine in ("onnxruntime", "tensorrt")
        },
        "graphs": {name: {"bytes": 1000, "scores": scores(*found)} for name, found in graphs.items()},
        "parity": {"steps": 1000, "graphs": dict.fromkeys(graphs, proof)},
        "tensorrt": {"int8_tensorrt": {"plan_bytes": 1_949_068, "seconds": 0.25, "version": "builder 1.2"}},
    }


def write_run(folder: Path) -> None:
    write(folder / gather.CHECKPOINT, {"started": STARTED, "seconds": 40.0, "preset": "nano", "fit": {}})
    write(folder / gather.CNN_ONLY, {"started": STARTED + 41, "seconds": 20.0, "preset": "nano", "fit": {}})
    write(
        folder / gather.EVALUATION,
        {"split": "test", "networks": {"checkpoint": evaluated(0.99, 0.9765), "cnn-only": evaluated(0.93, 0.2184)}},
    )
    write(folder / gather.EXPORT, exported())
    write(folder / gather.STREAM, stream([1_200_000 + 10_000 * frame for frame in range(len(predictions()))]))
    for name, rows in ((gather.TRUTH, truth()), (gather.PREDICTIONS, predictions())):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    video = cv2.VideoWriter(str(folder / gather.VIDEO), cv2.VideoWriter.fourcc(*"mp4v"), 30, (WIDTH, HEIGHT))
    for level in range(len(truth())):
        video.write(np.full((HEIGHT, WIDTH, 3), 10 * level, np.uint8))
    video.release()


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reported")
    write_run(folder)
    report(folder)
    return folder


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("complete")
    write_run(folder)
    return folder


@pytest.fixture
def folder(complete: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(complete, tmp_path / "run"))


@pytest.fixture(scope="module")
def facts(reported: Path) -> Any:
    return json.loads((reported / "report.json").read_text())


def test_accuracy_comes_from_evaluation_and_export(facts: Any) -> None:
    assert facts["accuracy"] == {
        "fp32": {"visible": 0.99, "hidden": 0.9765, "clips": 400},
        "int8_onnxruntime": {"visible": 0.98, "hidden": 0.96, "clips": 200},
        "int8_tensorrt": {"visible": 0.97, "hidden": 0.95, "clips": 200},
        "cnn_only": {"visible": 0.93, "hidden": 0.2184, "clips": 400},
    }
    for name in ("fp32", "int8_onnxruntime", "cnn_only"):
        assert facts["tracking"][name] == {
            "centre_error_px_visible": 1.5,
            "centre_error_px_hidden": 3.25,
            "iou": 0.7,
        }
    assert facts["across_occlusion"]["chance"] == pytest.approx(1 / 5)


def test_parity_and_build_come_from_the_export(facts: Any) -> None:
    assert facts["parity"]["steps"] == 1000
    assert facts["parity"]["graphs"]["int8_tensorrt"]["largest"] == 0.025
    assert facts["choice"]["tensorrt"] == {"name": "int8_tensorrt", "reason": "it is fast"}
    assert set(facts["graphs"]) == {"fp32", "int8_onnxruntime", "int8_tensorrt"}
    assert facts["tensorrt_aot"] == {
        "int8_tensorrt": {"plan_bytes": 1_949_068, "seconds": 0.25, "version": "builder 1.2"}
    }


@pytest.mark.parametrize("where", ["candidates", "parity"])
def test_a_graph_of_which_nothing_is_said_is_named(folder: Path, where: str) -> None:
    export = exported()
    if where == "parity":
        export["parity"] = {"steps": 1000, "graphs": {"fp32": export["parity"]["graphs"]["fp32"]}}
    else:
        del export["candidates"][1]
    write(folder / gather.EXPORT, export)
    with pytest.raises(DataError, match=r"nothing is said of graph 'int8_"):
        gather.read_run(folder)


def test_stream_accuracy_joins_predictions_and_truth_by_frame(facts: Any) -> None:
    assert facts["stream"]["accuracy"] == {
        "visible": pytest.approx(17 / 18),  # 19 in sight: one was dropped, one is wrong
        "hidden": pytest.approx(3 / 4),  # 5 hidden: one was dropped, one is wrong
        "frames_visible": 18,
        "frames_hidden": 4,
    }
    assert facts["stream"]["scenes"] == 2


def test_stream_counts_and_latencies(facts: Any) -> None:
    found = facts["stream"]
    assert (found["frames_in"], found["predicted"], found["dropped"], found["deadline_misses"]) == (24, 22, 2, 0)
    assert {"p50", "p90", "p99", "p99_9", "max"} <= set(found["age_ms"])
    assert set(found["stages_ms"]) == {"wait", "fit", "infer", "decode"}
    assert found["stages_ms"]["infer"]["p99"] == 0.5


def test_seconds_versions_and_machine(facts: Any) -> None:
    assert facts["seconds"]["train"] == 61.0
    assert facts["seconds"]["export"] == 8.0
    assert 0 <= time.time() - STARTED - facts["seconds"]["total"] < 60
    assert facts["versions"]["numpy"] == np.__version__
    assert set(facts["machine"]) == {"cpu", "int8_dot", "cores", "memory_gib", "platform"}


def test_page_carries_everything_inside(reported: Path) -> None:
    page = (reported / "report.html").read_text(encoding="utf-8")
    assert page.count('<img src="data:image/png;base64,') == 3
    for said in (
        "97.7%",
        "21.8%",
        "95.0%",
        "int8_tensorrt in words; for TensorRT",
        "24 frames in = 22 predicted + 2 dropped",
        "1,949,068 bytes",
    ):
        assert said in page
    assert "75.0%</strong> of 4 hidden ones" in page
    assert "too far right to draw" in page
    for request in ("<script", "http:", "https:", "url(", "@import", "<link"):
        assert request not in page


def test_preview_is_a_wide_png(reported: Path) -> None:
    assert cv2.imread(str(reported / "preview.png")).shape == (700, 1600, 3)


def test_strip_spans_the_first_occlusion_of_a_scene(folder: Path) -> None:
    run = gather.read_run(folder)
    assert plots.strip_frames(run) == [11, 12, 13, 14, 15, 17, 18, 19, 20, 21]
    shots = plots.read_shots(run, [11, 15])
    assert [shot.frame for shot in shots] == [11, 15]
    assert [round(float(shot.pixels.mean())) for shot in shots] == pytest.approx([110, 150], abs=4)
    assert (shots[0].pixels.shape, shots[0].left, shots[0].top) == ((48, 48, 3), 8, 0)
    assert shots[1].prediction is None


def test_bars_hold_every_frame_once() -> None:
    rng = np.random.default_rng(0)
    ages = rng.lognormal(14, 0.3, 5000).astype(int)
    recorded = Histogram()
    for age in ages.tolist():
        recorded.record(age)
    edges = np.linspace(0, ages.max() / 1e6 * 1.1, 30)
    bars = np.diff(frames_below(recorded.buckets(), edges))
    counted, _ = np.histogram(ages / 1e6, edges)
    assert bars.sum() == pytest.approx(5000)
    assert np.abs(bars - counted).max() < 0.01 * 5000


def test_near_deadline_is_drawn_and_not_explained_away(folder: Path) -> None:
    summary = json.loads((folder / gather.STREAM).read_text())
    write(folder / gather.STREAM, summary | {"deadline_ms": 2.0, "deadline_misses": 3})
    report(folder)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "too far right" not in page
    assert "3 answers came later than the 2.0 ms deadline" in page


def test_a_stream_that_predicted_nothing_still_reports(folder: Path) -> None:
    (folder / gather.PREDICTIONS).write_text("")
    write(folder / gather.STREAM, stream([]))
    report(folder)
    facts = json.loads((folder / "report.json").read_text())
    assert facts["stream"]["age_ms"]["p99"] is None
    assert facts["stream"]["accuracy"]["hidden"] is None
    assert facts["across_occlusion"]["chance"] is None


@pytest.mark.parametrize("name", gather.WRITTEN_BY)
def test_a_missing_file_is_named_with_its_command(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(DataError) as raised:
        report(folder)
    assert name in raised.value.found
    assert raised.value.expected == f"what `{gather.WRITTEN_BY[name]}` writes"
    assert not (folder / "report.json").exists()


@pytest.mark.parametrize("name", gather.WRITTEN_BY)
def test_a_corrupt_file_is_named_with_its_command(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"\xff{ not this")
    with pytest.raises(DataError) as raised:
        report(folder)
    assert name in raised.value.found
    assert gather.WRITTEN_BY[name] in raised.value.expected


@pytest.mark.parametrize(("wrong", "said"), [("much", "number"), (math.nan, "finite")])
def test_a_score_that_is_no_number_is_named(folder: Path, wrong: Any, said: str) -> None:
    evaluation = json.loads((folder / gather.EVALUATION).read_text())
    evaluation["networks"]["cnn-only"]["scores"]["digit.accuracy.hidden"] = wrong
    write(folder / gather.EVALUATION, evaluation)
    with pytest.raises(
        DataError, match=rf"evaluation\.json: field networks\.cnn-only\.scores\.digit\.accuracy\.hidden: .*{said}"
    ):
        gather.read_run(folder)


def test_curves_must_match_their_frames(folder: Path) -> None:
    evaluation = json.loads((folder / gather.EVALUATION).read_text())
    evaluation["networks"]["checkpoint"]["heads"]["digit"]["across"]["frames"] = [0]
    write(folder / gather.EVALUATION, evaluation)
    with pytest.raises(DataError, match="4 accuracies across 1 frames"):
        gather.read_run(folder)


def test_networks_must_be_followed_over_the_same_frames(folder: Path) -> None:
    evaluation = json.loads((folder / gather.EVALUATION).read_text())
    evaluation["networks"]["checkpoint"]["heads"]["digit"]["across"]["frames"] = [0, 1, 2, 3]
    write(folder / gather.EVALUATION, evaluation)
    with pytest.raises(DataError, match="across different frames"):
        gather.read_run(folder)


def test_a_wrong_line_is_named(folder: Path) -> None:
    lines = (folder / gather.TRUTH).read_text().splitlines()
    lines[2] = "{}"
    (folder / gather.TRUTH).write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"unseen\.truth\.jsonl: line 3, field label: Field required"):
        gather.read_run(folder)


def test_predictions_of_another_run_are_refused(folder: Path) -> None:
    lines = (folder / gather.PREDICTIONS).read_text().splitlines()
    (folder / gather.PREDICTIONS).write_text("\n".join(lines[:-1]))
    with pytest.raises(DataError, match=r"21 predictions, but stream\.json counts 22"):
        gather.read_run(folder)


def test_predictions_beyond_the_truth_are_refused(folder: Path) -> None:
    lines = (folder / gather.TRUTH).read_text().splitlines()
    (folder / gather.TRUTH).write_text("\n".join(lines[:20]))
    with pytest.raises(DataError, match="a frame beyond the 20 of"):
        gather.read_run(folder)


def test_a_video_without_an_occlusion_is_refused(folder: Path) -> None:
    rows = [row | {"visible": True} for row in truth()]
    (folder / gather.TRUTH).write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="hidden for 4 frames, and in sight again"):
        report(folder)


def test_a_short_video_is_refused(folder: Path) -> None:
    run = gather.read_run(folder)
    with pytest.raises(DataError, match=r"ends after 24 frames; unseen\.truth\.jsonl describes 24"):
        plots.read_shots(run, [30])


def test_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder"):
        report(tmp_path / "nothing")


def test_without_jinja2_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "edge_cnnlstm.report.page", raising=False)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(DependencyError, match=r"pip install 'edge-cnnlstm\[report\]'"):
        report(folder)


def test_importing_the_command_draws_on_no_plotting_library() -> None:
    code = "import sys, edge_cnnlstm.cli.report as _; sys.exit(bool({'matplotlib', 'jinja2', 'cv2'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
