from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_cnnlstm.errors import BackendError, DependencyError
from edge_cnnlstm.gpu.capture import Graph, Marks, load_bindings
from edge_cnnlstm.gpu.cuda import DeviceMemory, Session
from tests.gpu.doubles import cuda_bindings
from tests.gpu.doubles.driver import Driver
from tests.gpu.doubles.handle import Double

NUMBERS = np.arange(16, dtype=np.float32)


@pytest.fixture
def session(double: Double) -> Iterator[Session]:
    session = Session()
    with session:
        yield session
    session.close()


@pytest.fixture
def memory(session: Session) -> DeviceMemory:
    return session.memory(64, "a test")


@pytest.fixture
def host(session: Session) -> NDArray[np.float32]:
    return session.host((16,), "float32", "a test").array


def read(session: Session, memory: DeviceMemory) -> NDArray[np.float32]:
    found = session.host((16,), "float32", "a test").array
    session.download(found, memory.address)
    session.wait()
    return found


def test_without_cuda_bindings_the_error_says_which_to_get(double: Double) -> None:
    double.remove("cuda-bindings")
    with pytest.raises(DependencyError, match=r"(?s)cuda\.bindings.*>=12\.6,<13' with CUDA 12.*>=13' with CUDA 13"):
        load_bindings()


