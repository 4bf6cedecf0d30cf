from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from edge_cnnlstm.errors import BackendError, ClosedError
from edge_cnnlstm.gpu.cuda import Session
from edge_cnnlstm.runtime.device_state import DeviceState
from edge_cnnlstm.spec import StatePair
from tests.gpu import conftest as gpu_conftest
from tests.gpu.doubles.handle import Double
from tests.runtime.backend_contract import Values, assert_same
from tests.runtime.batch_contract import of_slot

double = gpu_conftest.double

LAYERS, STREAMS = 2, 3
PAIRS = (StatePair("h", "h_next", (LAYERS, STREAMS, 5)), StatePair("c", "c_next", (LAYERS, STREAMS, 4)))


def numbers(seed: int) -> Values:
    generator = np.random.default_rng(seed)
    return {pair.input: generator.normal(0, 1, pair.shape).astype(np.float32) for pair in PAIRS}


@pytest.fixture
def sizes() -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(STREAMS, np.float32), np.zeros(STREAMS, np.float32)


@pytest.fixture
def state(double: Double, sizes: tuple[np.ndarray, np.ndarray]) -> Iterator[DeviceState]:
    session = Session()
    with session:
        state = DeviceState(session, PAIRS, sizes)
    yield state
    session.close()


def test_it_begins_empty_on_both_sides(state: DeviceState) -> None:
    for _ in "01":
        assert_same(state.snapshot(), {pair.input: pair.zeros() for pair in PAIRS})
        state.advance()


def test_each_side_keeps_its_own(state: DeviceState) -> None:
    for seed in (1, 2):
        state.restore(numbers(seed))
        state.advance()
    for seed in (1, 2):
        assert_same(state.snapshot(), numbers(seed))
        state.advance()


def test_no_two_buffers_share_an_address(state: DeviceState) -> None:
    assert len({state.address(side, pair) for side in (0, 1) for pair in PAIRS}) == 4


@pytest.mark.parametrize("slot", range(STREAMS))
def test_a_slot_is_emptied_read_and_set_in_every_layer_and_the_others_stay(state: DeviceState, slot: int) -> None:
    before, other = numbers(1), numbers(2)
    state.restore(before)
    assert_same(state.snapshot(slot), of_slot(before, slot))
    state.restore(of_slot(other, 0), slot)
    for at in range(STREAMS):
        assert_same(state.snapshot(at), of_slot(other, 0) if at == slot else of_slot(before, at))
    state.reset(slot)
    for at in range(STREAMS):
        empty = {name: np.zeros_like(array) for name, array in of_slot(before, at).items()}
        assert_same(state.snapshot(at), empty if at == slot else of_slot(before, at))


@pytest.mark.parametrize("held", [[], [0], [2, 1], [0, 1, 2]])
def test_what_is_held_is_what_the_other_side_has_and_the_rest_stays(state: DeviceState, held: list[int]) -> None:
    state.restore(numbers(1))
    state.advance()
    state.restore(numbers(2))
    state.hold(held)
    for at in range(STREAMS):
        assert_same(state.snapshot(at), of_slot(numbers(1 if at in held else 2), at))


def test_holding_moves_nothing_to_the_processor(double: Double, state: DeviceState) -> None:
    state.restore(numbers(1))
    double.forget()
    state.hold([0, 2])
    state.reset(1)
    assert not [name for name in double.calls() if name in ("cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync")]


def test_its_sizes_tell_whether_it_is_finite_and_no_memory_is_read(
    double: Double, state: DeviceState, sizes: tuple[np.ndarray, np.ndarray]
) -> None:
    state.restore(numbers(1))
    expected = sum(np.abs(array).sum(axis=(0, 2)) for array in numbers(1).values())
    np.testing.assert_allclose(sizes[0], expected, rtol=1e-6)
    double.forget()
    assert state.is_finite()
    assert all(state.is_finite(slot) for slot in range(STREAMS))
    assert double.calls() == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_poison_is_found_in_its_slot_until_that_is_emptied_set_or_held(state: DeviceState, bad: float) -> None:
    sound, poisoned = numbers(1), numbers(1)
    poisoned["c"][1, 2, 3] = bad
    remedies = [lambda: state.reset(2), lambda: state.restore(of_slot(sound, 2), 2), lambda: state.hold([2])]
    for remedy in remedies:
        state.restore(sound)
        state.advance()
        state.restore(poisoned)
        assert [state.is_finite(slot) for slot in range(STREAMS)] == [True, True, False]
        assert not state.is_finite()
        remedy()
        assert state.is_finite()


def test_poison_that_a_step_wrote_is_found(state: DeviceState, sizes: tuple[np.ndarray, np.ndarray]) -> None:
    state.restore(numbers(1))
    state.advance()
    poisoned = numbers(2)
    poisoned["h"][0, 1, 0] = np.nan
    state.restore(poisoned)
    sizes[1][:] = [1, np.nan, 1]
    assert [state.is_finite(slot) for slot in range(STREAMS)] == [True, False, True]


def test_a_sum_that_overflows_is_no_poison(state: DeviceState, sizes: tuple[np.ndarray, np.ndarray]) -> None:
    state.restore({name: np.full_like(array, 3e38) for name, array in numbers(1).items()})
    assert np.isinf(sizes[0]).all()
    assert state.is_finite()


def test_a_snapshot_that_does_not_fit_reaches_nothing(double: Double, state: DeviceState) -> None:
    state.restore(numbers(1))
    double.forget()
    for snapshot, slot in (({}, None), (numbers(2), 1), (of_slot(numbers(2), 0), None)):
        with pytest.raises(BackendError, match="expected"):
            state.restore(snapshot, slot)
    assert double.calls() == []


def test_what_cuda_refuses_is_a_backend_error_and_the_next_call_works(double: Double, state: DeviceState) -> None:
    for call in (state.reset, state.snapshot, lambda: state.restore(numbers(1)), lambda: state.hold([0])):
        double.fail("cuMem*Async")
        with pytest.raises(BackendError, match="could not"):
            call()
    state.restore(numbers(1))
    assert_same(state.snapshot(), numbers(1))


def test_once_its_session_is_closed_it_is_out_of_reach(double: Double, state: DeviceState) -> None:
    state._session.close()
    double.forget()
    for call in (state.reset, state.snapshot, state.is_finite, lambda: state.restore({}), lambda: state.hold([0])):
        with pytest.raises(ClosedError):
            call()
    assert double.calls() == []
