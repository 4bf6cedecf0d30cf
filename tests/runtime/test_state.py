"""Memory of several streams in host buffers: each slot for itself, whichever side of the ping-pong is current."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from numpy.typing import NDArray

from edge_cnnlstm.errors import BackendError, ClosedError
from edge_cnnlstm.runtime.state import RecurrentState, is_finite
from edge_cnnlstm.spec import StatePair
from tests.runtime.backend_contract import assert_same

SLOTS = 3
PAIRS = (StatePair("h", "h_next", (2, SLOTS, 4)), StatePair("c", "c_next", (1, SLOTS, 3)))
Memory = dict[str, NDArray[np.generic]]

slots = st.integers(0, SLOTS - 1)


def slot_of(memory: Memory, slot: int | None) -> Memory:
    return memory if slot is None else {name: array[:, slot : slot + 1] for name, array in memory.items()}


def put(memory: Memory, slot: int | None, values: Memory) -> None:
    for name, array in slot_of(memory, slot).items():
        array[...] = values[name]


def fill(state: RecurrentState, value: float) -> None:
    """Write as a step does: to the side that is not current."""
    for offset, buffer in enumerate(state.buffers(1 - state.side).values()):
        buffer[...] = np.arange(buffer.size).reshape(buffer.shape) + 100 * value + offset


class EachSlotRemembersWhatItAloneWasGiven(RuleBasedStateMachine):
    """Three streams' memory against three plain dictionaries."""

    snapshots = Bundle("snapshots")

    def __init__(self) -> None:
        super().__init__()
        self.state = RecurrentState(PAIRS)
        self.expected: Memory = self.state.snapshot()
        self.steps = 0

    @rule(held=st.sets(slots))
    def step(self, held: set[int]) -> None:
        before = self.expected
        self.failing_step()
        self.expected = {name: array.copy() for name, array in self.state.buffers(1 - self.state.side).items()}
        self.state.advance()
        self.state.hold(held)
        for slot in held:
            put(self.expected, slot, slot_of(before, slot))

    @rule()
    def failing_step(self) -> None:
        self.steps += 1
        fill(self.state, self.steps)

    @rule(slot=st.none() | slots)
    def reset(self, slot: int | None) -> None:
        self.state.reset(slot)
        put(self.expected, slot, {pair.input: np.float32(0) for pair in PAIRS})  # type: ignore[arg-type,misc]

    @rule(target=snapshots, slot=slots)
    def snapshot(self, slot: int) -> Memory:
        return self.state.snapshot(slot)

    @rule(memory=snapshots, slot=slots)
    def restore(self, memory: Memory, slot: int) -> None:
        self.state.restore(memory, slot)
        put(self.expected, slot, memory)

    @invariant()
    def agrees(self) -> None:
        assert_same(self.state.snapshot(), self.expected)
        for slot in range(SLOTS):
            assert_same(self.state.snapshot(slot), slot_of(self.expected, slot))


def test_each_slot_remembers_what_it_alone_was_given() -> None:
    run_state_machine_as_test(EachSlotRemembersWhatItAloneWasGiven)


@given(
    npst.arrays(
        np.float32, st.integers(1, 12), elements=st.floats(width=32) | st.sampled_from([3e38, -3e38, np.inf, np.nan])
    )
)
def test_finite_means_neither_nan_nor_infinity_and_is_asked_in_silence(array: NDArray[np.float32]) -> None:
    assert is_finite(array) == bool(np.isfinite(array).all())


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_poison_is_found_in_its_slot_and_in_no_other(side: int, bad: float) -> None:
    state = RecurrentState(PAIRS)
    for _ in range(side):
        state.advance()
    state.buffers(1 - side)["h"][...] = bad  # what the last step read is of no concern
    assert state.is_finite()
    state.buffers(side)["c"][0, 1, 2] = bad
    assert [state.is_finite(slot) for slot in range(SLOTS)] == [True, False, True]
    assert not state.is_finite()
    state.reset(1)
    assert state.is_finite()


@pytest.mark.parametrize("slots", [2, 3])
def test_a_snapshot_of_one_stream_does_not_fit_all_of_them_nor_the_other_way_round(slots: int) -> None:
    state = RecurrentState(PAIRS)
    fill(state, 1)
    state.advance()
    before = state.snapshot()
    with pytest.raises(BackendError, match="snapshot"):
        state.restore(state.snapshot(0))
    with pytest.raises(BackendError, match="snapshot"):
        state.restore({name: array[:, :slots] for name, array in before.items()}, 0)
    assert_same(state.snapshot(), before)


@pytest.mark.parametrize(
    "use",
    [
        RecurrentState.reset,
        RecurrentState.snapshot,
        RecurrentState.is_finite,
        lambda state: state.restore({}),
        lambda state: state.hold([0]),
    ],
)
def test_memory_that_was_given_up_is_out_of_reach(use: Callable[[RecurrentState], object]) -> None:
    state = RecurrentState(PAIRS)
    state.release()
    with pytest.raises(ClosedError):
        use(state)


def test_the_buffers_are_the_same_ones_for_ever() -> None:
    state = RecurrentState(PAIRS)
    before = [id(buffer) for side in (0, 1) for buffer in state.buffers(side).values()]
    memory = state.snapshot()
    for _ in range(3):
        state.advance()
        state.hold([0])
        state.reset()
        state.restore(memory)
    assert [id(buffer) for side in (0, 1) for buffer in state.buffers(side).values()] == before
