"""An export's plain data becomes one page that carries everything inside, or no page at all."""

from __future__ import annotations

import base64
import json
import math
import re
import resource
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_cnnlstm.errors import ConfigError, DataError
from export.plots import curve_picture, duration, points, score_label, significant
from export.report import report_page, write_report

HTML = "<script>alert('$x$')</script>"
HERE = "ONNX Runtime 1.32.0, one thread of this machine"
BOARD = "Jetson Orin Nano, from its peak rates"

Document = dict[str, Any]


def curve(seed: int, size: float, steps: int, every: int, signals: str = "outputs h c") -> dict[str, list[Any]]:
    """Errors as they look: noisy, small after a reset, then level."""
    generator = np.random.default_rng(seed)
    step = np.arange(0, steps, every)
    found: dict[str, list[Any]] = {"step": step.tolist()}
    for number, signal in enumerate(signals.split()):
        since = step - np.array([0, 250, 700])[np.searchsorted([0, 250, 700], step, side="right") - 1]
        level = size * 4.0**-number * (1 - 0.95 * np.exp(-since / 30))
        found[signal] = (level * generator.lognormal(0, 0.5, len(step))).tolist()
    return found


def candidate(name: str, dialect: str, precision: str, lost: float, p50: float, **other: Any) -> Document:
    macs = {"int8": 0, "fp16": 0, "fp32": 4_100_000} | other.pop("macs", {})
    latency = {"p50_us": p50, "p99_us": None, "kind": "estimated", "where": BOARD}
    if dialect != "tensorrt":
        latency |= {"p99_us": 1.4 * p50, "kind": "measured", "where": HERE}
    accuracy = {"digit.accuracy": 0.971 - lost / 3, "digit.accuracy.hidden": 0.955 - lost, "target.iou": 0.8 - lost / 2}
    return {
        "name": name, "dialect": dialect, "precision": precision, "int8_layers": 0, "layers": 7,
        "accuracy": accuracy, "lost": lost, "lost_most": "digit.accuracy.hidden", "bytes": 1_290_000, "macs": macs,
        "weight_bytes": 1_284_000, "activation_bytes": 480_000, "latency": latency, "within_budget": lost <= 0.005,
        "chosen": False, "shipped": False,
    } | other  # fmt: skip


