"""Measurements in processes of their own: programs that run once, and workers that take turns.

Two engines in one process fight for the same cores and ruin each other's tail, so no process has two. Every message is
one line of JSON.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, TextIO, cast

import numpy as np

from edge_cnnlstm.errors import BackendError, EdgeError

ROOT = Path(__file__).parents[1]
SETTLE_S = 0.1
"""Seconds between turns: ONNX Runtime's idle threads spin for 30 ms before they sleep, on cores that others need."""
Message = dict[str, Any]
Turn = Callable[[Message], Message]
"""Answers a request."""
Advance = Callable[[str], None]
"""Told whose turn is over."""


def run(module: str, *words: object) -> Message:
    """Run a module as a program, from the checkout, and return what it answers.

    Raises BackendError with its last words when it fails.
    """
    command = [sys.executable, "-m", module, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise BackendError(
            f"{' '.join(command[1:])} ended with {_ending(done.returncode)}: {_last(done.stderr.splitlines())}",
            expected="a measurement",
            fix="run this command by hand to see all of it",
        )
    found: Message = json.loads(done.stdout.splitlines()[-1])
    return found


def answer(main: Callable[..., Message]) -> None:
    """Be a program that runs once: call `main` with the words of the command line, and print what it returns.

    The last words of a program that an EdgeError ends are what was found.
    """
    with _answers() as out:
        try:
            _say(out, main(*sys.argv[1:]))
        except EdgeError as error:
            sys.exit(" ".join(error.found.split()))


class Worker:
    """A process that opens something, and then takes turns when it is asked to; it sleeps in between.

    `name` is the case's in every result. `module` is run with `words`, and calls `serve`.
    """

    def __init__(self, name: str, module: str, *words: object) -> None:
        self.name = name
        self._complaints = TemporaryFile("w+", errors="replace")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            cwd=ROOT,
        )

    def ready(self) -> Message:
        """Wait until it has opened; `{"refused": why}` when it could not, or died of it."""
        try:
            return self._answer()
        except BackendError as error:
            return {"refused": error.found}

    def turn(self, request: Message) -> Message:
        """Take one turn and return its answer; raises BackendError when the process dies."""
        pipe = cast("IO[str]", self._process.stdin)
        try:
            pipe.write(json.dumps(request) + "\n")
            pipe.flush()
        except OSError as error:
            raise self._dead() from error
        return self._answer()

    def stop(self) -> None:
        """End the process; there is nothing in it to save."""
        self._process.kill()
        self._process.communicate()
        self._complaints.close()

    def _answer(self) -> Message:
        line = cast("IO[str]", self._process.stdout).readline()
        if not line.endswith("\n"):
            raise self._dead()
        found: Message = json.loads(line)
        return found

    def _dead(self) -> BackendError:
        code = self._process.wait()
        self._complaints.seek(0)
        return BackendError(
            f"the process of {self.name} ended with {_ending(code)}: {_last(self._complaints.readlines())}",
            expected="an engine that runs its graph to the end",
            fix="run it again; if it happens again, report it with the version of that engine",
        )


def serve(opened: Callable[..., tuple[Message, Turn]]) -> None:
    """Be a worker's process: `opened` gets the words, returns what to say when ready, and what takes a turn.

    An EdgeError while opening is said as the refusal; one in a turn ends the process. The collector is off, and runs
    between turns. Each answer gets `waiting_cpu_s`: CPU seconds that the process burnt while others had their turns.
    """
    with _answers() as out:
        try:
            ready, turn = opened(*sys.argv[1:])
        except EdgeError as error:
            _say(out, {"refused": error.found})
            return
        _say(out, ready)
        gc.disable()
        slept = time.process_time()
        for line in sys.stdin:
            waiting = time.process_time() - slept
            gc.collect()
            try:
                found = turn(json.loads(line))
            except EdgeError as error:
                sys.exit(" ".join(error.found.split()))
            _say(out, found | {"waiting_cpu_s": round(waiting, 4)})
            slept = time.process_time()


@dataclass(frozen=True, slots=True)
class Turns:
    """What workers answered: `answers` round by round, in the `order` of each round; `ready` and `refused` by name."""

    answers: dict[str, list[Message]]
    order: list[list[str]]
    ready: dict[str, Message]
    refused: dict[str, str]

    def samples(self, name: str, key: str = "samples_ns") -> list[list[int]]:
        """Return one worker's samples, round by round."""
        return [found[key] for found in self.answers[name]]


def take_turns(
    workers: Sequence[Worker],
    request: Message | Callable[[str], Message],
    rounds: int,
    seed: int,
    started: Callable[[int], Advance],
) -> Turns:
    """Give every worker one turn a round, in an order drawn anew, and stop them all.

    `request` is what a turn asks for, or says it by name. `started` is told the number of turns and returns what is
    called after each. Raises BackendError when a process dies once it is ready.
    """
    asked = request if callable(request) else lambda _: request
    with ExitStack() as stack:
        for worker in workers:
            stack.callback(worker.stop)
        said = {worker.name: worker.ready() for worker in workers}
        refused = {name: message["refused"] for name, message in said.items() if "refused" in message}
        running = [worker for worker in workers if worker.name not in refused]
        answers: dict[str, list[Message]] = {worker.name: [] for worker in running}
        advance, draw, order = started(rounds * len(running)), np.random.default_rng(seed), list[list[str]]()
        for _ in range(rounds):
            shuffled = [running[index] for index in draw.permutation(len(running))]
            for worker in shuffled:
                time.sleep(SETTLE_S)
                answers[worker.name].append(worker.turn(asked(worker.name)))
                advance(worker.name)
            order.append([worker.name for worker in shuffled])
    return Turns(answers, order, {worker.name: said[worker.name] for worker in running}, refused)


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


@contextlib.contextmanager
def _answers() -> Iterator[TextIO]:
    """Keep stdout for answers: what an engine prints there goes to stderr instead."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as out:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        yield out


def _say(out: TextIO, message: Message) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _last(lines: Sequence[str]) -> str:
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
