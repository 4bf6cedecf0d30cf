"""An evaluation's plain data and frames become one page that carries everything inside."""

from __future__ import annotations

import base64
import re
from typing import Any

import cv2
import numpy as np
import pytest

from edge_cnnlstm.report import curves
from edge_cnnlstm.report.drawing import shortened
from edge_cnnlstm.report.evaluation import CONFUSIONS, evaluation_page
from edge_cnnlstm.report.scores import NOTHING, conditions, rows

HTML = "<script>alert('$x$')</script>"


def classify(labels: list[str], *, per: str = "frame") -> dict[str, Any]:
    count = len(labels)
    confusion = [[3 if row == column else (row + column) % 2 for column in range(count)] for row in range(count)]
    return {
        "task": "classify",
        "labels": labels,
        "per": per,
        "confusion": confusion,
        "classes": [
            {
                "label": label,
                "support": number,
                "precision": None if number == 0 else 0.5,
                "recall": 0.25,
                "f1": 1 / (number + 1),
            }
            for number, label in enumerate(labels)
        ],
        "reliability": [
            {"confidence": 0.4, "accuracy": 0.5, "count": 3},
            {"confidence": 0.9, "accuracy": 1.0, "count": 9},
        ],
        "roc": {"false_positive_rate": [0, 0.5, 1], "mean": [0, 0.9, 1], "labels": {labels[0]: [0, 0.8, 1]}},
        "early": {"fraction": [0.5, 1.0], "accuracy": [0.2, None]},
        "across": {"frames": [-1, 0, 1], "accuracy": [1.0, 0.5, None]},
        "worst": [{"clip": 0, "loss": 2.5}],
    }


def track() -> dict[str, Any]:
    return {
        "task": "track",
        "labels": [],
        "per": "frame",
        "precision_px": 3.2,
        "success": {"threshold": [0, 0.5, 1], "share": [1.0, 0.5, 0.0]},
        "precision": {"threshold_px": [0, 4, 8], "share": [0.0, 0.5, 1.0]},
        "across": None,
        "since_hidden": [{"hidden_for": 1, "frames": 2, "centre_error_px": 1.0}],
        "worst": [{"clip": 0, "loss": 0.5}],
    }


def regress() -> dict[str, Any]:
    values = [{"label": HTML, "count": 2, "bias": 0.1, "points": [[1.0, 1.5], [2.0, 1.8]]}]
    return {"task": "regress", "labels": [HTML], "per": "frame", "values": values, "worst": []}


ANSWERS: dict[str, dict[str, Any]] = {
    "classify": {"truth": [None, "a"], "answer": ["a", HTML], "probability": [0.5, 0.9]},
    "track": {
        "truth": [[None] * 4, [0.5, 0.5, 0.2, 0.2]],
        "visible": [None, 1.0],
        "answer": [[0.5, 0.5, 0.2, 0.2]] * 2,
        "presence": [0.1, 0.9],
    },
    "regress": {"truth": [[None], [1.0]], "answer": [[2.0], [3.0]]},
}


def network(scores: dict[str, float], **heads: dict[str, Any]) -> dict[str, Any]:
    film = {
        "name": HTML,
        "frames": [0, 7],
        "conditions": {"hidden": [False, True]},
        "heads": {name: ANSWERS[head["task"]] for name, head in heads.items()},
    }
    shared = {"clips": 1, "frames": 8, "conditions": ["visible", "hidden", "hidden_3"]}
    return {**shared, "scores": scores, "heads": heads, "film": {"0": film}}


def page(**networks: dict[str, Any]) -> str:
    made = {
        name: {"data_digest": "ab" * 32, "trained_on": None, "trained_at": None, "recipe": HTML} for name in networks
    }
    document = {
        "split": "test",
        "written": "2026-01-01T10:20:30+00:00",
        "networks": networks,
        "made_with": {"networks": made, "commit": None, "versions": {"python": "3"}, "machine": {"cpu": None}},
    }
    pixels = np.random.default_rng(0).integers(0, 256, (2, 24, 32, 3), dtype=np.uint8)
    return evaluation_page(document, {name: {"0": pixels} for name in networks})


