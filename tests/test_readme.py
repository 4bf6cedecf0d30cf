"""The README says only what is true: its table is what was measured, and its commands and code run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
RUNTIME = (ROOT / "edge_cnnlstm" / "runtime" / "README.md").read_text()
RESULTS = re.search(r"\((benchmarks/results/demo-[\d-]+\.json)\)", README)


def table(results: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    """The README's table of results, made from the demo's report."""
    names = {
        "fp32": "CNN-LSTM, FP32",
        "int8_onnxruntime": "CNN-LSTM, INT8 (ONNX Runtime)",
        "int8_tensorrt": "CNN-LSTM, INT8 + FP16 (TensorRT dialect)",
        "cnn_only": "the same CNN without memory",
    }
    rows = []
    for key, name in names.items():
        accuracy, tracking = results["accuracy"][key], results["tracking"][key]
        rows.append(
            f"| {name} | {accuracy['visible']:.1%} | {accuracy['hidden']:.1%} "
            f"| {tracking['centre_error_px_visible']:.1f} px | {tracking['centre_error_px_hidden']:.1f} px |"
        )
    return rows


def test_the_table_is_what_was_measured() -> None:
    assert RESULTS is not None
    results = json.loads((ROOT / RESULTS[1]).read_text())

    for row in table(results):
        assert row in README, "\n".join(["the README's table should hold:", *table(results)])
    stream = results["stream"]
    streamed = (
        f"{stream['frames_in']} frames in = {stream['predicted']} predicted + {stream['dropped']} dropped, "
        f"age at decision p50 {stream['age_ms']['p50']:.2f} ms, p99 {stream['age_ms']['p99']:.2f} ms"
    )
    assert streamed in README, streamed
    named = f"{stream['accuracy']['visible']:.1%} of the frames in sight and {stream['accuracy']['hidden']:.1%} of the"
    assert named in README, named


SCORES = {
    "digit.accuracy": "accuracy",
    "digit.accuracy.visible": "accuracy in sight",
    "digit.accuracy.hidden": "accuracy while hidden",
    "target.centre_error_px.hidden_3": "centre error, hidden for 3 frames or fewer",
}


def reached(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The README's table of what the recipes reach, made from the results of the training benchmark."""
    rows = []
    for goal in results["goals"]:
        unit, scale, digits = (" px", 1, 2) if "_px" in goal["score"] else ("%", 100, 1)
        mean, least, most = (f"{scale * goal[key]:.{digits}f}" for key in ("mean", "least", "most"))
        sign = "≤" if goal["at_most"] else "≥"
        rows.append(
            f"| {goal['case']} | {SCORES[goal['score']]} "
            f"| {mean}{unit} ({least}–{most}) | {sign} {scale * goal['value']:g}{unit} |"
        )
    return rows


def test_the_trainings_are_what_was_measured() -> None:
    (path,) = re.findall(r"\((benchmarks/results/training-[\d-]+\.json)\)", README)
    results = json.loads((ROOT / path).read_text())

    for row in reached(results):
        assert row in README, "\n".join(["the README's table should hold:", *reached(results)])
    assert all(goal["reached"] for goal in results["goals"])
    longest = max(training["seconds"] for training in results["trainings"] if training["case"].endswith("digits, nano"))
    least = min(training["compute_share"] for training in results["trainings"])
    assert f"at most {longest / 60:.1f} minutes on 2 cores" in README, longest / 60
    assert f"at least {least:.0%} of the training loop was compute" in README, least


def under_load(results: Any, score: str, scale: float, digits: int) -> list[str]:
    """A table of the training README: a score by what a network was trained for, over the load; mean of the seeds."""
    kinds = {
        "nothing": ("no-drops", "kept"),
        "missed frames": ("drops", "kept"),
        "missed frames, and told of them": ("drops-dt", "told"),
        "the same, but not told now": ("drops-dt", "not told"),
    }
    columns = [("newest", load) for load in (0, 0.1, 0.2, 0.3, 0.5)] + [("skip-k", 0.3), ("skip-k", 0.5)]
    rows = []
    for said, (kind, memory) in kinds.items():
        cells = []
        for policy, load in columns:
            found = [
                scale * row["scores"][score]
                for name, network in results["drops"]["networks"].items()
                if name.rpartition("-")[0] == kind
                for row in network
                if (row["policy"], row["memory"], row["load"]) == (policy, memory, load)
            ]
            assert len(found) > 1
            cells.append(f"{sum(found) / len(found):.{digits}f} ({min(found):.{digits}f}–{max(found):.{digits}f})")
        rows.append(f"| {said} | {' | '.join(cells)} |")
    return rows


