from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from edge_cnnlstm.errors import BackendError, ClosedError, DependencyError, DeviceMemoryError, ThreadError
from edge_cnnlstm.gpu import context, cuda
from edge_cnnlstm.gpu.context import describe
from edge_cnnlstm.gpu.cuda import Session
from tests.conftest import ROOT
from tests.gpu.doubles.handle import ILLEGAL_ADDRESS, OUT_OF_MEMORY, Double
from tests.gpu.doubles.sweep import sweep
from tests.runtime.doubles import PATIENCE, Thread


@contextlib.contextmanager
def occupied(session: Session) -> Iterator[None]:
    """While the block runs, a thread called `first` is inside; it ends in order."""
    inside, go = threading.Event(), threading.Event()

    def stay() -> None:
        with session:
            inside.set()
            assert go.wait(PATIENCE)

    thread = Thread(stay, "first")
    assert inside.wait(PATIENCE)
    try:
        yield
    finally:
        go.set()
        thread.result()


def kill(double: Double, session: Session) -> None:
    """Let the context die of work in this session."""
    with session:
        double.fail("execute", ILLEGAL_ADDRESS)
        session.memory(64, "a test")
        with pytest.raises(BackendError):
            session.wait()
    assert session.is_lost()


@pytest.mark.parametrize(
    ("missing", "found", "remedy"),
    [
        ("pycuda", "cannot import PyCUDA", r"tensorrt-jetson.*onnxruntime backend"),
        ("libcuda", "cannot import PyCUDA", r"tensorrt-jetson.*onnxruntime backend"),
        ("gpu", "CUDA finds no GPU: cuInit failed: no CUDA-capable device", "nvidia-smi"),
    ],
)
def test_what_is_missing_is_named_with_the_way_to_get_it(double: Double, missing: str, found: str, remedy: str) -> None:
    double.remove(missing)
    for look in (describe, Session):
        with pytest.raises(DependencyError, match=rf"(?s){found}.*to fix: .*{remedy}"):
            look()


def test_a_gpu_without_memory_for_a_context_says_so(double: Double) -> None:
    double.fail("cuDevicePrimaryCtxRetain", OUT_OF_MEMORY)
    with pytest.raises(DeviceMemoryError, match=r"(?s)too little memory for a context.*close other programs"):
        Session()


def test_a_device_is_described(double: Double) -> None:
    double.limit_memory(1 << 30)
    assert describe() == context.Device(
        "Stand-in", "8.7", "13.0", 1 << 30, integrated=False, maps_host_memory=True, multiprocessors=8
    )


def test_a_device_that_shares_its_memory_says_so(double: Double) -> None:
    double.integrated()
    assert describe().integrated


@pytest.mark.parametrize("look", [describe, lambda: Session().close()], ids=["describe", "open"])
def test_two_threads_that_look_at_once_find_one_gpu(
    double: Double, monkeypatch: pytest.MonkeyPatch, look: Callable[[], object]
) -> None:
    describe_really, both = context._describe, threading.Barrier(2)

    def describe_slowly(*arguments: object) -> cuda.Device:
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.2)  # the other comes only if nothing keeps it out
        return describe_really(*arguments)

    monkeypatch.setattr(context, "_describe", describe_slowly)
    threads = [Thread(look) for _ in "12"]
    for thread in threads:
        thread.result()
    assert double.retained() == 1


def test_memory_comes_cleared(double: Double) -> None:
    with Session() as session:
        memory = session.memory(64, "a test")
        host = session.host((16,), "float32", "a test")
        assert not host.array.any()
        host.array.fill(7)
        session.download(host.array, memory.address)
        session.wait()
        assert not host.array.any()
    session.close()


@pytest.mark.parametrize("spin", [True, False])
def test_copies_are_done_in_order_once_somebody_waited(double: Double, spin: bool) -> None:
    with Session(spin=spin) as session:
        one, other = session.memory(64, "a test"), session.memory(64, "a test")
        source, target = (session.host((16,), "float32", "a test").array for _ in "12")
        source[...] = np.arange(16)
        session.upload(one.address, source)
        session.copy(other.address, one.address, 64)
        session.clear(other.address + 32, 32)
        session.download(target, other.address)
        session.wait()
        np.testing.assert_array_equal(target, [*range(8), *[0] * 8])
    session.close()


