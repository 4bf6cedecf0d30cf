"""Turn a run folder into a report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from edge_cnnlstm.cli.console import console, write_json


def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN_FOLDER", help="Where the other commands left their results.")],
) -> None:
    """Gather a run folder's results into report.json, report.html and preview.png."""
    from edge_cnnlstm.report.optional import drawing_libraries

    with drawing_libraries():
        from edge_cnnlstm.report.page import render
        from edge_cnnlstm.report.plots import pictures
    from edge_cnnlstm.report.gather import document, read_run

    run = read_run(folder)
    facts = document(run, now=time.time())
    drawn = pictures(run, facts)
    page = render(facts, drawn)
    write_json(folder / "report.json", facts)
    (folder / "report.html").write_text(page, encoding="utf-8")
    (folder / "preview.png").write_bytes(drawn.preview)
    console.print(f"Wrote [bold]{folder / 'report.html'}[/], report.json and preview.png")