def test_what_missed_frames_cost_is_what_was_measured() -> None:
    document = (ROOT / "edge_cnnlstm" / "training" / "README.md").read_text()
    (path,) = re.findall(r"\((?:\.\./)*(benchmarks/results/drops-[\d-]+\.json)\)", document)
    measured = json.loads((ROOT / path).read_text())

    for score, scale, digits in (("velocity.mae", 100, 2), ("target.iou", 1, 3)):
        found = under_load(measured, score, scale, digits)
        for row in found:
            assert row in document, "\n".join(["the README's table should hold:", *found])


def test_the_comparison_of_memories_is_what_was_measured() -> None:
    document = (ROOT / "benchmarks" / "README.md").read_text()
    (name,) = re.findall(r"\((results/memory-[\d-]+)\.json\)", document)
    table = (ROOT / "benchmarks" / f"{name}.md").read_text()

    assert table in document, table


BENCHMARKS = ROOT / "benchmarks" / "README.md"


def results(kind: str, name: str, document: str) -> Any:
    """Return the results that a document links to."""
    (path,) = set(re.findall(rf"\((?:benchmarks/)?(results/{kind}-{name}-[\d-]+\.json)\)", document))
    return json.loads((ROOT / "benchmarks" / path).read_text())


def speeds(name: str, found: Any) -> list[str]:
    """The rows of a network in the table of what the CPU graphs cost."""
    ratios = {row["name"]: row for row in found["ratios"]}
    counted = found["operators"]["int8_onnxruntime"]
    rows = []
    for threads, words in ((1, "1 thread"), (2, "2 threads")):

        def said(which: str, words: str = words) -> str:
            (row,) = (row for key, row in ratios.items() if re.fullmatch(f"{which}, {words}", key))
            return f"{row['value']:.2f} ({row['low']:.2f}–{row['high']:.2f})"

        p50 = {case["name"]: case["p50_us"] for case in found["cases"] if case["threads"] == threads}
        rows.append(
            f"| {name}, {words} | {said('onnxruntime fp32 / onnxruntime int8')} "
            f"| {said('onnxruntime fp32 / .* .the best engine.')} | {said('onnxruntime int8 / onnxruntime best .*')} "
            f"| {p50['onnxruntime int8'] / 1e3:.2f} ms | {counted['float_convolutions']} "
            f"| {counted['quantize'] + counted['dequantize']} |"
        )
    return rows


def agreements(name: str, found: Any) -> list[str]:
    """The rows of a network in the table of agreement with FP32."""
    figures = {row["name"]: row["value"] for row in found["ratios"]}
    rows = []
    for graph in found["drift"]:
        top, drift = f"{graph}: top-1 agreement of digit", f"{graph}: drift of {{}}{{}}, frame 10,000 / frame 100"
        of_size = " relative to its size"
        rows.append(
            f"| {name}, {graph} | {figures[top]:.2%} | {figures[drift.format('h', '')]:.2f} "
            f"| {figures[drift.format('c', '')]:.2f} | {figures[drift.format('c', of_size)]:.2f} |"
        )
    return rows


@pytest.mark.parametrize("name", ["small", "base"])
def test_speeds_and_agreement_are_what_was_measured(name: str) -> None:
    document = BENCHMARKS.read_text()
    wanted = speeds(name, results("engines", name, document)) + agreements(name, results("agreement", name, document))

    for row in wanted:
        assert row in document, "\n".join(["the document should hold:", *wanted])


def plan(found: Any) -> list[str]:
    """The README's table of precisions, made from an export's report."""
    engines = {"portable": "any engine", "tensorrt": "TensorRT", "onnxruntime": "ONNX Runtime"}
    rows = []
    for row in found["candidates"]:
        times = {time["kind"]: time["p50_us"] for time in [row["latency"], *row["other_latencies"]]}
        here, board = (f"{times[kind]:,.0f} µs" if kind in times else "–" for kind in ("measured", "estimated"))
        chosen = [engines[engine] for engine, made in found["choice"].items() if made["name"] == row["name"]]
        rows.append(
            f"| {row['precision']} | {engines[row['dialect']]} | {100 * row['lost']:.2f} "
            f"| {row['bytes'] / 1e3:,.0f} kB | {here} | {board} | {'for ' + ' and '.join(chosen) if chosen else ''} |"
        )
    return rows


def test_the_precisions_are_what_was_measured() -> None:
    wanted = plan(results("export", "nano", README))

    for row in wanted:
        assert row in README, "\n".join(["the README's table should hold:", *wanted])