def test_mapped_memory_is_read_by_the_gpu_where_it_lies(double: Double) -> None:
    with Session() as session:
        mapped = session.host((16,), "float32", "a test", mapped=True)
        plain = session.host((16,), "float32", "a test")
        mapped.array[...] = np.arange(16)
        session.download(plain.array, mapped.address)
        session.wait()
        np.testing.assert_array_equal(plain.array, mapped.array)
        assert plain.address == 0
    session.close()


CALLS: dict[str, Callable[[Session], object]] = {
    "memory": lambda session: session.memory(64, "a test"),
    "host": lambda session: session.host((1,), "uint8", "a test"),
    "upload": lambda session: session.upload(0, np.zeros(1)),
    "download": lambda session: session.download(np.zeros(1), 0),
    "copy": lambda session: session.copy(0, 0, 1),
    "clear": lambda session: session.clear(0, 1),
    "wait": lambda session: session.wait(),
    "free_bytes": lambda session: session.free_bytes(),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_outside_of_the_session_is_refused_before_it_reaches_the_gpu(double: Double, name: str) -> None:
    session = Session()
    double.forget()
    with pytest.raises(ThreadError, match=r"(?s)thread 'MainThread'.*inside `with session:`"):
        CALLS[name](session)
    with occupied(session), pytest.raises(ThreadError):
        CALLS[name](session)
    assert set(double.calls()) == {"cuCtxPushCurrent", "cuCtxPopCurrent"}
    session.close()


@pytest.mark.parametrize("name", CALLS)
def test_what_cuda_refuses_is_a_backend_error(double: Double, name: str) -> None:
    arguments = {"upload", "download", "copy", "clear"}
    with Session() as session:
        memory, host = session.memory(64, "a test").address, session.host((64,), "uint8", "a test").array
        calls = CALLS | {
            "upload": lambda session: session.upload(memory, host),
            "download": lambda session: session.download(host, memory),
            "copy": lambda session: session.copy(memory, memory, 1),
            "clear": lambda session: session.clear(memory, 1),
        }
        assert arguments <= calls.keys()
        double.fail()
        with pytest.raises(BackendError, match=r"(?s)the GPU could not .*: cu\w+ failed: unknown.*to fix"):
            calls[name](session)
        assert not session.is_lost()
    session.close()


def test_a_session_may_be_entered_within_itself(double: Double) -> None:
    session = Session()
    with session:
        with session:
            session.wait()
        session.wait()
        assert double.pushed() == 1
    assert double.pushed() == 0
    session.close()


def test_an_error_inside_leaves_nothing_current(double: Double) -> None:
    session = Session()
    with pytest.raises(KeyError), session, session:
        raise KeyError
    assert double.pushed() == 0
    with session:
        session.wait()
    session.close()


@pytest.mark.parametrize("call", ["cuCtxPushCurrent", "cuCtxPopCurrent"])
def test_a_context_that_is_not_switched_at_once_is_switched_at_the_second_try(double: Double, call: str) -> None:
    session = Session()
    double.fail(call)
    with session:
        session.wait()
    assert double.failed() == call
    assert double.pushed() == 0
    session.close()


def test_a_context_that_cannot_be_entered_leaves_the_door_open(double: Double) -> None:
    session = Session()
    double.fail("cuCtxPushCurrent", for_ever=True)
    with pytest.raises(BackendError, match="make its context current"), session:
        pytest.fail("it was entered")
    double.forget()
    Thread(lambda: session.__enter__() and session.__exit__()).result()
    session.close()


def test_one_thread_after_the_other_may_use_a_session(double: Double) -> None:
    session = Session()

    def use() -> None:
        with session:
            session.memory(64, "a test")
            session.wait()

    for _ in range(3):
        Thread(use).result()
        use()
    assert double.alive()["allocation"] == 6
    Thread(session.close).result()
    session.close()
    assert double.alive() == {}


def test_a_second_thread_is_told_who_is_inside(double: Double) -> None:
    session = Session()
    with occupied(session):
        for call in (session.__enter__, session.close, session.is_lost):
            with pytest.raises(ThreadError, match=r"'MainThread' while 'first' is inside"):
                call()
        assert not session.closed
    session.close()


def test_closing_frees_everything_the_last_first_and_may_be_repeated(double: Double) -> None:
    with Session() as session:
        session.memory(64, "a test")
        session.at_close(lambda: order.append(double.alive()["allocation"]))
        session.memory(64, "a test")
    order: list[int] = []
    session.close()
    session.close()
    assert order == [1]
    assert double.alive() == {}
    with pytest.raises(ClosedError), session:
        pytest.fail("it was entered")


def test_what_cannot_be_freed_is_logged_and_keeps_nothing_else(
    double: Double, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise BackendError("a graph that stays", expected="one that goes", fix="none: it is a test")

    with Session() as session:
        session.memory(64, "a test")
        session.at_close(refuse)
        session.memory(64, "a test")
    session.close()
    assert double.alive() == {}
    assert "not left in order: a graph that stays" in caplog.text


def test_arrays_outlive_the_session_and_their_memory_goes_with_the_last_of_them(double: Double) -> None:
    with Session() as session:
        held = session.host((4,), "float32", "a test").array[1:]
    held[...] = 5
    session.close()
    assert double.alive() == {"pinned": 1}
    assert held.tolist() == [5, 5, 5]
    del held
    Session().close()
    assert double.alive() == {}


def test_an_array_that_dies_in_a_thread_without_a_context_leaks_nothing(double: Double) -> None:
    with Session() as session:
        held = [session.host((4,), "float32", "a test").array]
    session.close()
    Thread(held.clear).result()
    assert double.complaints() == []
    session = Session()
    assert "pinned" not in double.alive()
    session.close()


def test_two_hundred_sessions_leave_nothing_behind(double: Double) -> None:
    for at in range(200):

        def live() -> None:
            with Session(spin=False) as session:
                session.memory(64, "a test")
                session.host((4,), "float32", "a test")
                session.wait()
            session.close()

        live() if at % 2 else Thread(live).result()
        assert double.alive() == {}
    assert double.retained() == 1


@pytest.mark.parametrize("asked", ["device", "host"])
def test_too_little_memory_is_told_with_what_was_asked_for_and_what_is_free(double: Double, asked: str) -> None:
    double.limit_memory(1_000_000)
    double.integrated()
    with Session() as session:
        session.memory(400_000, "a test")
        with pytest.raises(
            DeviceMemoryError,
            match=r"(?s)700,000 .*bytes for a test: .*out of memory; 600,000 of 1,000,000 bytes are free",
        ):
            session.memory(700_000, "a test") if asked == "device" else session.host((7, 100_000), "uint8", "a test")
        session.memory(500_000, "a test")
    session.close()


def live_once() -> None:
    """Make a session, use all of it, and close it."""
    session = Session()
    try:
        with session:
            memory = session.memory(64, "a test")
            host = session.host((64,), "uint8", "a test", mapped=True)
            session.upload(memory.address, host.array)
            session.copy(memory.address, host.address, 64)
            session.download(host.array, memory.address)
            session.free_bytes()
            session.wait()
    finally:
        session.close()


def test_whichever_call_fails_nothing_leaks_and_the_error_is_typed() -> None:
    failed = sweep(lambda double, prepared: live_once())
    assert {"cuInit", "cuDeviceGetName", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent", "cuCtxPopCurrent"} < {*failed}
    assert {"cuStreamCreate", "cuEventCreate", "cuMemAlloc", "cuMemHostAlloc", "cuMemcpyDtoDAsync"} < {*failed}
    assert {"cuMemHostGetDevicePointer", "cuEventSynchronize", "execute", "cuMemFree", "cuStreamDestroy"} < {*failed}


def test_nor_does_it_in_another_thread_than_the_one_that_found_the_gpu() -> None:
    def attempt(double: Double, prepared: object) -> None:
        def live() -> None:
            with contextlib.suppress(BackendError):  # whose frames hold what may only be freed here
                live_once()

        Thread(live).result()

    failed = sweep(attempt, prepare=lambda double: describe())
    assert {"cuStreamCreate", "cuEventCreate", "cuMemHostGetDevicePointer", "cuStreamDestroy"} < {*failed}


EXITS = {
    "open": "session = Session(); session.__enter__(); session.memory(64, 'a test'); session.__exit__()",
    "forgotten": "Session()",
    "opened in another thread": "held = []; run(lambda: held.append(Session()))",
    "with an array still held": "session = Session(); array = session.__enter__().host((4,), 'uint8', 'a').array; "
    "session.__exit__()",
    "dead": "from tests.gpu.test_cuda import kill; session = Session(); kill(double, session)",
}


@pytest.mark.parametrize("state", EXITS)
def test_a_process_that_ends_with_an_open_session_ends_in_order(double: Double, state: str) -> None:
    program = f"""
        import threading
        from edge_cnnlstm.gpu.cuda import Session

        def run(call):
            thread = threading.Thread(target=call)
            thread.start()
            thread.join()

        {EXITS[state]}
    """
    assert_ends_well(double, program)


def assert_ends_well(double: Double, program: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", double.prelude + textwrap.dedent(program)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_a_single_failure_is_no_death(double: Double) -> None:
    session = Session()
    for call in ("cuStreamSynchronize", "cuCtxPushCurrent", "cuCtxPopCurrent"):
        double.fail(call)
        assert not session.is_lost()
        assert double.failed() == call
    session.close()
    # It would spoil what another thread records in the same context.
    assert "cuCtxSynchronize" not in double.calls()


@pytest.mark.parametrize("where", ["the thread that found the GPU", "another thread"])
def test_a_dead_context_is_given_up_without_a_word_and_begun_anew(double: Double, where: str) -> None:
    session = Session()
    kill(double, session)

    def revive() -> None:
        session.abandon()
        session.revive()
        live_once()
        Session().close()
        assert double.pushed() == double.current() == 0

    revive() if where != "another thread" else Thread(revive).result()
    assert session.closed
    assert double.alive() == {}
    assert double.retained() == 1
    assert double.calls().count("cuDevicePrimaryCtxReset") == 1


def test_closing_in_a_dead_context_gives_everything_up(double: Double) -> None:
    session = Session()
    kill(double, session)
    Thread(session.close).result()
    session.close()
    assert session.closed
    assert double.complaints() == []


def test_a_context_is_not_taken_from_under_other_sessions_whose_arrays_would_go_with_it(double: Double) -> None:
    one, other = Session(), Session()
    with other:
        array = other.host((64,), "uint8", "a test").array
    kill(double, one)
    one.abandon()
    for _ in range(2):
        with pytest.raises(BackendError, match=r"(?s)1 more engine uses.*restart the process"):
            one.revive()
    assert "cuDevicePrimaryCtxReset" not in double.calls()
    array[...] = 1
    assert other.is_lost()
    other.close()
    one.revive()
    other.revive()
    assert double.calls().count("cuDevicePrimaryCtxReset") == 1
    Session().close()


def test_a_session_does_not_follow_into_a_forked_process(double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session()
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(ThreadError, match=r"(?s)forked.*spawn"), session:
        pytest.fail("it was entered")
    monkeypatch.undo()
    session.close()


def test_without_cuda_bindings_a_dead_context_stays_dead_and_is_left_in_order(double: Double) -> None:
    session = Session()
    kill(double, session)
    double.remove("cuda-bindings")
    session.abandon()
    with pytest.raises(DependencyError, match=r"cuda\.bindings"):
        session.revive()
    assert double.retained() == 1
    with pytest.raises(BackendError):
        Session()


@pytest.mark.parametrize("call", ["cuDevicePrimaryCtxReset", "cuDevicePrimaryCtxRetain", "cuDeviceGet"])
def test_a_gpu_that_does_not_come_back_is_an_error_until_it_does(double: Double, call: str) -> None:
    session = Session()
    kill(double, session)
    session.abandon()
    double.fail(call, for_ever=True)
    with pytest.raises(BackendError):
        session.revive()
    with pytest.raises(BackendError, match=r"(?s)did not come back.*restart the process"):
        Session()
    double.forget()
    session.revive()
    assert "cuCtxPopCurrent" not in double.calls()  # it would be somebody else's by now
    live_once()
