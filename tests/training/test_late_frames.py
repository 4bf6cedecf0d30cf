"""What becomes of late frames, by hand for a few, and as a whole for many."""

from __future__ import annotations

import numpy as np
import pytest

from edge_cnnlstm.runtime import mailbox
from edge_cnnlstm.training import late_frames
from edge_cnnlstm.training.late_frames import (
    POLICIES,
    QUEUE_FRAMES,
    Policy,
    course,
    service_times,
    settled_age,
    skipped,
)

LOADS = (0.0, 0.05, 0.1, 0.3, 0.5, 0.75, 0.9)


def test_the_newest_frame_replaces_the_one_that_waits() -> None:
    # Taken at 0 until 2.5; frame 2, which replaced 1, until 5; frame 4, which replaced 3, until 6; 5 until 7; 6 waits.
    found = course("newest", np.array([2.5, 2.5, 1.0, 1.0, 1.0, 1.0, 1.0]), load=0.5)

    assert found.taken.tolist() == [0, 2, 4, 5]
    assert found.answered.tolist() == [-1, -1, 0, 0, 2, 4, 5]
    assert found.ages.tolist() == [1, 2, 2, 3, 2, 1, 1]
    assert (found.dropped, found.waited) == (3, 1)


def test_every_frame_waits_its_turn_and_answers_grow_old() -> None:
    found = course("every", np.full(7, 2.0), load=0.5)

    assert found.taken.tolist() == [0, 1, 2, 3]
    assert found.answered.tolist() == [-1, 0, 0, 1, 1, 2, 2]
    assert found.ages[1:].tolist() == [1, 2, 2, 3, 3, 4]
    assert (found.dropped, found.waited) == (3, 3)


def test_one_frame_of_so_many_is_looked_at() -> None:
    found = course("skip-k", np.full(7, 1.5), load=1 / 3)

    assert skipped(1 / 3) == 1
    assert found.taken.tolist() == [0, 2, 4, 6]
    assert found.answered.tolist() == [-1, 0, 0, 2, 2, 4, 4]
    assert found.dropped == 3


def test_a_queue_that_is_full_loses_what_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late_frames, "QUEUE_FRAMES", 2)

    found = course("every", np.full(9, 4.0), load=0.75)

    # 1 and 2 wait, 3 is lost; 1 is taken at 4, when 4 comes; 5 to 7 are lost.
    assert found.taken.tolist() == [0, 1, 2]
    assert course("every", np.full(20, 4.0), load=0.75).taken.tolist() == [0, 1, 2, 4, 8]
    assert (found.dropped, found.waited) == (6, 2)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("load", LOADS)
def test_every_frame_is_taken_or_dropped_and_answers_only_get_newer(policy: Policy, load: float) -> None:
    frames = 3000
    found = course(policy, service_times(frames, load, np.random.default_rng(4)), load)

    assert len(found.taken) + found.dropped == frames
    assert (np.diff(found.taken) > 0).all()
    assert (np.diff(found.answered) >= 0).all()
    assert (found.ages >= 0).all()
    assert set(found.answered.tolist()) <= set(found.taken.tolist())
    assert found.waited <= (QUEUE_FRAMES if policy == "every" else 1)
    if policy != "skip-k":
        assert found.dropped / frames == pytest.approx(load, abs=0.03)
    else:
        assert set(np.diff(found.taken).tolist()) == {skipped(load) + 1}


@pytest.mark.parametrize("policy", POLICIES)
def test_without_load_every_frame_has_its_own_answer(policy: Policy) -> None:
    found = course(policy, service_times(50, 0.0, np.random.default_rng(0)), 0.0)

    assert found.taken.tolist() == found.answered.tolist() == list(range(50))
    assert settled_age(policy, 0.0) == 0


@pytest.mark.parametrize("load", LOADS)
def test_service_times_vary_and_the_first_answer_is_there_at_once(load: float) -> None:
    service = service_times(20_000, load, np.random.default_rng(1))

    assert service[0] == 1
    assert service.min() >= 1
    assert service.mean() == pytest.approx(1 / (1 - load), rel=0.02)
    assert service.max() <= skipped(load) + 1
    for policy in POLICIES:
        assert course(policy, service[:24], load).answered[0] == 0


def test_a_slower_network_is_slower_with_every_frame() -> None:
    slow, slower = (service_times(100, load, np.random.default_rng(2)) - 1 for load in (0.2, 0.5))

    np.testing.assert_allclose(slower, slow * 4)


def test_a_stream_that_queues_ends_up_a_queue_behind_and_others_do_not() -> None:
    assert settled_age("newest", 0.5) < 3
    assert settled_age("skip-k", 0.5) < 3
    assert settled_age("every", 0.5) == pytest.approx(2 * QUEUE_FRAMES, abs=4)


def test_the_queue_is_the_runtimes() -> None:
    assert mailbox.QUEUE_FRAMES == QUEUE_FRAMES
