"""What every picture shares, drawn by matplotlib without a display: style, stills with boxes, files out.

Colours are Okabe and Ito's, which people with any colour vision tell apart; nothing is said by colour alone.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

INK, MUTED, SHADE = "#1d2733", "#5b6875", "#e3e8ee"
BLUE, VERMILION, SKY, GREEN, ORANGE, PURPLE = "#0072b2", "#d55e00", "#56b4e9", "#009e73", "#e69f00", "#cc79a7"
RIGHT, WRONG, BOX = BLUE, VERMILION, SKY
SERIES = ((BLUE, "o-"), (VERMILION, "s-"), (GREEN, "^-"), (PURPLE, "D-"), (ORANGE, "v-"), (INK, "P-"))
"""Colour and style of each curve in one picture."""
STYLE: dict[Any, Any] = {  # the keys' type differs between versions of matplotlib
    "font.family": "DejaVu Sans",
    "font.size": 13,
    "text.color": INK,
    "text.parse_math": False,  # a label may hold a dollar sign
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}
LINE_SHARE = 0.115
"""Height of a line under a still, as a share of the still's width."""
IN_SIGHT = 0.5
"""Presence from which the network says that the target is in sight."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels of the still: left, top, width, height."""

    left: float
    top: float
    width: float
    height: float
    colour: str
    line: float
    style: Any = "-"


@dataclass(frozen=True, slots=True)
class Said:
    """A line of text under a still."""

    text: str
    colour: str
    bold: bool = True


@dataclass(frozen=True, slots=True)
class Still:
    """One frame with everything that is drawn on it; `hidden` shades its surround and says so in a word."""

    title: str
    pixels: NDArray[Any]
    boxes: tuple[Box, ...]
    lines: tuple[Said, ...]
    hidden: bool = False


def true_box(left: float, top: float, width: float, height: float) -> Box:
    """Return the box of the truth: thin and white."""
    return Box(left, top, width, height, "white", 1.2)


def answered_box(left: float, top: float, width: float, height: float, presence: float) -> Box:
    """Return the box of an answer: solid when the network says in sight, dashed when it says hidden."""
    return Box(left, top, width, height, BOX, 2.6, "-" if presence >= IN_SIGHT else (0, (3, 2)))


def answered_label(label: str, probability: float, *, right: bool | None) -> Said:
    """Return the line for a label; `right` is None where the truth is not known."""
    mark, colour = {True: ("✓ ", RIGHT), False: ("✗ ", WRONG), None: ("", INK)}[right]
    return Said(f"{label} {mark}{probability:.0%}", colour)


def draw_still(axes: Axes, still: Still) -> None:
    """Draw a still, made for axes whose width is 2 inches or so; the shade spans title and lines."""
    axes.imshow(still.pixels)
    axes.set_axis_off()
    # Boxes reach beyond the picture now and then, and must not stretch it.
    axes.autoscale(enable=False)
    axes.set_title(still.title, fontsize="small", color=MUTED, pad=4)
    flat = still.pixels.shape[1] / still.pixels.shape[0]
    if still.hidden:
        below = (0.06 + LINE_SHARE * len(still.lines)) * flat
        shade = Rectangle((-0.047, -below), 1.094, 1 + below + 0.145 * flat, color=SHADE, lw=0, clip_on=False)
        shade.set_transform(axes.transAxes)
        shade.set_zorder(-1)
        axes.add_artist(shade)
        write_below(axes, 0.04, 0.96, "hidden", ha="left", color="white", fontsize="small", path_effects=[_outline(2)])
    for box in still.boxes:
        drawn = Rectangle((box.left, box.top), box.width, box.height, fill=False, color=box.colour)
        drawn.set(lw=box.line, ls=box.style, path_effects=[_outline(box.line + 1.6)])
        axes.add_patch(drawn)
    for number, line in enumerate(still.lines):
        weight = "bold" if line.bold else "normal"
        low = (-0.03 - LINE_SHARE * number) * flat
        write_below(axes, 0.5, low, line.text, ha="center", color=line.colour, weight=weight)


def write_below(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Write below a point given in 0..1 of the axes."""
    axes.text(x, y, text, transform=axes.transAxes, va="top", **style)


def beside(axes: Axes, point: tuple[float, float], text: str, gap: float, **style: Any) -> None:
    """Write beside a point, `gap` typographic points to its right."""
    axes.annotate(text, point, (gap, 0), textcoords="offset points", annotation_clip=False, **style)


def shortened(text: str, length: int) -> str:
    """Return a name without its middle, so that it fits; names often differ at their ends alone."""
    kept = length - 1
    return text if len(text) <= length else f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"


def png(figure: Figure, *, dpi: int) -> bytes:
    """Return a figure as a PNG file."""
    return _file(figure, format="png", dpi=dpi)


def jpeg(figure: Figure, *, dpi: int) -> bytes:
    """Return a figure as a JPEG file: a fraction of the bytes where it is made of photographs."""
    return _file(figure, format="jpeg", dpi=dpi, pil_kwargs={"quality": 82, "subsampling": 0})


def strip(stills: Sequence[Still], *, columns: int) -> Figure:
    """Return a figure of stills, which are all of one size and have equally many lines, in rows."""
    rows = math.ceil(len(stills) / columns)
    height, width = stills[0].pixels.shape[:2]
    more = LINE_SHARE * (len(stills[0].lines) - 1)
    inches = 2.0 * height / width
    figure = Figure(figsize=(2.2 * columns, rows * (inches + 0.8 + 2 * more)))
    whole = figure.get_figheight()
    figure.subplots_adjust(left=0.1 / 2.2 / columns, right=1 - 0.1 / 2.2 / columns, wspace=0.09)
    figure.subplots_adjust(bottom=(0.4 + 2 * more) / whole, top=1 - 0.32 / whole, hspace=(0.72 + 2 * more) / inches)
    for position, still in enumerate(stills):
        draw_still(figure.add_subplot(rows, columns, position + 1), still)
    return figure


def _outline(line: float) -> withStroke:
    return withStroke(linewidth=line, foreground="#000000aa")


def _file(figure: Figure, **how: Any) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        # A label in a script that the font lacks is drawn as boxes; the page itself shows it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(file, facecolor="white", **how)
    return file.getvalue()
