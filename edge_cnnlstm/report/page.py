"""Reports as HTML pages that ask nothing of the network: pictures inside, no script."""

from __future__ import annotations

import base64
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from edge_cnnlstm.report.plots import HIDDEN_FRAMES, Pictures, deadline_in_view
from edge_cnnlstm.report.scores import NOTHING, condition_name


def render(facts: dict[str, Any], drawn: Pictures) -> str:
    """Return the page for a demo report's document and its pictures."""
    return page(
        "report.html.j2",
        **facts,
        pictures=drawn,
        hidden_frames=HIDDEN_FRAMES,
        deadline_in_view=deadline_in_view(facts["stream"]),
        same_clips=len({row["clips"] for row in facts["accuracy"].values()}) == 1,
    )


def page(template: str, **facts: Any) -> str:
    """Return a template of this package filled in; every text is escaped."""
    environment = Environment(
        loader=FunctionLoader(_source), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": _percent, "ms": _ms, "pixels": _pixels, "small": _small, "picture": _picture}
    environment.filters["condition_name"] = condition_name
    return environment.get_template(template).render(**facts)


def _source(template: str) -> str:
    return files(__package__).joinpath(template).read_text(encoding="utf-8")


def _percent(share: float | None) -> str:
    return NOTHING if share is None else f"{share:.1%}"


def _ms(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def _pixels(value: float) -> str:
    return f"{value:.2f}"


def _small(value: float) -> str:
    return f"{value:.2g}"


def _picture(data: bytes) -> str:
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