def pictures(html: str) -> list[np.ndarray[Any, Any]]:
    found = re.findall(r'src="data:image/(?:png|jpeg);base64,([^"]+)"', html)
    return [cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR) for data in found]


@pytest.fixture(scope="module")
def whole() -> str:
    scores = {
        "digit.accuracy": 0.91,
        "digit.accuracy.hidden": 0.5,
        "where.iou": 0.75,
        "pose.mae": 1234.4,
        "pose.r2": -0.25,
    }
    return page(**{HTML: network(scores, digit=classify(["a", HTML]), where=track(), pose=regress())})


def test_the_page_carries_everything_inside_and_runs_nothing(whole: str) -> None:
    for request in ("<script", "http:", "https:", "url(", "@import", "<link"):
        assert request not in whole
    assert whole.count("&lt;script&gt;") > 5
    # Confusion, calibration, ROC, early, across; success, precision, since hidden; predicted; and three strips, of
    # which the one without worst clips is not shown.
    drawn = pictures(whole)
    assert len(drawn) == 11
    assert all(picture is not None and picture.std() > 5 for picture in drawn)


def test_scores_stand_under_their_conditions(whole: str) -> None:
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", whole))
    assert "digit accuracy 91.0% – 50.0% –" in text
    assert "where mean IoU 0.750 – – –" in text
    assert "pose mean absolute error 1234 – – –" in text
    assert "hidden ≤ 3" in text


def test_two_networks_share_curves_and_one_table() -> None:
    html = page(
        one=network({"digit.accuracy": 0.9, "where.iou": 0.5}, digit=classify(["a", "b"]), where=track()),
        two=network({"digit.accuracy": 0.4, "pose.mae": 2.0}, digit=classify(["a", "b"]), pose=regress()),
    )

    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))
    assert "digit accuracy one 90.0%" in text
    assert "two 40.0%" in text
    assert html.count('alt="Early prediction"') == 1
    assert html.count('alt="Success"') == 1
    assert html.count('alt="Confusion"') == 2


def test_many_labels_stay_readable() -> None:
    labels = [f"action number {number}" for number in range(101)]
    html = page(net=network({"action.top5": 0.5}, action=classify(labels, per="clip")))

    assert "Most frequent confusions" in html
    table = html[html.index("Label by label") : html.index("Most frequent")]
    first = re.findall(r'<th scope="row">([^<]+)</th>', table)
    assert len(first) == 101
    assert first[0] == labels[100]  # the worst first
    assert html[html.index("Most frequent") :].count("<tr>") == CONFUSIONS + 1
    assert "asked at each clip&#39;s last known frame" in html


def test_rows_put_each_network_under_each_score() -> None:
    networks = {
        "a": network({"x.accuracy": 0.5, "x.accuracy.hidden": 0.25, "y.mae": 1.5, "y.mae.left.right": 2.0}),
        "b": network({"x.accuracy": 1.0}),
    }

    found = [(row.head, row.score, row.network, row.values) for row in rows(networks)]

    assert conditions(networks) == ["visible", "hidden", "hidden_3"]
    assert found == [
        ("x", "accuracy", "a", ("50.0%", NOTHING, "25.0%", NOTHING)),
        ("x", "accuracy", "b", ("100.0%", NOTHING, NOTHING, NOTHING)),
        ("y", "mean absolute error", "a", ("1.5", NOTHING, NOTHING, NOTHING)),
        ("y", "mean absolute error, left.right", "a", ("2", NOTHING, NOTHING, NOTHING)),
    ]


def test_equal_values_can_be_drawn() -> None:
    assert curves.predicted("constant", [[1.0, 1.0]]).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("text", "length", "fits"), [("short", 5, "short"), ("action 101", 7, "act…101"), ("ab", 1, "…")]
)
def test_a_long_name_loses_its_middle(text: str, length: int, fits: str) -> None:
    assert shortened(text, length) == fits
