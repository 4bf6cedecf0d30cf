"""What is varied, one thing at a time: the points, the network behind each, and the cases that take turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edge_cnnlstm.errors import ConfigError

Mode = Literal["stream", "group", "window"]
Settings = Mapping[str, int]
GRAPHS = {"fp32": "fp32", "int8": "int8_onnxruntime"}
"""Which graph of a bundle each precision runs."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured, and of which `network`, a preset.

    A turn has `steps` timed calls of a case that costs what the preset does, and fewer of one that costs more.
    `threads` are the cores that one call may use; `seed` draws the order of the turns.
    """

    network: str = "small"
    rounds: int = 7
    steps: int = 300
    threads: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Sweep:
    """One thing varied over `points`, whose name in tables is `unit`.

    `varies` are the network's settings that it is; none where the network stays and `mode` says what a call is. The
    growth is fitted from `fitted_from` on: with an `offset`, as what is varied costs beside what is not, or without, as
    the whole cost grows.
    """

    name: str
    unit: str
    points: tuple[int, ...]
    varies: tuple[str, ...] = ()
    mode: Mode = "stream"
    offset: bool = True
    fitted_from: int = 1

    def settings(self, point: int) -> Settings:
        """Return what a point changes in the network."""
        return dict.fromkeys(self.varies, point)

    def cases(self) -> list[Case]:
        """Return what takes turns: every point in each precision, and one FP32 case twice.

        Beside windows that is the stream that they are measured against.
        """
        points = [Case(point, precision, self.mode) for precision in GRAPHS for point in self.points]
        if self.mode == "window":
            points += [Case(1, precision, "stream") for precision in GRAPHS]
            twice = Case(1, "fp32", "stream")
        else:
            twice = Case(self.points[len(self.points) // 2], "fp32", self.mode)
        return [*points, replace(twice, control=True)]


@dataclass(frozen=True, slots=True)
class Case:
    """One graph in a process of its own, which answers every call by `point` frames where its mode is not "stream".

    A `control` is another case once more: their ratio is what this machine makes of no difference.
    """

    point: int
    precision: str
    mode: Mode
    control: bool = False

    @property
    def name(self) -> str:
        """The case's name in every result."""
        return f"{self.precision} {self.mode} {self.point}{' control' if self.control else ''}"

    @property
    def frames(self) -> int:
        """Frames through the network in one call."""
        return 1 if self.mode == "stream" else self.point


SWEEPS = {
    sweep.name: sweep
    for sweep in (
        Sweep("input", "side of the frame, pixels", (32, 64, 96, 128, 160, 192, 224), ("height", "width")),
        Sweep("hidden", "hidden size", (32, 64, 128, 192, 256, 384, 512), ("hidden",)),
        # Without an LSTM layer another one stands there, so that the first is no step from none.
        Sweep("layers", "LSTM layers", (0, 1, 2, 3, 4, 8), ("layers",)),
        Sweep("streams", "streams in a batched step", (1, 2, 4, 8, 16), mode="group", offset=False),
        Sweep("window", "frames in the window", (1, 2, 4, 8, 16, 32), mode="window", offset=False),
    )
}


def chosen(words: Sequence[str]) -> list[Sweep]:
    """Return the sweeps that words such as `input` or `input=32,64,96` name; all of them for none.

    Raises ConfigError for a sweep that there is not, and for points that are not whole numbers, each once.
    """
    return [_chosen(word) for word in words] or list(SWEEPS.values())


def _chosen(word: str) -> Sweep:
    name, given, listed = word.partition("=")
    if name not in SWEEPS:
        raise ConfigError(f"sweep {name!r}", expected=f"one of {', '.join(SWEEPS)}", fix="choose one of these")
    sweep = SWEEPS[name]
    if not given:
        return sweep
    points = sorted({int(point) for point in listed.split(",") if point.strip().isdecimal()})
    least = min(sweep.points[0], 1)
    if len(points) != len(listed.split(",")) or len(points) < 2 or points[0] < least:
        raise ConfigError(
            f"points {listed!r} of sweep {name!r}",
            expected=f"two whole numbers of at least {least} or more, such as {name}=2,4",
            fix="list them with commas",
        )
    return replace(sweep, points=tuple(points))
