"""How every command speaks: people read stderr, programs read stdout, errors are one message and exit code 1."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from edge_cnnlstm.errors import ConfigError, EdgeError

console = Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")
"""Progress and warnings; of several processes that torchrun started, those of the first."""
errors = Console(stderr=True)
"""What ends a command."""
output = Console()
"""Results."""
NUMBERS = re.compile(r"\[\n([-+\d.,eE\s]+)\]")
"""In JSON: a string holds no line break, so that what matches is a list of numbers."""


def run(app: typer.Typer) -> None:
    """Run a command line; an EdgeError becomes its message and exit code 1, what the library logs a line on stderr."""
    logging.getLogger("edge_cnnlstm").addHandler(
        RichHandler(logging.WARNING, console, show_time=False, show_level=False, show_path=False)
    )
    try:
        app()
    except EdgeError as error:
        _fail(error)
    except BrokenPipeError:
        # Whoever read stdout has gone, as `head` does. Python would complain once more while closing it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        _fail(unusable_path(error))


def unusable_path(error: OSError) -> ConfigError:
    """Return what to tell a person whose path cannot be read or written."""
    return ConfigError(
        f"cannot use {error.filename}: {error.strerror}",
        expected="a path that this user may read or write, on a disk with room",
        fix="choose another path, or free some space",
    )


def _fail(error: EdgeError) -> NoReturn:
    errors.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
    sys.exit(1)


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a results file, a list of numbers on one line; raises ConfigError when its place cannot be written."""
    text = NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", json.dumps(document, indent=2))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    except OSError as error:
        raise unusable_path(error) from error
