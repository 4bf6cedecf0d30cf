"""The demo report's pictures: PNG bytes out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from edge_cnnlstm.errors import SourceError
from edge_cnnlstm.report.ages import Histogram, frames_below, round_step
from edge_cnnlstm.report.drawing import (
    BLUE,
    INK,
    MUTED,
    SHADE,
    STYLE,
    VERMILION,
    Said,
    Still,
    answered_box,
    answered_label,
    beside,
    draw_still,
    png,
    strip,
    true_box,
    write_below,
)
from edge_cnnlstm.report.gather import TRUTH, VIDEO, Predicted, Run, Truth, scenes, unusable
from edge_cnnlstm.runtime.optional import load_cv2
from edge_cnnlstm.runtime.sources.video import open_capture

MEMORY, NO_MEMORY = BLUE, VERMILION
SHOTS = 10
AROUND = 3
"""Video frames of the strip before the digit is covered and after it comes out."""
HIDDEN_FRAMES = 4
"""The strip shows an occlusion of at least this many frames."""
BINS = 80
BOXES = "boxes: solid, the network says in sight; dashed, it says hidden; white, the truth"
LABEL_GAP = 0.2
"""Least distance between the labels of two curves, as a share of the accuracy axis."""


@dataclass(frozen=True, slots=True)
class Shot:
    """A video frame cropped to its central square, RGB uint8 [side, side, 3], what it shows and what was said of it.

    `left` and `top` are where the square begins in the frame, in pixels.
    """

    frame: int
    pixels: NDArray[np.uint8]
    left: int
    top: int
    truth: Truth
    prediction: Predicted | None


@dataclass(frozen=True, slots=True)
class Pictures:
    """PNG files; `strip_narrow` is the strip for a narrow screen, `preview` the picture for a README."""

    strip: bytes
    strip_narrow: bytes
    across: bytes
    latency: bytes
    preview: bytes


def pictures(run: Run, facts: dict[str, Any]) -> Pictures:
    """Draw everything. Raises DataError when the video cannot be read or hides no digit for long enough."""
    shots = read_shots(run, strip_frames(run))
    histogram = run.stream.age_histogram_ns
    with mpl.rc_context(STYLE):
        return Pictures(
            strip=_strip(shots, columns=5),
            strip_narrow=_strip(shots, columns=2),
            across=_across(facts["across_occlusion"]),
            latency=_latency(facts["stream"], histogram),
            preview=_preview(shots, facts, histogram),
        )


def strip_frames(run: Run) -> list[int]:
    """Return evenly spaced frames around the first occlusion: in sight, hidden for a while, in sight again."""
    for scene in scenes(run.truth):
        for visible, group in groupby(scene, key=lambda index: run.truth[index].visible):
            frames = list(group)
            if visible or len(frames) < HIDDEN_FRAMES or frames[0] == scene[0] or frames[-1] == scene[-1]:
                continue
            first, last = max(scene[0], frames[0] - AROUND), min(scene[-1], frames[-1] + AROUND)
            return sorted({round(at) for at in np.linspace(first, last, SHOTS).tolist()})
    raise unusable(
        run.folder, TRUTH, f"no digit that is in sight, hidden for {HIDDEN_FRAMES} frames, and in sight again"
    )


def read_shots(run: Run, frames: Sequence[int]) -> list[Shot]:
    """Decode the given frames of the video, in ascending order."""
    cv2 = load_cv2()
    try:
        capture = open_capture(str(run.folder / VIDEO))
    except SourceError as error:
        raise unusable(run.folder, VIDEO, error.found) from error
    shots = []
    for index in range(frames[-1] + 1):
        read, image = capture.read()
        if not read:
            raise unusable(run.folder, VIDEO, f"ends after {index} frames; {TRUTH} describes {len(run.truth)}")
        if index in frames:
            shots.append(_shot(run, index, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)))
    capture.release()
    return shots


def _shot(run: Run, index: int, image: NDArray[np.uint8]) -> Shot:
    height, width = image.shape[:2]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    square = image[top : top + side, left : left + side]
    return Shot(index, square, left, top, run.truth[index], run.predictions.get(index))


def _strip(shots: Sequence[Shot], *, columns: int) -> bytes:
    return png(strip(list(map(_still, shots)), columns=columns), dpi=120)


def _still(shot: Shot) -> Still:
    """Return the frame with both boxes, and what the network named."""
    x, y, width, height = shot.truth.box
    boxes = [true_box(x - width / 2 - shot.left, y - height / 2 - shot.top, width, height)]
    line = Said("no answer", MUTED, bold=False)
    if shot.prediction is not None:
        digit, target = shot.prediction.digit, shot.prediction.target
        left, top, width, height = target.box
        boxes.append(answered_box(left - shot.left, top - shot.top, width, height, target.presence))
        line = answered_label(digit.label, digit.score, right=digit.label == shot.truth.label)
    return Still(f"frame {shot.frame}", shot.pixels, tuple(boxes), (line,), hidden=not shot.truth.visible)


def _across(across: dict[str, Any]) -> bytes:
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    _draw_across(figure.add_subplot(), across)
    return png(figure, dpi=200)


def _draw_across(axes: Axes, across: dict[str, Any]) -> None:
    frames = across["frames"]
    axes.axvspan(0, frames[-1], color=SHADE, lw=0)
    beside(axes, (0, 1.04), "occlusion begins", 5, color=MUTED, fontsize="small", va="bottom")
    ends = []
    for name, said, colour, style in (
        ("fp32", "CNN-LSTM", MEMORY, "o-"),
        ("cnn_only", "CNN without\nmemory", NO_MEMORY, "s-"),
    ):
        values = np.array(across[name], float)
        axes.plot(frames, values, style, color=colour, lw=2.4, ms=5, clip_on=False)
        known = values[~np.isnan(values)]
        ends.append((known[-1] if len(known) else 0.5, said, colour))
    lower, upper = sorted(ends)
    for height, said, colour in (lower, (max(upper[0], lower[0] + LABEL_GAP), *upper[1:])):
        beside(axes, (frames[-1], height), said, 14, color=colour, va="center", weight="bold")
    if across["chance"] is not None:
        axes.axhline(across["chance"], color=MUTED, lw=1.2, ls=(0, (4, 3)))
        guessing = f"guessing: {across['chance']:.0%}"
        beside(axes, (frames[0], across["chance"] + 0.02), guessing, 5, color=MUTED, fontsize="small", va="bottom")
    axes.set(xlim=(frames[0], frames[-1]), ylim=(0, 1.12), yticks=np.linspace(0, 1, 5))
    axes.spines["left"].set_bounds(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="frames since the digit was first hidden", ylabel="accuracy per frame")


def _latency(stream: dict[str, Any], histogram: Histogram) -> bytes:
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    _draw_latency(figure.add_subplot(), stream, histogram)
    return png(figure, dpi=200)


def _draw_latency(axes: Axes, stream: dict[str, Any], histogram: Histogram) -> None:
    """Draw the histogram up to a little beyond p99; what lies further right is said in words."""
    axes.set(xlabel="age of the frame at decision, ms")
    axes.spines["left"].set_visible(False)
    if not histogram:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "no frame was predicted", transform=axes.transAxes, ha="center", color=MUTED)
        return
    p50, p99, largest = (stream["age_ms"][name] for name in ("p50", "p99", "max"))
    deadline, near = stream["deadline_ms"], deadline_in_view(stream)
    end = max(1.5 * p99, 1.1 * deadline if near else 0)
    width = round_step(end / BINS)
    edges = np.arange(math.ceil(end / width) + 1) * width
    counts = np.diff(frames_below(histogram, edges))
    axes.stairs(counts, edges, fill=True, color=MEMORY)
    top = float(counts.max())
    axes.set(xlim=(0, edges[-1]), ylim=(0, 1.5 * top), ylabel=f"frames per {width:g} ms")
    axes.set_yticks([tick for tick in MaxNLocator(4, integer=True).tick_values(0, top) if tick <= top])
    _mark(axes, p50, 1.35 * top, f"p50  {p50:.2f} ms", INK)
    _mark(axes, p99, 1.18 * top, f"p99  {p99:.2f} ms", INK)
    notes = []
    if beyond := round(sum(count for _, count in histogram) - float(counts.sum())):
        notes.append(f"{beyond} later, up to {largest:.1f} ms →")
    if near:
        _mark(axes, deadline, 1.5 * top, f"deadline  {deadline:.1f} ms", NO_MEMORY, ha="right")
    elif deadline is not None:
        notes.append(f"deadline {deadline:.1f} ms →")
    write_below(
        axes,
        0.995,
        0.6,
        "\n".join(notes),
        ha="right",
        color=MUTED,
        fontsize="small",
        linespacing=1.5,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )


def _mark(axes: Axes, value: float, height: float, said: str, colour: str, *, ha: str = "left") -> None:
    """Draw a line up to a height of its own, and beside its top a label that no other line runs through."""
    axes.vlines(value, 0, height, color=colour, lw=1.6)
    gap = 6 if ha == "left" else -6
    backed = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    beside(axes, (value, height), said, gap, ha=ha, va="top", color=colour, weight="bold", bbox=backed)


def deadline_in_view(stream: dict[str, Any]) -> bool:
    """Whether the deadline is near enough to the latencies to be drawn beside them."""
    deadline, p99 = stream["deadline_ms"], stream["age_ms"]["p99"]
    return deadline is not None and p99 is not None and deadline <= 3 * p99


def _preview(shots: Sequence[Shot], facts: dict[str, Any], histogram: Histogram) -> bytes:
    with mpl.rc_context({"font.size": 15}):
        figure = Figure(figsize=(16, 7))
        figure.text(0.02, 0.95, "Out of sight, not out of mind", fontsize=24, weight="bold", va="center")
        figure.text(0.98, 0.945, _headline(facts), color=MUTED, va="center", ha="right")
        cells = figure.add_gridspec(1, len(shots), left=0.02, right=0.98, bottom=0.655, top=0.86, wspace=0.07)
        for position, shot in enumerate(shots):
            draw_still(figure.add_subplot(cells[position]), _still(shot))
        figure.text(0.5, 0.58, BOXES, color=MUTED, fontsize="small", va="center", ha="center")
        below = figure.add_gridspec(1, 2, left=0.075, right=0.98, bottom=0.115, top=0.465, wspace=0.46)
        across, latency = figure.add_subplot(below[0]), figure.add_subplot(below[1])
        _draw_across(across, facts["across_occlusion"])
        _draw_latency(latency, facts["stream"], histogram)
        for axes, said in ((across, "Accuracy across the occlusion"), (latency, _latency_title(facts))):
            axes.set_title(said, loc="left", weight="bold", fontsize="medium", pad=8)
        return png(figure, dpi=100)


def _latency_title(facts: dict[str, Any]) -> str:
    return f"Latency, {facts['stream']['backend']} on {facts['machine']['cpu'] or 'this CPU'}"


def _headline(facts: dict[str, Any]) -> str:
    accuracy = facts["accuracy"]
    return (
        f"hidden digits named right: {accuracy['fp32']['hidden']:.1%} by the CNN-LSTM, "
        f"{accuracy['cnn_only']['hidden']:.1%} by the CNN without memory"
    )