def small() -> Document:
    """What an export of a `nano` network writes."""
    int8 = {"int8": 4_000_000, "fp16": 0, "fp32": 100_000}
    mixed = {"int8": 3_700_000, "fp16": 400_000, "fp32": 0}
    candidates = [
        candidate("fp32", "portable", "fp32", 0.0, 236.0, shipped=True,
                  other_latencies=[{"p50_us": 61.2, "p99_us": None, "kind": "estimated", "where": BOARD}]),
        candidate("fp16_tensorrt", "tensorrt", "fp16, fp32 cell state", 0.0001, 38.0, bytes=650_000,
                  macs={"fp16": 4_100_000, "fp32": 0}, weight_bytes=642_000, activation_bytes=240_000),
        candidate("int8_fp16_tensorrt", "tensorrt", "int8 convolutions, fp16 gates, fp32 cell state", 0.0012, 33.1,
                  int8_layers=5, bytes=480_000, macs=mixed, weight_bytes=470_000, activation_bytes=130_000),
        candidate("int8_tensorrt", "tensorrt", "int8 convolutions and gates, fp16 between, fp32 cell state", 0.0021,
                  29.6, int8_layers=7, bytes=340_000, macs=int8, weight_bytes=330_000, activation_bytes=120_000,
                  chosen=True, shipped=True),
        candidate("int8_onnxruntime", "onnxruntime", "int8 convolutions, fp32 memory", -0.0004, 131.0, int8_layers=5,
                  bytes=520_000, macs=int8, weight_bytes=510_000, activation_bytes=125_000, chosen=True, shipped=True),
        candidate("int8_dynamic_onnxruntime", "onnxruntime", "int8 convolutions, dynamically quantized memory", 0.031,
                  124.0, int8_layers=7, bytes=350_000, macs=int8, weight_bytes=335_000, activation_bytes=122_000),
    ]  # fmt: skip
    proof = {
        "largest": 0.03, "typical": 0.0004, "worst": "c_next", "tolerance": 0.5, "typical_tolerance": 0.01,
        "permuted": 0.02, "batched": 0.015, "interleaved": 0.0,
        "controls": {
            "one weight nudged": {"largest": 0.9, "typical": 0.4},
            "h and c swapped": {"largest": 14.0, "typical": 12.0},
            "states matched by sorted names": {"largest": 13.0, "typical": 11.3},
        },
    }  # fmt: skip
    exact = proof | {"largest": 4.1e-6, "typical": 2.2e-8, "tolerance": 1e-3, "typical_tolerance": 1e-5}
    before, after = candidates[0]["accuracy"], candidates[3]["accuracy"]
    return {
        "schema_version": 1, "bundle": {"file": "digits.edge", "bytes": 2_013_442, "sha256": "5f" * 32},
        "started": 1_780_000_000.0, "seconds": 41.2,
        "machine": {"cpu": "A processor @ 2.60GHz", "cores": 2, "memory_gib": 7.8, "platform": "Linux-6.1"},
        "versions": {"python": "3.11.2", "torch": "2.13.0", "onnxruntime": "1.32.0"}, "commit": None,
        "network": {"preset": "nano", "height": 64, "width": 64, "layers": 1, "hidden": 96, "parameters": 321_000,
                    "macs": 4_100_000},
        "budget": 0.005, "validation_clips": 60, "test_clips": 400,
        "calibration": {"method": "max", "rollouts": 21, "frames": 1024, "longest": 512},
        "qat": {"epochs": 2, "kept": True, "before": {"digit.accuracy": 0.96}, "after": {"digit.accuracy": 0.971}},
        "candidates": candidates,
        "choice": {
            "tensorrt": {"name": "int8_tensorrt", "reason": "The fastest by its estimate of those within the budget."},
            "onnxruntime": {"name": "int8_onnxruntime", "reason": "int8_dynamic_onnxruntime is faster by 7 µs, and "
                            "loses 3.10 points: more than the budget."},
        },
        "graphs": {
            "fp32": {"bytes": 1_290_000, "operators": {"Conv": 5, "MatMul": 4, "Relu": 5, "Sigmoid": 4},
                     "optimized": {"FusedConv": 5, "FusedMatMul": 4, "Sigmoid": 4}, "accuracy": before,
                     "agreement": {"torch": 1.0}},
            "int8_tensorrt": {"bytes": 340_000,
                              "operators": {"QuantizeLinear": 14, "DequantizeLinear": 28, "Conv": 5, "Relu": 5},
                              "optimized": None,
                              "accuracy": after, "agreement": {"fp32": 0.99962, "torch": 1.0}},
            "int8_onnxruntime": {"bytes": 520_000,
                                 "operators": {"QuantizeLinear": 6, "DequantizeLinear": 17, "Conv": 5, "LSTM": 1},
                                 "optimized": {"QLinearConv": 5, "DequantizeLinear": 1, "LSTM": 1},
                                 "accuracy": after, "agreement": {"fp32": 0.9971, "torch": 0.99999}},
        },
        "parity": {"steps": 1000, "resets": [0, 250, 700], "graphs": {
            "fp32": exact | {"curve": curve(1, 2e-8, 1000, 10)},
            "int8_tensorrt": proof | {"curve": curve(2, 1e-3, 1000, 10)},
            "int8_onnxruntime": proof | {"curve": curve(3, 4e-4, 1000, 10)},
        }},
        "drift": {"int8_tensorrt": curve(4, 0.3, 1000, 10), "int8_onnxruntime": curve(5, 0.1, 10_000, 10)},
        "sensitivity": [
            {"layer": name, "lost": lost, "score": "target.iou", "weights": weights, "kept": False}
            for name, lost, weights in (
                ("backbone.stages.0", 0.0004, 432), ("backbone.stages.1", 0.0, 4608),
                ("backbone.stages.2", 0.0011, 9216), ("backbone.stages.3", -0.0002, 18432),
                ("backbone.stages.4", 0.0002, 36864),
                ("cells.0.input", 0.0009, 110_592), ("cells.0.hidden", 0.0003, 36864),
            )
        ],
        "tensorrt": {"int8_tensorrt": {"version": "tensorrt_rtx 1.7.1.116", "plan_bytes": 1_900_000, "seconds": 0.21,
                                       "layers": 60, "int8_weight_bytes": 320_000,
                                       "expected_int8_weight_bytes": 320_000}},
    }  # fmt: skip


