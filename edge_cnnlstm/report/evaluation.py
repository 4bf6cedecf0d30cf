"""An evaluation as a page: scores, tables, curves and the clips that went worst."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.report import curves
from edge_cnnlstm.report.drops import under_load
from edge_cnnlstm.report.film import film_strip
from edge_cnnlstm.report.page import page
from edge_cnnlstm.report.scores import conditions, main_scores, rows, shown, titled

CONFUSIONS = 10
FEW_LABELS = 20
"""Of more labels the per-class table begins with the worst, and the most frequent confusions are listed."""

Films = Mapping[str, Mapping[str, NDArray[np.uint8]]]
"""By network and by clip, the frames that its film names, uint8 [shown, height, width, 3]."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image file, and what it shows."""

    title: str
    image: bytes
    caption: str


@dataclass(frozen=True, slots=True)
class Chapter:
    """One head of one network."""

    name: str
    said: str
    pictures: tuple[Picture, ...]
    classes: tuple[dict[str, Any], ...]
    confusions: tuple[tuple[str, str, int], ...]
    worst: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What becomes of the networks when frames come too fast: a picture, the scores' names, and rows of them."""

    picture: Picture
    scores: tuple[str, ...]
    rows: tuple[tuple[str, Mapping[str, Any], tuple[str, ...]], ...]
    empties: bool


def evaluation_page(document: Mapping[str, Any], films: Films) -> str:
    """Return the page for what `edge-cnnlstm evaluate` found, and the frames of the clips that went worst."""
    networks = document["networks"]
    compared = _compared(networks)
    return page(
        "evaluation.html.j2",
        document=document,
        conditions=conditions(networks),
        rows=rows(networks),
        headline=[(head, name, value) for name, network in networks.items() for head, value in _headline(network)],
        compared=compared,
        loaded=_loaded(document),
        chapters={
            name: [
                _chapter(head, network, strips, lines=head not in compared)
                for strips in [_strips(network, films[name])]
                for head in network["heads"]
            ]
            for name, network in networks.items()
        },
    )


def _loaded(document: Mapping[str, Any]) -> Loaded | None:
    """Return the section about frames that come too fast, where `--drop` was asked for."""
    if "drops" not in document:
        return None
    networks, main = document["drops"]["networks"], main_scores(document["networks"])
    caption = (
        "Every frame is judged by the latest answer at the end of its period. "
        "Columns are policies, rows scores; a dashed line is the same network with its other memory."
    )
    return Loaded(
        Picture("Frames that come too fast", under_load(networks, main), caption),
        tuple(map(titled, main)),
        tuple(
            (name, row, tuple(shown(base, row["scores"].get(base)) for base in main))
            for name, found in networks.items()
            for row in found
        ),
        any(row["memory"] == "emptied" for found in networks.values() for row in found),
    )


