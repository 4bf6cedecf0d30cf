from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_cnnlstm.runtime.telemetry import Reading
from edge_cnnlstm.runtime.telemetry.tegrastats_process import Tegrastats

FOREVER_S = 3600.0
PATIENCE_S = 10.0
LINE = "RAM 1/2MB (lfb 1x2MB) GR3D_FREQ 12%@[1300,1300] VDD_IN 5mW"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def wait_for(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(int(PATIENCE_S / 0.005)):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("it never happened")


def test_tegrastats_is_followed_until_it_is_closed() -> None:
    source = Tegrastats(python(f"import time\nprint({LINE!r}, flush=True)\ntime.sleep(600)"), FOREVER_S)
    wait_for(lambda: source.read() != Reading())
    assert source.read().clocks_mhz == {"gpu": 1300.0}
    source.close()
    source.close()
    assert source._process is not None
    assert source._process.returncode is not None


def test_a_line_that_is_old_says_nothing() -> None:
    source = Tegrastats(python(f"import time\nprint({LINE!r}, flush=True)\ntime.sleep(600)"), interval_s=0.001)
    wait_for(lambda: source._latest is not None)
    wait_for(lambda: source.read() == Reading())
    source.close()


def test_a_program_that_ends_is_started_again(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    code = f"open({str(starts)!r}, 'a').write('x')\nprint({LINE!r}, flush=True)"
    source = Tegrastats(python(code), FOREVER_S, restart_s=0.001)
    wait_for(lambda: starts.exists() and len(starts.read_text()) > 4)
    assert source.read().power_mw == {"VDD_IN": 5.0}
    source.close()


@pytest.mark.parametrize("command", [["/no/such/program"], python("")])
def test_a_program_that_never_says_anything_is_given_up(command: list[str]) -> None:
    source = Tegrastats(command, restart_s=0.001)
    wait_for(lambda: not source._thread.is_alive())
    with pytest.raises(ChildProcessError, match="3 times without a line"):
        source.read()
    source.close()


def test_a_program_that_ignores_being_ended_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_cnnlstm.runtime.telemetry.tegrastats_process.END_SECONDS", 0.05)
    code = f"import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint({LINE!r}, flush=True)\ntime.sleep(600)"
    source = Tegrastats(python(code), FOREVER_S)
    wait_for(lambda: source._latest is not None)
    source.close()
    wait_for(lambda: not source._thread.is_alive())
    assert source._process is not None
    assert source._process.returncode == -9


def test_a_machine_without_tegrastats_has_no_such_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Tegrastats.find() is None


def test_tegrastats_is_found_on_the_path_and_told_the_interval(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "tegrastats"
    program.write_text('#!/bin/sh\necho "RAM 1/2MB cpu@$2.5C"\nexec /bin/sleep 600\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    source = Tegrastats.find(0.25)
    assert source is not None
    wait_for(lambda: source._latest is not None)
    assert source._latest is not None
    assert "cpu@250.5C" in source._latest[0]
    source.close()
