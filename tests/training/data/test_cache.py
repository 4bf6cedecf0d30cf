from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
from typing import Any

import numpy as np
import pytest

from edge_cnnlstm.training.data.cache import SharedFrames


def frames(count: int, level: int) -> Any:
    return np.full((count, 4, 6, 3), level, np.uint8)


def in_a_fork(work: Any, *arguments: Any) -> int:
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


def test_what_one_process_stores_all_others_read() -> None:
    store = SharedFrames(3, 4, 6, 10_000)
    assert in_a_fork(store.put, 1, frames(5, 77), 9) == 0
    assert store.get(0) is None
    kept = store.get(1)
    assert kept is not None
    np.testing.assert_array_equal(kept.frames, frames(5, 77))
    assert kept.number == 9
    with pytest.raises(ValueError, match="read-only"):
        kept.frames[:] = 0


def test_an_entry_is_written_once() -> None:
    store = SharedFrames(2, 4, 6, 10_000)
    assert store.put(0, frames(2, 1), 2)
    assert not store.put(0, frames(2, 9), 2)
    kept = store.get(0)
    assert kept is not None
    assert kept.frames.max() == 1


def test_the_cap_is_never_passed() -> None:
    store = SharedFrames(9, 4, 6, 5 * 4 * 6 * 3)
    assert store.has_room(5)
    assert not store.has_room(6)
    assert not store.put(0, frames(6, 1), 6)
    assert store.put(1, frames(3, 2), 3)
    assert not store.put(2, frames(3, 3), 3)
    assert store.put(3, frames(2, 4), 2)
    assert not store.has_room(1)
    assert [store.get(key) is not None for key in range(4)] == [False, True, False, True]


def test_frames_outlive_the_store_for_whoever_holds_them() -> None:
    store = SharedFrames(1, 4, 6, 10_000)
    store.put(0, frames(3, 5), 3)
    kept = store.get(0)
    del store
    assert kept is not None
    assert (kept.frames == 5).all()


def test_processes_that_write_at_once_never_mix_their_frames() -> None:
    keys, count = 60, 7
    store = SharedFrames(keys, 4, 6, 40 * count * 4 * 6 * 3)

    def work(seed: int) -> None:
        for key in np.random.default_rng(seed).permutation(keys):
            store.put(int(key), frames(count, int(key)), count)

    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    kept = {key: found for key in range(keys) if (found := store.get(key)) is not None}
    assert len(kept) == 40
    assert all((found.frames == key).all() for key, found in kept.items())


def test_a_worker_that_is_killed_while_it_writes_blocks_nobody_and_leaves_nothing_half() -> None:
    store = SharedFrames(2, 4, 6, 10_000)
    context = multiprocessing.get_context("fork")
    halfway = context.Event()

    def work() -> None:
        fcntl.lockf(store._file, fcntl.LOCK_EX)
        store._memory[-10_000:-9_000] = b"\xee" * 1_000
        halfway.set()
        signal.pause()

    worker = context.Process(target=work)
    worker.start()
    assert halfway.wait(60)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(60)
    assert store.get(0) is None
    assert store.put(0, frames(5, 3), 5)
    kept = store.get(0)
    assert kept is not None
    assert (kept.frames == 3).all()


def test_a_key_is_marked_by_the_first_process_alone() -> None:
    store = SharedFrames(4, 4, 6, 0)
    assert in_a_fork(store.mark, 2) == 0
    assert not store.mark(2)
    assert store.mark(3)
    assert store.marked().tolist() == [2, 3]