def _headline(network: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the score that says most about each head."""
    return [(titled(base), shown(base, network["scores"][base])) for base in main_scores({"": network})]


def _strips(network: Mapping[str, Any], frames: Mapping[str, NDArray[np.uint8]]) -> dict[str, bytes]:
    """Return the film strip of each clip: one clip may be the worst for several heads."""
    return {clip: film_strip(film, network["heads"], frames[clip]) for clip, film in network["film"].items()}


def _chapter(name: str, network: Mapping[str, Any], strips: Mapping[str, bytes], *, lines: bool) -> Chapter:
    """Return the chapter of a head; without `lines` when its curves are drawn elsewhere, beside another network's."""
    head = network["heads"][name]
    worst = [
        Picture(
            f"clip {row['clip']}" + (f", {film['name']}" if film["name"] else ""),
            strips[str(row["clip"])],
            f"{_COST[head['task']]} {row['loss']:.3g}",
        )
        for row in head["worst"]
        for film in [network["film"][str(row["clip"])]]
    ]
    classify = head["task"] == "classify"
    return Chapter(
        name=name,
        said=_said(head),
        pictures=(*_PICTURES[head["task"]](head), *(_LINES[head["task"]]({name: head}) if lines else ())),
        classes=tuple(_ordered(head["classes"])) if classify else (),
        confusions=tuple(_confusions(head)) if classify and len(head["labels"]) > FEW_LABELS else (),
        worst=tuple(worst),
    )


_COST = {
    "classify": "mean cross-entropy",
    "regress": "mean error, in units of the head's spread,",
    "track": "1 − mean IoU",
}


def _said(head: Mapping[str, Any]) -> str:
    when = ", asked at each clip's last known frame" if head["per"] == "clip" else ", asked at every frame"
    count = len(head["labels"])
    what = {
        "classify": f"classify, {count} labels",
        "regress": f"regress, {count} value{'s' * (count != 1)}",
        "track": "track",
    }
    return what[head["task"]] + when


def _compared(networks: Mapping[str, Any]) -> dict[str, list[Picture]]:
    """Return the curves of heads that several networks have, by the name of the head."""
    found = {}
    for name in dict.fromkeys(name for network in networks.values() for name in network["heads"]):
        same = {network: each["heads"][name] for network, each in networks.items() if name in each["heads"]}
        tasks = {head["task"] for head in same.values()}
        if len(same) > 1 and len(tasks) == 1:
            found[name] = _LINES[tasks.pop()](same)
    return {name: pictures for name, pictures in found.items() if pictures}


def _ordered(classes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the per-class table, the worst first when they are many."""
    if len(classes) <= FEW_LABELS:
        return classes
    return sorted(classes, key=lambda row: 2.0 if row["support"] == 0 else row["f1"] or 0.0)


def _confusions(head: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Return the wrong answers given most often: true label, answer, how often."""
    wrong = np.array(head["confusion"])
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
    cells = [(int(at) // len(wrong), int(at) % len(wrong)) for at in order]
    labels = head["labels"]
    return [(labels[true], labels[said], int(wrong[true, said])) for true, said in cells if wrong[true, said]]


def _classify(head: Mapping[str, Any]) -> list[Picture]:
    pictures = [
        Picture(
            "Confusion",
            curves.confusion(head["labels"], head["confusion"]),
            "Rows are true labels, columns answers; the darker, the larger the share of its row.",
        ),
        Picture(
            "Calibration",
            curves.reliability(head["reliability"]),
            "How often answers of each probability are right. Below the dashed line the network is too sure.",
        ),
    ]
    if head["roc"] is not None:
        pictures.append(Picture("ROC", curves.roc(head["roc"]), "Each label against the rest, by its probability."))
    return pictures


def _classify_lines(heads: Mapping[str, Mapping[str, Any]]) -> list[Picture]:
    pictures = []
    if early := _present(heads, "early"):
        caption = "Accuracy once a fraction of each clip has been seen: the higher on the left, the earlier it knows."
        pictures.append(Picture("Early prediction", curves.early(early), caption))
    if across := _present(heads, "across"):
        caption = "Clips lined up at the first frame in which the target is hidden. With memory the curve stays flat."
        pictures.append(Picture("Accuracy across the occlusion", curves.across(across, "accuracy"), caption))
    return pictures


def _regress(head: Mapping[str, Any]) -> list[Picture]:
    return [
        Picture(
            f"{value['label']}: predicted and true",
            curves.predicted(value["label"], value["points"]),
            f"{len(value['points'])} of {value['count']} values; their mean error is {value['bias']:.3g}. "
            "Right is on the dashed line.",
        )
        for value in head["values"]
        if value["count"]
    ]


def _track_lines(heads: Mapping[str, Mapping[str, Any]]) -> list[Picture]:
    pictures = []
    sizes = {head["precision_px"] for head in heads.values()}
    pixels = sizes.pop() if len(sizes) == 1 else None
    success, precision = _present(heads, "success"), _present(heads, "precision")
    if success and precision:
        pictures += [
            Picture("Success", curves.success(success), "Frames whose box overlaps the true one by more than this."),
            Picture(
                "Precision",
                curves.precision(precision, pixels),
                "Frames whose centre is this near to the true one. The score is read at a twentieth of the diagonal of "
                "the network's frame" + (f", {pixels:.1f} px." if pixels is not None else "."),
            ),
        ]
    if across := _present(heads, "across"):
        caption = "Clips lined up at the first frame in which the target is hidden."
        pictures.append(Picture("Centre error across the occlusion", curves.across(across, "centre_error_px"), caption))
    if since := _present(heads, "since_hidden"):
        caption = "Mean over all frames in which the target has been hidden for so long."
        pictures.append(Picture("Centre error while hidden", curves.since_hidden(since), caption))
    return pictures


def _present(heads: Mapping[str, Mapping[str, Any]], curve: str) -> dict[str, Any]:
    return {name: head[curve] for name, head in heads.items() if head[curve]}


_PICTURES: dict[str, Callable[[Mapping[str, Any]], list[Picture]]] = {
    "classify": _classify,
    "regress": _regress,
    "track": lambda _: [],
}
"""What is drawn of one network alone."""
_LINES: dict[str, Callable[[Mapping[str, Mapping[str, Any]]], list[Picture]]] = {
    "classify": _classify_lines,
    "regress": lambda _: [],
    "track": _track_lines,
}
"""What is drawn of one network or of several in one picture."""