def measured(results: dict[str, Any]) -> list[str]:
    """The benchmarks' README's table of the runtime, made from a result."""
    rows = []
    for figure in results["ratios"]:
        value, low, high = (f"{figure[key]:.2f}" for key in ("value", "low", "high"))
        goal = "–" if figure["goal"] is None else f"{'≤' if figure['at_most'] else '≥'} {figure['goal']:g}"
        said = {True: "met", False: "**missed**", None: ""}[figure["met"]]
        rows.append(f"| {figure['name']} | {value} ({low}–{high}) | {goal} | {said} |")
    return rows


def test_the_runtimes_figures_are_what_was_measured() -> None:
    benchmarks = (ROOT / "benchmarks" / "README.md").read_text()
    paths = re.findall(r"\((results/(?:runtime|soak)-small-2[\d-]+\.json)\)", benchmarks)
    assert len(paths) == 2
    for path in paths:
        for row in measured(json.loads((ROOT / "benchmarks" / path).read_text())):
            assert row in benchmarks, row


def test_the_hour_is_what_was_measured() -> None:
    (soak,) = json.loads((ROOT / "benchmarks/results/soak-small-2026-11-26.json").read_text())["rounds"]["soak"]
    assert (soak["late"], soak["collector_pause_ms"]) == (0, 0)
    age = soak["age_ms"]
    words = " ".join(README.split())
    assert f"of {soak['produced']:,} frames none was answered late" in words
    assert f"was {age['p100']:.1f} ms old, p99 {age['p99']:.2f} ms; {soak['dropped']} were dropped" in words


def test_every_link_and_picture_leads_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)

    assert len(targets) > 5
    for target in targets:
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make (\w+)", README, re.MULTILINE)

    assert {"demo", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_command_and_option_exists() -> None:
    shown = {}
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = line.partition("#")[0].split()
            if words[:1] == ["edge-cnnlstm"]:
                command = ["edge_cnnlstm.cli", words[1]]
            elif words[:2] == ["python", "-m"]:
                command = words[2:4] if words[2] == "benchmarks" else words[2:3]
            else:
                continue
            key = " ".join(command)
            if key not in shown:
                module, *name = command
                app = import_module(f"{module}.__main__").app
                result = CliRunner().invoke(app, [*name, "--help"])
                assert result.exit_code == 0, line
                shown[key] = result.stdout
            for option in [word for word in words if word.startswith("-") and word != "-m"]:
                assert option in shown[key], f"{option} in: {line}"
    assert len(shown) >= 5


def test_the_recipe_is_one() -> None:
    from edge_cnnlstm.training.recipe import load_recipe
    from edge_cnnlstm.training.search.space import check_space

    (text,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gestures.toml"
        path.write_text(text)
        recipe = load_recipe(path)

    check_space(recipe)
    assert recipe.data.kind == "video-folder"


@pytest.mark.parametrize("example", re.findall(r"```python\n(.*?)```", README + RUNTIME, re.DOTALL))
def test_the_python_examples_run(exported: Path, tmp_path: Path, example: str) -> None:
    video = tmp_path / "unseen.mp4"
    made = subprocess.run(
        [sys.executable, "-m", "edge_cnnlstm.cli", "sample-video", str(video), "--scenes", "1"],
        capture_output=True,
        cwd=ROOT,
        check=False,
    )
    assert made.returncode == 0
    code = re.sub(r"\w+\.edge", str(exported), example).replace('camera("/dev/video0"', 'video("video.mp4"')
    code = re.sub(r"\w+\.mp4", str(video), code)
    assert str(video) in code

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)

    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    counted = re.search(r"Counts\(produced=48, predicted=(\d+), dropped=(\d+), waiting=0", ran.stdout)
    if counted is None:
        assert len(lines) == 48
    else:
        assert len(lines) == int(counted[1]) + 2
        assert int(counted[1]) + int(counted[2]) == 48


@pytest.mark.parametrize("name", ["tests", "edge_cnnlstm", "export", "benchmarks", "jetson"])
def test_no_file_names_a_machine_or_a_registry(name: str) -> None:
    hosts = ("pypi" + ".org", "python" + "hosted.org", "/wo" + "rk/", "/ro" + "ot/.")
    for path in (ROOT / name).rglob("*"):
        if path.is_file() and path.suffix in {".py", ".md", ".sh", ".json", ".toml", ".j2", ".service"}:
            text = path.read_text()
            assert not [host for host in hosts if host in text], path
