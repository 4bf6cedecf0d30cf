"""A disk that fails, or a process that is killed, at a chosen call; run as a program, killed processes that keep plans.

Stands in for `os` in `gpu.private`, and hands everything on to it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from edge_cnnlstm.gpu import private
from edge_cnnlstm.gpu.engine import Plan
from edge_cnnlstm.gpu.plans import Key, PlanCache, StoredPlan

CALLS = {"open", "write", "fsync", "rename", "unlink", "close", "scandir"}
KEY = Key(
    graph="ab" * 32,
    tensorrt="tensorrt 10.3.0",
    gpu="Orin",
    compute_capability="8.7",
    multiprocessors=8,
    memory_gib=8,
    driver="540.4.0 with CUDA 12.6",
    l4t="36.4.3",
    purpose="batch 1, watching h_next",
    effort="optimization default",
)
OLD = Plan(b"old plan" * 50, 1.5, "tensorrt 10.3.0", 7, {"conv_0": "int8"}, None)
NEW = Plan(b"new plan" * 500, 2.5, "tensorrt 10.3.0", 8, {"conv_0": "fp16"}, None)


class Disk:
    """Notes the calls that reach the disk, and does something else at one of them, counted from 0.

    A write takes 1000 bytes at most, as a disk that is filling up may.
    """

    def __init__(self, at: int, instead: Callable[[], None]) -> None:
        self.calls: list[str] = []
        self._at, self._instead = at, instead

    def __getattr__(self, name: str) -> Any:
        true = getattr(os, name)
        if name not in CALLS:
            return true

        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append(name)
            if len(self.calls) == self._at + 1:
                if name == "close":
                    true(*arguments)
                self._instead()
            if name == "write":
                descriptor, data = arguments
                return true(descriptor, data[:1000])
            return true(*arguments, **options)

        return call


def keep_killed(folder: Path) -> list[list[Any]]:
    """Keep a new plan over an old one, killed at each call in turn: how it ended, what is found then, what files."""
    ends: list[list[Any]] = []
    for at in count():
        PlanCache(folder).keep(KEY, OLD)
        child = os.fork()
        if child == 0:
            private.os = Disk(at, lambda: os.kill(os.getpid(), signal.SIGKILL))
            PlanCache(folder).keep(KEY, NEW)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        found = PlanCache(folder).find(KEY)
        assert isinstance(found, StoredPlan), found
        code = os.waitstatus_to_exitcode(status)
        ends.append(
            [code, found.data == NEW.data, found.data == OLD.data, sorted(file.name for file in folder.iterdir())]
        )
        if code == 0:
            return ends
    raise AssertionError


def keep_together(folder: Path, processes: int, times: int) -> list[int]:
    """Keep plans under one key in several processes at once, and find whole ones meanwhile; return their exit codes."""
    children = []
    for number in range(processes):
        child = os.fork()
        if child == 0:
            data = bytes([number]) * 5000
            for _ in range(times):
                PlanCache(folder).keep(KEY, Plan(data, 1.0, KEY.tensorrt, 1, {}, None))
                found = PlanCache(folder).find(KEY)
                if not isinstance(found, StoredPlan) or found.data not in [bytes([n]) * 5000 for n in range(processes)]:
                    os._exit(1)
            os._exit(0)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


if __name__ == "__main__":
    # A program of its own, because it forks: pytest's process may run threads.
    tell: dict[str, Callable[[], Any]] = {
        "killed": lambda: keep_killed(Path(sys.argv[2])),
        "together": lambda: keep_together(Path(sys.argv[2]), 4, 25),
    }
    print(json.dumps(tell[sys.argv[1]]()))  # noqa: T201 - what the test reads
