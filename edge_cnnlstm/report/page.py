"""The report as one HTML page that asks nothing of the network: pictures inside, no script."""

from __future__ import annotations

import base64
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from edge_cnnlstm.report.plots import HIDDEN_FRAMES, Pictures, deadline_in_view

NOTHING = "–"


def render(facts: dict[str, Any], drawn: Pictures) -> str:
    """Return the page for a report's document and its pictures."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": _percent, "ms": _ms, "pixels": _pixels, "small": _small, "png": _png}
    template = environment.from_string(files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8"))
    return template.render(
        **facts,
        pictures=drawn,
        hidden_frames=HIDDEN_FRAMES,
        deadline_in_view=deadline_in_view(facts["stream"]),
        same_clips=len({row["clips"] for row in facts["accuracy"].values()}) == 1,
    )


def _percent(share: float | None) -> str:
    return NOTHING if share is None else f"{share:.1%}"


def _ms(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def _pixels(value: float) -> str:
    return f"{value:.2f}"


def _small(value: float) -> str:
    return f"{value:.2g}"


def _png(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"