def test_bindings_that_are_newer_than_the_driver_are_refused_before_they_miss_a_function(
    double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    bindings = importlib.import_module("cuda.bindings")
    monkeypatch.setattr(bindings, "__version__", "14.0.1")
    with pytest.raises(DependencyError, match=r"cuda-bindings 14\.0\.1, and a driver of CUDA 13"):
        load_bindings()
    monkeypatch.setattr(bindings, "__version__", "12.9.4")
    assert load_bindings()


def test_recording_runs_nothing_and_each_launch_runs_it_on_what_lies_there_by_then(
    session: Session, memory: DeviceMemory, host: NDArray[np.float32]
) -> None:
    host[...] = NUMBERS
    graph = Graph(session.handle, partial(session.upload, memory.address, host))
    assert not read(session, memory).any()
    for numbers in (NUMBERS + 1, NUMBERS + 2):
        host[...] = numbers
        graph.launch()
        np.testing.assert_array_equal(read(session, memory), numbers)
    graph.close()


def test_a_launch_is_one_call(double: Double, session: Session, memory: DeviceMemory) -> None:
    def enqueue() -> None:
        for _ in range(5):
            session.clear(memory.address, 64)

    graph = Graph(session.handle, enqueue)
    double.forget()
    graph.launch()
    assert double.calls() == ["cuGraphLaunch"]
    graph.close()


def test_what_is_raised_while_recording_is_raised_and_the_stream_is_as_it_was(
    double: Double, session: Session, memory: DeviceMemory, host: NDArray[np.float32]
) -> None:
    def enqueue() -> None:
        session.upload(memory.address, host)
        raise KeyError

    alive = double.alive()
    host[...] = NUMBERS
    with pytest.raises(KeyError):
        Graph(session.handle, enqueue)
    assert double.alive() == alive
    assert not read(session, memory).any()
    session.upload(memory.address, host)
    np.testing.assert_array_equal(read(session, memory), NUMBERS)


FORBIDDEN: dict[str, Callable[[Session], object]] = {
    "waiting": lambda session: session.wait(),
    "allocating": lambda session: session.memory(64, "a test"),
    "asking whether the context lives": lambda session: session.is_lost(),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_may_not_be_recorded_spoils_the_recording_and_nothing_else(
    double: Double, session: Session, memory: DeviceMemory, what: str
) -> None:
    alive = double.alive()
    with pytest.raises(BackendError, match=r"stream is capturing|error during capture"):
        Graph(session.handle, lambda: FORBIDDEN[what](session) and None)
    assert double.alive() == alive
    assert not session.is_lost()
    graph = Graph(session.handle, partial(session.clear, memory.address, 64))
    graph.close()


@pytest.mark.parametrize("call", ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate", "cuGraphDestroy"])
def test_a_recording_that_cuda_refuses_leaves_no_graph_behind(
    double: Double, session: Session, memory: DeviceMemory, call: str
) -> None:
    double.fail(call)
    if call == "cuGraphDestroy":
        Graph(session.handle, partial(session.clear, memory.address, 64)).close()
        assert "exec" not in double.alive()
        return
    with pytest.raises(BackendError, match=r"could not (record a stream|instantiate a graph): unknown"):
        Graph(session.handle, partial(session.clear, memory.address, 64))
    assert not {"graph", "exec"} & double.alive().keys()
    session.wait()


def test_a_launch_that_cuda_refuses_is_a_backend_error(double: Double, session: Session, memory: DeviceMemory) -> None:
    graph = Graph(session.handle, partial(session.clear, memory.address, 64))
    double.fail("cuGraphLaunch")
    with pytest.raises(BackendError, match="could not launch a graph: unknown"):
        graph.launch()
    graph.launch()
    session.wait()
    graph.close()
    graph.close()
    assert not {"graph", "exec"} & double.alive().keys()


def test_instants_are_apart_by_what_lies_between_them(session: Session, memory: DeviceMemory) -> None:
    marks = Marks(session.handle, 3)
    marks.record(0, recording=False)
    for _ in range(3):
        session.clear(memory.address, 64)
    marks.record(1, recording=False)
    marks.record(2, recording=False)
    session.wait()
    busy, idle = marks.times()
    assert busy > idle >= 0
    marks.close()


def test_instants_in_a_graph_are_those_of_its_last_launch(session: Session, memory: DeviceMemory) -> None:
    marks = Marks(session.handle, 2)

    def enqueue() -> None:
        marks.record(0, recording=True)
        session.clear(memory.address, 64)
        marks.record(1, recording=True)

    graph = Graph(session.handle, enqueue)
    for _ in range(2):
        graph.launch()
        session.wait()
        assert marks.times()[0] > 0
    graph.close()
    marks.close()


def test_instants_that_have_not_come_are_not_told(session: Session, memory: DeviceMemory) -> None:
    marks = Marks(session.handle, 2)
    with pytest.raises(BackendError, match="could not read an event"):
        marks.times()
    marks.record(0, recording=False)
    session.clear(memory.address, 64)
    marks.record(1, recording=False)
    with pytest.raises(BackendError, match="could not read an event: device not ready"):
        marks.times()
    session.wait()
    assert len(marks.times()) == 1
    marks.close()


@pytest.mark.parametrize("nth", [1, 2, 4])
def test_instants_that_cannot_all_be_made_leave_none_behind(double: Double, session: Session, nth: int) -> None:
    alive = double.alive()
    double.fail("cuEventCreate", nth=nth)
    with pytest.raises(BackendError, match="could not make an event"):
        Marks(session.handle, 4)
    assert double.alive() == alive


def test_an_event_that_will_not_go_keeps_no_other(double: Double, session: Session) -> None:
    alive = double.alive()["event"]
    marks = Marks(session.handle, 4)
    double.fail("cuEventDestroy")
    with pytest.raises(BackendError, match="could not destroy an event"):
        marks.close()
    marks.close()
    assert double.alive()["event"] == alive + 1


def test_the_double_asks_for_the_arguments_that_the_real_bindings_ask_for() -> None:
    real = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    stand_in = vars(cuda_bindings.make(Driver()))
    functions = {name: thing for name, thing in stand_in.items() if name.startswith("cu")}
    assert len(functions) > 10
    for name, function in functions.items():
        signature = getattr(real, name).__doc__.partition(")")[0]
        assert signature.count(",") + ("()" not in f"{signature})") == len(inspect.signature(function).parameters)
    for enumeration in ("CUresult", "CUstreamCaptureMode", "CUevent_record_flags"):
        for member in stand_in[enumeration]:
            assert int(getattr(getattr(real, enumeration), member.name)) == member
