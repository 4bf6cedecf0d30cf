"""One measurement in a process of its own: the module is its program, one JSON object on stdout its answer."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_cnnlstm.errors import BackendError, EdgeError

ROOT = Path(__file__).parents[2]


def measure(name: str, *arguments: object) -> dict[str, Any]:
    """Run a module of this package, or another's by its full name, and return what it answers.

    Raises BackendError with its last words when it fails.
    """
    module = name if name.startswith("benchmarks.") else f"benchmarks.runtime.{name}"
    return run([sys.executable, "-m", module, *map(str, arguments)])


def run(command: list[str]) -> dict[str, Any]:
    """Run a command from the checkout, and return the JSON that it prints; errors as `measure` raises them."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise BackendError(
            f"{' '.join(command[1:])} ended with {done.returncode}: {last}",
            expected="a measurement",
            fix="run this command by hand to see all of it",
        )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def answer(main: Callable[..., dict[str, Any]]) -> None:
    """Be the program: call `main` with the words of the command line, and print what it returns.

    What engines print on stdout goes to stderr. The last words of a program that an EdgeError ends are what was found.
    """
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with contextlib.closing(out):
        try:
            out.write(json.dumps(main(*sys.argv[1:])) + "\n")
        except EdgeError as error:
            sys.exit(" ".join(error.found.split()))


def resident_bytes() -> int:
    """Return the memory that this process has in RAM now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Cost:
    """The share of one core that this process used, from here on."""

    def __init__(self) -> None:
        self._cpu, self._wall = self._used(), time.monotonic()

    def share(self) -> float:
        """Return it so far."""
        return (self._used() - self._cpu) / (time.monotonic() - self._wall)

    @staticmethod
    def _used() -> float:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime
