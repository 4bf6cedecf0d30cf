"""Box annotations of videos, from CSV or JSON, brought to the network's frame with the very geometry of the frames."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, model_validator

from edge_cnnlstm.errors import DataError
from edge_cnnlstm.runtime.fit import Fit
from edge_cnnlstm.training.config import Section, nearest
from edge_cnnlstm.training.data.decode import VIDEO_SUFFIXES, open_footage
from edge_cnnlstm.training.data.layouts import Item, group_in, read_lines, read_text
from edge_cnnlstm.training.data.settings import BoxesConfig
from edge_cnnlstm.training.data.tracks import Annotations, Track

TOLERANCE = 1e-3
"""A box may reach this many pixels out of its frame: the sum of two rounded numbers does."""

FARTHEST = 1e6
"""Pixels are written with smaller numbers than this."""

EmptyIsNone = BeforeValidator(lambda value: None if value == "" else value)
Edge = Annotated[Annotated[float, Field(ge=-FARTHEST, le=FARTHEST)] | None, EmptyIsNone]
Side = Annotated[Annotated[float, Field(gt=0, le=FARTHEST)] | None, EmptyIsNone]


class Row(Section):
    """One line: where the target is in one frame of one video, in pixels."""

    video: str = Field(min_length=1)
    frame: int = Field(ge=0, lt=2**31)
    x: Edge
    y: Edge
    width: Side
    height: Side
    visible: bool

    @model_validator(mode="after")
    def _whole(self) -> Row:
        numbers = (self.x, self.y, self.width, self.height)
        if any(number is None for number in numbers) and (self.visible or any(n is not None for n in numbers)):
            raise ValueError("a box needs x, y, width and height; only one that is out of sight may lack all four")
        return self

    @property
    def edges(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom in pixels, NaN where no box is given."""
        if self.x is None or self.y is None or self.width is None or self.height is None:
            return (np.nan,) * 4
        return self.x, self.y, self.x + self.width, self.y + self.height


COLUMNS = tuple(Row.model_fields)


def annotated_videos(config: BoxesConfig, fit: Fit) -> list[Item]:
    """List the annotated videos; raises DataError for a line that does not fit its video.

    A video that cannot be decoded has no annotations here when such are skipped.
    """
    by_video: dict[str, dict[int, Row]] = {}
    file = config.root / config.annotations
    for where, row in _rows(file):
        rows = by_video.setdefault(_inside(row.video, where), {})
        if row.frame in rows:
            raise DataError(
                f"{where}: frame {row.frame} of {row.video} again",
                expected="one line for each frame: one target",
                fix="remove one of the two lines",
            )
        rows[row.frame] = row
    items = []
    for video, rows in by_video.items():
        path = config.root / video
        if not path.exists():
            others = _footage_in(path.parent, config.root)
            raise DataError(f"{file}: no video {path}", expected="a video under data.root", fix=nearest(video, others))
        group = video if config.group is None else group_in(path.name, config.group)
        items.append(Item(path, video, 0, group, annotations=_annotations(path, rows, config, fit)))
    return items


def _inside(video: str, where: str) -> str:
    """Return the one way to write a video's path."""
    name = Path(os.path.normpath(video))
    if name.is_absolute() or not name.parts or name.parts[0] == os.pardir:
        raise DataError(
            f"{where}: video {video!r}", expected="a path relative to data.root, and inside it", fix="correct that line"
        )
    return name.as_posix()


def _rows(file: Path) -> Iterator[tuple[str, Row]]:
    """Yield each line after its place in words."""
    if file.suffix.lower() == ".json":
        try:
            rows = TypeAdapter(list[Row]).validate_json(read_text(file))
        except ValidationError as error:
            raise _bad_row(str(file), error) from error
        if not rows:
            raise DataError(f"{file} is empty", expected="one box or more", fix="restore the file")
        yield from ((f"{file}, entry {number}", row) for number, row in enumerate(rows))
        return
    (where, header), *lines = read_lines(file)
    names = _cells(where, header)
    if sorted(names) != sorted(COLUMNS):
        raise DataError(
            f"{where}: columns {header!r}", expected=f"a first line {','.join(COLUMNS)}", fix="correct the first line"
        )
    if not lines:
        raise DataError(f"{file} has no line but the first", expected="one box or more", fix="restore the file")
    for where, line in lines:
        cells = _cells(where, line)
        if len(cells) != len(names):
            raise DataError(
                f"{where}: {len(cells)} values, {line!r}", expected=f"{','.join(names)}", fix="correct that line"
            )
        try:
            yield where, Row.model_validate(dict(zip(names, cells, strict=True)))
        except ValidationError as error:
            raise _bad_row(where, error) from error


def _cells(where: str, line: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line]))]
    except csv.Error as error:
        raise DataError(f"{where}: {error}", expected="comma-separated values", fix="correct that line") from error


def _bad_row(where: str, error: ValidationError) -> DataError:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    found = "" if isinstance(first["input"], Row | dict | list) else f" (found {first['input']!r})"
    return DataError(
        f"{where}{': ' if place else ''}{place}: {first['msg']}{found}",
        expected=f"{', '.join(COLUMNS)}: frames from 0, pixels, sizes above 0, visible 0 or 1",
        fix="correct that line",
    )


def _annotations(path: Path, rows: dict[int, Row], config: BoxesConfig, fit: Fit) -> Annotations:
    frames = np.array(sorted(rows), np.int64)
    try:
        footage = open_footage(path, fit)
        height, width = footage.size()
    except DataError:
        if config.corrupt == "stop":
            raise
        return Annotations(frames[:0], Track(np.empty((0, 4), np.float32), np.empty(0, np.float32)))
    if frames[-1] >= footage.count:
        raise DataError(
            f"{path}: a box for frame {frames[-1]} of {footage.count}",
            expected=f"frames 0 to {footage.count - 1}",
            fix="count frames from 0, and check that the lines belong to this video",
        )
    edges = np.array([rows[frame].edges for frame in frames])
    visible = np.array([rows[frame].visible for frame in frames], np.float32)
    reach = np.array([-edges[:, 0], -edges[:, 1], edges[:, 2] - width, edges[:, 3] - height]).max(axis=0)
    if config.outside == "stop" and (reach > TOLERANCE).any():
        first = int(np.argmax(reach > TOLERANCE))
        left, top, right, bottom = edges[first]
        raise DataError(
            f"{path}, frame {frames[first]}: {left:g}, {top:g} to {right:g}, {bottom:g} in {width} × {height} pixels",
            expected="boxes inside the frame",
            fix='correct it, or set data.outside = "clip" to cut boxes to the picture',
        )
    unit = edges / np.tile([width, height], 2)
    boxes = np.concatenate([(unit[:, :2] + unit[:, 2:]) / 2, unit[:, 2:] - unit[:, :2]], axis=1)
    track = Track(boxes.astype(np.float32), visible)
    placement = fit.place(height, width)
    return Annotations(
        frames,
        track.moved(
            placement.scale_x * width / fit.width,
            placement.scale_y * height / fit.height,
            placement.offset_x / fit.width,
            placement.offset_y / fit.height,
        ),
    )


def _footage_in(folder: Path, root: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return [
        path.relative_to(root).as_posix()
        for path in folder.iterdir()
        if path.is_dir() or path.suffix.lower() in VIDEO_SUFFIXES
    ]
