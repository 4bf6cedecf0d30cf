from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_cnnlstm.errors import DependencyError
from edge_cnnlstm.gpu import tensorrt


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose packages are found first; what was imported from it is forgotten after the test."""
    monkeypatch.syspath_prepend(tmp_path)
    before = {name: sys.modules.pop(name, None) for name in ("tensorrt", "tensorrt_rtx")}
    yield tmp_path
    for name, module in before.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


def install(folder: Path, name: str, code: str) -> None:
    (folder / f"{name}.py").write_text(code)


def test_without_tensorrt_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)

    with pytest.raises(DependencyError, match=r"(?s)python3-libnvinfer.*--system-site-packages.*--ahead-of-time"):
        tensorrt.load()
    with pytest.raises(DependencyError, match="pip install 'tensorrt-rtx"):
        tensorrt.load(ahead_of_time=True)


def test_the_real_tensorrt_comes_before_the_one_for_building_ahead_of_time(installed: Path) -> None:
    install(installed, "tensorrt", '__version__ = "10.3.0"')
    install(installed, "tensorrt_rtx", '__version__ = "1.7.1.116"')

    assert tensorrt.version(tensorrt.load()) == "tensorrt 10.3.0"
    assert tensorrt.version(tensorrt.load(ahead_of_time=True)) == "tensorrt_rtx 1.7.1.116"


def test_where_only_the_one_for_building_ahead_of_time_is_installed_it_is_taken(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(installed, "tensorrt_rtx", '__version__ = "1.7.1.116"')
    monkeypatch.setitem(sys.modules, "tensorrt", None)

    assert tensorrt.load().__name__ == "tensorrt_rtx"


@pytest.mark.parametrize(("name", "found"), [("tensorrt", "10.2.0.19"), ("tensorrt", "8.6.2"), ("tensorrt_rtx", "1.6")])
def test_an_older_tensorrt_is_refused(installed: Path, name: str, found: str) -> None:
    install(installed, name, f'__version__ = "{found}"')

    with pytest.raises(DependencyError, match=rf"(?s){name} {found} is installed.*or newer"):
        tensorrt.load(ahead_of_time=name == "tensorrt_rtx")


@pytest.mark.parametrize(
    "code", ["raise OSError('libnvinfer.so.10: cannot open')", "raise RuntimeError('no wheels for Tegra')", "import no"]
)
def test_a_tensorrt_that_cannot_be_imported_says_why(installed: Path, code: str) -> None:
    install(installed, "tensorrt", code)

    with pytest.raises(DependencyError, match=r"(?s)cannot import tensorrt: .*(libnvinfer|Tegra|'no').*to fix"):
        tensorrt.load()


def test_its_log_is_ours_and_its_first_error_is_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is built for Linux only")
    caplog.set_level(logging.DEBUG, logger="edge_cnnlstm.gpu")
    logger = tensorrt.logger(trt)
    tensorrt.forget(logger)
    assert logger.reason == "no reason given"

    severity = trt.ILogger
    for level, text in ((severity.VERBOSE, "a"), (severity.INFO, "b"), (severity.WARNING, "c")):
        logger.log(level, text)
    logger.log(severity.INTERNAL_ERROR, "d")
    for _ in range(10_000):
        logger.log(severity.ERROR, "e")

    assert logger.reason == "d"
    assert len(logger.errors) == tensorrt.MOST_ERRORS
    levels = {record.message: record.levelname for record in caplog.records}
    assert levels == {"a": "DEBUG", "b": "DEBUG", "c": "WARNING", "d": "ERROR", "e": "ERROR"}


def test_ctrl_c_is_held_and_then_heard_by_whoever_listened() -> None:
    heard: list[int] = []

    def listen(number: int, _frame: Any) -> None:
        heard.append(number)

    def hold() -> None:
        with tensorrt.interrupts_held() as interrupt:
            os.kill(os.getpid(), signal.SIGINT)
            assert interrupt.asked
            assert not heard

    before = signal.signal(signal.SIGINT, listen)
    try:
        with pytest.raises(KeyboardInterrupt):
            hold()
        assert heard == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is listen
    finally:
        signal.signal(signal.SIGINT, before)


def test_where_ctrl_c_is_ignored_it_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with tensorrt.interrupts_held() as interrupt:
            os.kill(os.getpid(), signal.SIGINT)
        assert not interrupt.asked
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_thread_that_tensorrt_builds_in_hears_ctrl_c_while_the_main_thread_cannot() -> None:
    heard, main_thread = threading.Event(), threading.get_ident()

    def build(interrupt: tensorrt.Interrupt) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        until = time.monotonic() + 3
        while not heard.is_set() and time.monotonic() < until:
            if interrupt.asked:
                heard.set()
        signal.pthread_kill(main_thread, signal.SIGUSR1)  # any other thread that it reached would end the process

    def hold() -> None:
        with tensorrt.interrupts_held() as interrupt:
            thread = threading.Thread(target=build, args=(interrupt,))
            thread.start()
            # In C, as during a build, until the other thread has heard or given up.
            signal.sigwait({signal.SIGUSR1})
            thread.join()

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        with pytest.raises(KeyboardInterrupt):
            hold()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
    assert heard.is_set()


def test_what_it_says_of_every_int8_convolution_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is built for Linux only")
    caplog.set_level(logging.DEBUG, logger="edge_cnnlstm.gpu")
    for kind in ("activation", "weight"):
        words = f" (foreignNode) Converting conv {kind} scales to fp32."
        tensorrt.logger(trt).log(trt.ILogger.WARNING, words)

    assert [record.levelname for record in caplog.records] == ["DEBUG"] * 2


def test_who_is_woken_by_signals_hears_those_that_came_while_interrupts_were_held() -> None:
    heard: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, heard.append, signal.SIGUSR1)
        with tensorrt.interrupts_held():
            os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.sleep(0.05)
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.sleep(0.05)

    asyncio.run(main())
    assert heard == [signal.SIGUSR1] * 2