def large() -> Document:
    """A network of 60 layers, one of which cannot bear int8, with several heads and operators by the dozen."""
    document = small()
    generator = np.random.default_rng(9)
    document["network"] |= {"preset": "base", "height": 224, "width": 224, "macs": 301_000_000, "parameters": 4_210_000}
    document["sensitivity"] = [
        {
            "layer": f"backbone.blocks.{layer // 3}.{('expand', 'depthwise', 'project')[layer % 3]}.convolution",
            "lost": float(generator.exponential(4e-4)) if layer not in (1, 7) else 0.012,
            "score": "digit.accuracy.hidden",
            "weights": 1024 * (layer + 1),
            "kept": layer in (1, 7),
        }
        for layer in range(60)
    ]
    for row in document["candidates"]:
        row["layers"] = 60
        for time in (row["latency"], *row.get("other_latencies", [])):
            time |= {name: time[name] and 40 * time[name] for name in ("p50_us", "p99_us")}
        row["macs"] = {name: 73 * macs for name, macs in row["macs"].items()}
        row |= {name: 13 * row[name] for name in ("bytes", "weight_bytes", "activation_bytes")}
        row["accuracy"] |= {f"head{number}.iou": 0.7 - row["lost"] / 4 for number in range(6)}
    operators = {f"Operator{number}": 60 - number for number in range(24)}
    for graph in document["graphs"].values():
        graph["operators"] = graph["operators"] | operators
    return document


def bare() -> Document:
    """The same without what may be absent, and little to draw: for what does not depend on it."""
    absent = ("calibration", "choice", "drift", "parity", "qat", "sensitivity", "tensorrt")
    document = {name: part for name, part in small().items() if name not in absent}
    return document | {"candidates": document["candidates"][:2]}


