"""Predictions as CSV, one row each: what spreadsheets and data frames read."""

from __future__ import annotations

import csv
from typing import Any, TextIO

from edge_cnnlstm.runtime.frame import Frame
from edge_cnnlstm.runtime.prediction import Prediction
from edge_cnnlstm.runtime.sinks.base import write_now
from edge_cnnlstm.runtime.sinks.json_lines import plain

BOX_SIDES = ("x", "y", "width", "height")
STEADY = ("frame", "captured_ns", "first_after_reset", "reset_reason")


class CsvRows:
    """Writes each prediction to a text file as soon as it is made; the file stays the caller's.

    The first row names the columns: the frame's, each head's as `head.label` and so on, and the timings in ms. The
    values are those of `JsonLines`; none is an empty cell. Open the file with `newline=""`.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._named = False

    def write(self, _: Frame, prediction: Prediction) -> None:
        row = flat(prediction)
        lines = ([] if self._named else [list(row)]) + [list(row.values())]
        write_now(self._file, "".join(map(_line, lines)))
        self._named = True

    def close(self) -> None:
        """Do nothing: every row is written already."""


def flat(prediction: Prediction) -> dict[str, Any]:
    """Return a prediction's values by column; of a classification, the label and its score alone."""
    record = plain(prediction)
    row = {name: record[name] for name in STEADY}
    for head in prediction.answers:
        row |= {f"{head}.{name}": value for name, value in _values(record[head]).items()}
    return row | {f"{stage}_ms": value for stage, value in record["ms"].items()}


def _values(answer: dict[str, Any]) -> dict[str, Any]:
    if "label" in answer:
        return {"label": answer["label"], "score": answer["score"]}
    if "box" in answer:
        return dict(zip(BOX_SIDES, answer["box"], strict=True)) | {"presence": answer["presence"]}
    return dict(answer["values"])


class _Echo:
    """Stands in for a file: the writer returns what its file returns, here the line itself."""

    @staticmethod
    def write(text: str) -> str:
        return text


_ROWS = csv.writer(_Echo(), lineterminator="\n")


def _line(cells: list[Any]) -> str:
    return str(_ROWS.writerow([str(cell).lower() if isinstance(cell, bool) else cell for cell in cells]))
