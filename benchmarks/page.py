"""Reports as one HTML page that asks nothing of the network: pictures inside, no script."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.show import Section, conditions, figures_table
from edge_cnnlstm.errors import ConfigError

TEMPLATE = Path(__file__).with_name("page.html.j2")


def page(title: str, reports: Sequence[dict[str, Any]], figures: Sequence[dict[str, Any]] = ()) -> str:
    """Return the page of one or several suites' reports; `figures` come first, as what they add up to.

    Raises ConfigError where jinja2 or matplotlib is not installed.
    """
    try:
        jinja2: Any = import_module("jinja2")
        sections = [(section_of(report), conditions(report), report["command"]) for report in reports]
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed", expected="what draws pages", fix="pip install 'edge-cnnlstm[report]'"
        ) from error
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["data"] = lambda png: f"data:image/png;base64,{base64.b64encode(png).decode()}"
    first = figures_table({"ratios": figures}, "All figures") if figures else None
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    text: str = template.render(title=title, first=first, sections=sections)
    return text


def section_of(report: dict[str, Any]) -> Section:
    """Return what a suite shows of its report."""
    section: Callable[[dict[str, Any]], Section] = import_module(f"benchmarks.{report['suite']}.show").section
    return section(report)