class Reader(HTMLParser):
    """Checks that the tags of a page close in the order in which they open, and gathers the rows of its tables."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("meta", "img", "br"):
            return
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] = f"{self.rows[-1][-1]} {data}"


def rows(page: str) -> list[list[str]]:
    reader = Reader()
    reader.feed(page.replace("<wbr>", ""))
    assert not reader.open
    return [[" ".join(cell.split()) for cell in row] for row in reader.rows]


def text(page: str) -> str:
    without = re.sub(r"<style>.*?</style>|<wbr>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", without))


def pictures(page: str) -> list[np.ndarray[Any, Any]]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    decoded = [cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR) for data in found]
    assert all(picture is not None for picture in decoded)
    return decoded


@pytest.fixture(scope="module")
def whole() -> str:
    return report_page(small())


def test_the_page_is_sound_carries_everything_inside_and_runs_nothing(whole: str) -> None:
    for request in ("<script", "http:", "https:", "url(", "@import", "<link"):
        assert request not in whole
    assert len(rows(whole)) > 30
    # The plan, parity of three graphs, drift of two, and sensitivity.
    drawn = pictures(whole)
    assert len(drawn) == 7
    assert all(picture.std() > 5 for picture in drawn)


def test_sections_answer_in_the_order_in_which_an_engineer_asks(whole: str) -> None:
    assert re.findall(r"<h2[^>]*>([^<]+)</h2>", whole) == [
        *("Precision plan", "Errors along a rollout", "Parity", "Sensitivity, layer by layer", "Graphs", "Calibration"),
        "Machine and versions",
    ]


def test_the_plan_names_every_candidate_and_marks_what_was_chosen(whole: str) -> None:
    plan = {row[0].partition(" ")[0]: row for row in rows(whole) if len(row) == 9 and row[0] != "graph"}

    assert list(plan) == [row["name"] for row in small()["candidates"]]
    assert {name for name, row in plan.items() if "✓ chosen" in row[0]} == {"int8_tensorrt", "int8_onnxruntime"}
    assert {name for name, row in plan.items() if "shipped" in row[0]} == {"fp32"}
    assert {name for name, row in plan.items() if row[3] == "✗ no"} == {"int8_dynamic_onnxruntime"}
    assert plan["int8_tensorrt"][1:] == [
        *("7 of 7", "0.21 digit: accuracy, hidden", "✓ yes", "340 kB", "330 kB", "120 kB"),
        *("4.00 M int8 100 k fp32", "29.6 µs estimated (2)"),
    ]
    assert plan["int8_onnxruntime"][8] == "131 µs p99 183 µs measured (1)"
    said = text(whole)
    assert f"(1) {HERE}. (2) {BOARD}." in said
    for made in small()["choice"].values():
        assert made["reason"] in said


def test_the_headline_says_what_was_chosen_and_compares_with_fp32(whole: str) -> None:
    said = text(whole)
    assert "For TensorRT it chose int8_tensorrt : 0.21 points of accuracy lost of the 0.50 allowed, 340 kB" in said
    assert "an estimated 29.6 µs a step, 2.07× as fast as FP32" in said
    assert "it chose int8_onnxruntime : no accuracy lost, 520 kB (40% of FP32), 131 µs a step, 1.80×" in said


def test_speed_is_compared_only_with_what_ran_in_the_same_place() -> None:
    document = bare() | {"choice": {"tensorrt": {"name": "fp16_tensorrt", "reason": "."}}}
    document["candidates"] = [row for row in small()["candidates"] if row["name"] in ("fp32", "fp16_tensorrt")]
    said = text(report_page(document))
    assert "an estimated 38.0 µs a step, 1.61× as fast as FP32" in said
    document["candidates"][0]["other_latencies"] = []
    said = text(report_page(document))
    assert "650 kB (50% of FP32), an estimated 38.0 µs a step. " in said
    assert "speed over FP32 –" in said


def test_scores_stand_beside_their_difference_from_fp32(whole: str) -> None:
    validation, test = (row for row in rows(whole) if row[0] == "int8_tensorrt" and len(row) == 4)
    assert validation[1:] == ["97.0% −0.07", "95.3% −0.21", "0.799 −0.10"]
    assert test[1:] == ["97.0% −0.07", "95.3% −0.21", "0.799 −0.10"]
    assert "97.1% 95.5% 0.800" in " ".join(next(row for row in rows(whole) if row[0] == "fp32" and len(row) == 4))


def test_parity_says_by_how_much_the_controls_failed_and_which_did_not() -> None:
    document, parity = bare(), small()["parity"]
    parity["graphs"]["fp32"] |= {"largest": 0.3, "controls": {"one weight nudged": {"largest": 1e-6, "typical": 3e-8}}}
    page = report_page(document | {"parity": parity})

    found = {row[0]: row[1:] for row in rows(page)}
    nudged = "0.4 1,000× the sound graph"
    assert found["one weight nudged"] == ["3×10⁻⁸ ✗ cannot be told from the sound graph", nudged, nudged]
    assert found["h and c swapped"] == ["–", "12 30,000× the sound graph", "12 30,000× the sound graph"]
    assert '<td class="over">0.3</td>' in page
    # A share is never rounded up to all of them.
    agreement = next(row for row in rows(page) if row[0] == "int8_onnxruntime" and "c_next" in row)[-2:]
    assert agreement == ["99.99%", "99.71%"]


def test_drift_says_whether_errors_grow() -> None:
    grows = {"step": list(range(100)), "outputs": [0.1] * 50 + [0.2] * 50, "h": [0.0] * 100}
    assert "second half over that of the first: outputs 2.00×." in text(
        report_page(bare() | {"drift": {"fp32": grows}})
    )


def test_operators_are_counted_as_exported_and_as_optimized(whole: str) -> None:
    found = {row[0]: row[1:] for row in rows(whole)}
    assert found["QLinearConv"] == ["–", "–", "–", "–", "–", "5"]
    assert found["together"] == ["18", "13", "52", "–", "29", "7"]
    sizes = next(row for row in rows(whole) if "tensorrt_rtx 1.7.1.116" in row)
    assert sizes[3:] == ["1.90 MB", "60", "320 kB", "100.00%", "210 ms"]


def test_sixty_layers_are_drawn_tall_enough_to_be_read() -> None:
    page = report_page(bare() | {"sensitivity": large()["sensitivity"]})
    height, width = pictures(page)[-1].shape[:2]
    # Shown 1048 pixels wide, a row of text needs about 20 of them.
    assert height * 1048 / width / 60 > 20
    assert "2 of 60 layers, kept from int8" in text(page)


def infected(value: Any) -> Any:
    """Return a document with a script in place of every text but those that are of a few kinds only."""
    if isinstance(value, dict):
        return {key: part if key in ("dialect", "kind") else infected(part) for key, part in value.items()}
    if isinstance(value, list):
        return [infected(part) for part in value]
    return HTML if isinstance(value, str) else value


def test_no_name_can_become_part_of_the_page() -> None:
    document = infected(small())
    graph, proof = document["graphs"]["fp32"], document["parity"]["graphs"]["fp32"]
    document["candidates"] = [document["candidates"][0] | {"accuracy": {HTML: 0.5, f"{HTML}.accuracy.{HTML}": 0.25}}]
    document["choice"] = {name: {"name": HTML, "reason": HTML} for name in ("tensorrt", HTML)}
    document["graphs"] = {HTML: graph | {"operators": {HTML: 1}}}
    document["parity"]["graphs"] = {HTML: proof | {"controls": {HTML: {"largest": 9.5, "typical": 9.0}}}}
    document["drift"] = {HTML: document["drift"]["int8_tensorrt"]}
    document["qat"]["after"] = {HTML: 0.5}
    document["versions"] = {HTML: HTML}

    page = report_page(document)

    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 30
    assert rows(page)
    assert len(pictures(page)) == 4


def test_what_may_be_absent_is_said_to_be(tmp_path: Path) -> None:
    write_report(bare(), tmp_path / "report.html")
    said = text((tmp_path / "report.html").read_text(encoding="utf-8"))
    for words in (
        *("Nothing was chosen", "No rollout was recorded", "No graph was compared", "there was no scan"),
        *("Nothing was calibrated", "No fine-tuning"),
    ):
        assert words in said


def test_a_report_without_candidates_or_graphs_has_nothing_to_draw() -> None:
    page = report_page(bare() | {"candidates": [], "graphs": {}})
    assert "No candidate was measured" in page
    assert not pictures(page)


NOTHING_RECORDED: dict[str, Any] = {"step": [], "outputs": []}
CURVES = {
    "a network without memory": {"step": [0, 1], "outputs": [0.1, 0.2], "h": [], "c": []},
    "nothing recorded": NOTHING_RECORDED,
    "one step": {"step": [0], "outputs": [0.1], "h": [0.1], "c": [0.1]},
    "exact": {"step": [0, 1], "outputs": [0.0, 0.0]},
    "no numbers": {"step": [0, 1, 2], "outputs": [None, math.nan, math.inf], "h": [1.0, math.nan, 0.0]},
    "far apart": {"step": [0, 1, 2], "outputs": [1e-300, 1.0, 1e30]},
}


@pytest.mark.parametrize("recorded", CURVES)
def test_every_curve_can_be_drawn(recorded: str) -> None:
    for resets, tolerance in (((), None), ((0, 1), 0.5), ((0,), 0.0)):
        assert curve_picture(CURVES[recorded], resets, tolerance).startswith(b"\x89PNG")


def test_numbers_of_nothing_do_not_break_the_page() -> None:
    document = bare() | {"budget": 0.0, "choice": {"tensorrt": {"name": "fp16_tensorrt", "reason": ""}}}
    for row in document["candidates"]:
        row |= {"lost": math.nan, "lost_most": "", "bytes": 0, "accuracy": {"digit.accuracy": None}}
        row["latency"] |= {"p50_us": 0.0, "p99_us": None}
    for graph in document["graphs"].values():
        graph |= {"optimized": {}, "agreement": {}}
    proof = small()["parity"]["graphs"]["fp32"]
    proof |= {"curve": NOTHING_RECORDED, "tolerance": 0.0, "typical_tolerance": 0.0, "typical": 0.0}
    proof["controls"] = {"nudged": {"largest": 0.1, "typical": 0.1}}
    layer = {"layer": "\ud800\x00\n$^{", "lost": math.nan, "score": "漢字", "weights": 0, "kept": True}

    page = report_page(
        document | {"parity": {"steps": 0, "resets": [], "graphs": {"fp32": proof}}, "sensitivity": [layer]}
    )

    assert "0.1 the sound graph: 0" in [row[1] for row in rows(page) if row[0] == "nudged"]
    assert len(pictures(page)) == 3
    for row in document["candidates"]:
        row["lost"] = 0.0
    assert len(pictures(report_page(document))) == 1


def test_a_report_survives_the_way_through_json(tmp_path: Path) -> None:
    document = bare()
    document["candidates"][0]["precision"] = "\ud800"
    destination = tmp_path / "new" / "digits.export_report.html"
    write_report(json.loads(json.dumps(document)), destination)
    assert destination.read_text(encoding="utf-8") == report_page(document).replace("\ud800", "?")
    assert list(destination.parent.iterdir()) == [destination]


@pytest.mark.parametrize("lost", ["candidates", "bundle", "started", "schema_version", "budget"])
def test_a_document_that_is_no_report_is_refused_by_what_it_lacks(lost: str, tmp_path: Path) -> None:
    document = bare()
    del document[lost]
    with pytest.raises(DataError, match=lost):
        write_report(document, tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_another_layout_or_a_choice_of_no_candidate_is_refused(tmp_path: Path) -> None:
    choice = {"choice": {"tensorrt": {"name": "int4", "reason": ""}}}
    for wrong, named in (({"schema_version": 2}, "schema_version 2"), (choice, "int4")):
        with pytest.raises(DataError, match=named):
            write_report(bare() | wrong, tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_leaves_the_old_page_and_nothing_half_written(tmp_path: Path) -> None:
    destination = tmp_path / "report.html"
    destination.write_text("the old page")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The system lets no file grow beyond this, so it refuses in the middle of the page.
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(ConfigError, match=re.escape(f"cannot write {destination}")):
            write_report(bare(), destination)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert destination.read_text() == "the old page"
    assert list(tmp_path.iterdir()) == [destination]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for destination in (tmp_path / "file" / "report.html", tmp_path):
        with pytest.raises(ConfigError, match=re.escape(f"cannot write {destination}")):
            write_report(bare(), destination)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}*"))


def test_numbers_have_the_digits_that_can_be_read() -> None:
    assert [significant(value) for value in (0.0, 4.1, 2300.4, 1.25e-6, -0.0123, 999.7)] == [
        *("0", "4.10", "2,300", "1.25×10⁻⁶", "−0.0123", "1,000"),
    ]
    times = (None, math.nan, 29.6, 999.7, 1250.0, 41.2e6)
    assert [duration(time) for time in times] == ["–", "–", "29.6 µs", "1.00 ms", "1.25 ms", "41.2 s"]
    assert [points(share) for share in (None, 0.0021, -0.0004, -1e-6)] == ["–", "0.21", "−0.04", "0.00"]


def test_scores_are_called_what_people_call_them() -> None:
    assert score_label("digit.accuracy.hidden_3") == "digit: accuracy, hidden ≤ 3"
    assert score_label("pose.mae") == "pose: mean absolute error"
    assert score_label("plain") == "plain"
