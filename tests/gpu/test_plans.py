from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_cnnlstm.errors import ConfigError, ExportError
from edge_cnnlstm.gpu import plans
from edge_cnnlstm.gpu.context import Device
from edge_cnnlstm.gpu.engine import DEFAULT, Configuration, Plan
from edge_cnnlstm.gpu.plans import MOST, Key, Miss, PlanCache, StoredPlan, default_folder, key_of, plan_for
from tests.gpu.disk import KEY, NEW, OLD, Disk

ROOT = Path(__file__).parents[2]
ORIN = Device("Orin", "8.7", "12.6", 8 << 30, integrated=True, maps_host_memory=True, multiprocessors=8)
SMALL = Plan(b"\x00plan\n\xff", 0.25, "tensorrt 10.3.0", 3, {"gates": "fp16"}, None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "plans"


@pytest.fixture
def cache(folder: Path) -> PlanCache:
    return PlanCache(folder)


def reason(found: StoredPlan | Miss) -> str:
    assert isinstance(found, Miss), found
    return found.reason


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What this module logged: TensorRT has its own to say."""
    return [record.getMessage() for record in caplog.records if record.name == plans.__name__]


def names(folder: Path, ending: str = ".plan") -> set[str]:
    return {path.name for path in folder.iterdir() if path.name.endswith(ending)}


def in_a_process(what: str, folder: Path) -> Any:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.gpu.disk", what, str(folder)], cwd=ROOT, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """A disk on which files of this many bytes have room, by the kernel's own refusal."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_is_kept_is_found_as_it_was(cache: PlanCache, folder: Path) -> None:
    kept = cache.keep(KEY, OLD)

    found = PlanCache(folder).find(KEY)

    assert found == StoredPlan(OLD, kept, why=None)
    assert found.data == OLD.data
    assert kept.parent == folder


def test_a_new_plan_takes_the_place_of_the_old(cache: PlanCache, folder: Path) -> None:
    cache.keep(KEY, OLD)
    cache.keep(KEY, NEW)

    assert cache.find(KEY) == StoredPlan(NEW, folder / KEY.plan_file)
    assert len(names(folder)) == 1


def test_without_a_folder_or_a_plan_of_the_graph_it_was_never_built(cache: PlanCache, folder: Path) -> None:
    assert reason(cache.find(KEY)) == "never built here"
    assert not folder.exists()

    cache.keep(replace(KEY, graph="cd" * 32), OLD)

    assert reason(cache.find(KEY)) == "never built here"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"tensorrt": "tensorrt 10.16.2"}, "built before by tensorrt 10.3.0, this is tensorrt 10.16.2"),
        ({"gpu": "Thor"}, "built before for GPU Orin, this is Thor"),
        ({"compute_capability": "11.0"}, "built before for compute capability 8.7, this is 11.0"),
        ({"driver": "580.0"}, "built before with driver 540.4.0 with CUDA 12.6, this is 580.0"),
        ({"l4t": "36.5.0"}, "built before on L4T 36.4.3, this is 36.5.0"),
        ({"l4t": None}, "built before on L4T 36.4.3, this is None"),
        (
            {"purpose": "batch 8, watching h_next"},
            "built before for batch 1, watching h_next, this is batch 8, watching h_next",
        ),
        (
            {"tensorrt": "tensorrt 10.16.2", "l4t": "39.2.0"},
            "built before by tensorrt 10.3.0, this is tensorrt 10.16.2; on L4T 36.4.3, this is 39.2.0",
        ),
    ],
)
def test_a_plan_that_differs_in_any_part_of_the_key_is_not_taken_and_the_part_is_named(
    cache: PlanCache, changed: dict[str, str | None], words: str
) -> None:
    cache.keep(KEY, OLD)

    assert reason(cache.find(replace(KEY, **changed))) == words


def test_of_several_plans_the_one_that_differs_least_is_named(cache: PlanCache) -> None:
    here = replace(KEY, tensorrt="tensorrt 11.4.0", driver="600.0", l4t="40.0")
    for key in (KEY, replace(here, l4t="39.2.0"), replace(KEY, driver="600.0")):
        cache.keep(key, OLD)

    assert reason(cache.find(here)) == "built before on L4T 39.2.0, this is 40.0"


def test_a_stranger_that_is_not_sound_says_nothing_about_the_plan_that_is_asked_for(
    cache: PlanCache, folder: Path
) -> None:
    kept = cache.keep(replace(KEY, driver="other"), OLD)
    (folder / f"{KEY.graph[:16]}-junk.plan").write_bytes(b"junk")
    kept.chmod(0o666)
    cache.keep(replace(KEY, graph="cd" * 32), OLD).rename(folder / f"{KEY.graph[:16]}-renamed.plan")

    assert reason(cache.find(KEY)) == "never built here"


def test_a_plan_with_any_byte_changed_is_not_taken_and_the_next_build_mends_it(cache: PlanCache) -> None:
    file = cache.keep(KEY, SMALL)
    sound = file.read_bytes()

    for at in range(len(sound)):
        for bit in (0x01, 0x20, 0x80):
            file.write_bytes(sound[:at] + bytes([sound[at] ^ bit]) + sound[at + 1 :])
            assert "is damaged" in reason(cache.find(KEY)), (at, bit)

    cache.keep(KEY, SMALL)
    assert cache.find(KEY) == StoredPlan(SMALL, file)


def test_a_plan_cut_or_extended_anywhere_is_not_taken(cache: PlanCache) -> None:
    file = cache.keep(KEY, SMALL)
    sound = file.read_bytes()

    for size in range(len(sound)):
        file.write_bytes(sound[:size])
        assert "is damaged" in reason(cache.find(KEY)), size
    file.write_bytes(sound + b"\0")
    assert "is damaged" in reason(cache.find(KEY))


@pytest.mark.parametrize("facts", [{}, [], {"key": {}}, {"key": None}, {"key": {"graph": "ab"}, "seconds": 1}])
def test_a_sound_file_of_another_release_is_not_taken(cache: PlanCache, facts: object) -> None:
    file = cache.keep(KEY, SMALL)
    body = json.dumps(facts).encode() + b"\nplan"
    file.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)

    assert "is damaged" in reason(cache.find(KEY))


def test_a_plan_under_another_ones_name_is_not_taken(cache: PlanCache, folder: Path) -> None:
    other = replace(KEY, driver="other")
    cache.keep(other, OLD).rename(folder / KEY.plan_file)

    assert "not what its name says" in reason(cache.find(KEY))


def test_whichever_call_fails_the_old_plan_or_the_new_one_is_whole(
    cache: PlanCache, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (errno.ENOSPC, errno.EROFS, errno.EIO):
        failures = 0
        for at in range(100):
            cache.keep(KEY, OLD)
            with monkeypatch.context() as patch:
                patch.setattr("edge_cnnlstm.gpu.private.os", Disk(at, lambda number=number: fail(number)))
                try:
                    cache.keep(KEY, NEW)
                except OSError as error:
                    assert error.errno == number  # noqa: PT017 - the last round succeeds
                    failures += 1
                else:
                    break
            found = cache.find(KEY)
            assert isinstance(found, StoredPlan)
            assert found.plan in (OLD, NEW)
            assert names(folder, "") == {KEY.plan_file, ".lock"}
        assert failures > 10


def fail(number: int) -> None:
    raise OSError(number, os.strerror(number))


def test_a_disk_that_cannot_be_read_is_a_reason_to_build(cache: PlanCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.keep(KEY, OLD)
    reasons = set()
    for at in range(100):
        with monkeypatch.context() as patch:
            patch.setattr("edge_cnnlstm.gpu.private.os", Disk(at, lambda: fail(errno.EIO)))
            found = cache.find(KEY)
        if isinstance(found, StoredPlan):
            break
        reasons.add(found.reason)

    assert isinstance(found, StoredPlan)
    assert len(reasons) == 1
    assert reasons.pop().endswith("cannot be read: Input/output error")


def test_a_process_killed_at_any_call_leaves_the_old_plan_or_the_new_one_and_the_next_one_sweeps(folder: Path) -> None:
    ends = in_a_process("killed", folder)

    assert len(ends) > 10
    *killed, (last, *found, files) = ends
    assert (last, found, files) == (0, [True, False], [".lock", KEY.plan_file])
    for code, new, old, _ in killed:
        assert code == -9
        assert new != old
    left = [sum(name.endswith(".unfinished") for name in files) for *_, files in ends]
    # Each was swept before the next could leave another.
    assert max(left) == 1
    assert [new for _, new, *_ in killed] == sorted(new for _, new, *_ in killed)


def test_what_is_not_ours_is_not_swept(cache: PlanCache, folder: Path) -> None:
    cache.keep(KEY, OLD)
    for name in (".unfinished", "other.unfinished", ".edge-cnnlstm-notes", ".edge-cnnlstm-1.unfinished"):
        (folder / name).write_bytes(b"")

    cache.keep(KEY, OLD)

    assert names(folder, "") == {
        ".lock", ".unfinished", "other.unfinished", ".edge-cnnlstm-notes", KEY.plan_file,
    }  # fmt: skip


def test_processes_that_keep_one_plan_at_once_always_leave_a_whole_one(folder: Path) -> None:
    assert in_a_process("together", folder) == [0, 0, 0, 0]
    assert names(folder, "") == {".lock", KEY.plan_file}


def test_the_plans_that_were_used_least_recently_go_first_but_never_the_newest(cache: PlanCache, folder: Path) -> None:
    keys = [replace(KEY, driver=str(number)) for number in range(MOST)]
    for number, key in enumerate(keys):
        os.utime(cache.keep(key, SMALL), (1000 + number, 1000 + number))
    used = cache.find(keys[0])
    assert isinstance(used, StoredPlan)

    # As though the clock had been set back since: the new plan is the oldest by its time.
    for file in folder.iterdir():
        later = file.stat().st_mtime + 2e9
        os.utime(file, (later, later))
    cache.keep(KEY, SMALL)

    assert names(folder) == {key.plan_file for key in (KEY, keys[0], *keys[2:])}


def test_timing_caches_are_kept_by_tensorrt_and_gpu_whatever_the_graph(cache: PlanCache, folder: Path) -> None:
    assert cache.timing_cache(KEY) is None
    file = cache.keep_timing_cache(KEY, b"timings")

    other = replace(KEY, graph="cd" * 32, driver="600.0", l4t=None, purpose="batch 8")
    assert cache.timing_cache(other) == b"timings"
    for name in ("tensorrt", "gpu", "compute_capability"):
        another = replace(KEY, **{name: "another"})
        assert cache.timing_cache(another) is None
        shutil.copy2(file, folder / another.timing_file)
        assert cache.timing_cache(another) is None
        (folder / another.timing_file).unlink()

    sound = file.read_bytes()
    for at in range(len(sound)):
        file.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
        assert cache.timing_cache(KEY) is None, at
    file.write_bytes(sound)
    file.chmod(0o666)
    with pytest.raises(ConfigError, match="others can write"):
        cache.timing_cache(KEY)
    assert names(folder, ".timing") == {file.name}


def test_a_folder_that_others_can_write_is_neither_read_nor_written(cache: PlanCache, folder: Path) -> None:
    cache.keep(KEY, OLD)
    folder.chmod(0o777)
    before = names(folder, "")

    for call in (
        lambda: cache.find(KEY),
        lambda: cache.keep(KEY, NEW),
        lambda: cache.timing_cache(KEY),
        lambda: cache.keep_timing_cache(KEY, b"timings"),
    ):
        with pytest.raises(ConfigError, match="others can write"):
            call()

    assert names(folder, "") == before


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"CACHE_DIRECTORY": "/var/cache/edge:/var/cache/other", "XDG_CACHE_HOME": "/x"}, "/var/cache/edge/plans"),
        ({"CACHE_DIRECTORY": "", "XDG_CACHE_HOME": "/x"}, "/x/edge-cnnlstm/plans"),
        ({"XDG_CACHE_HOME": "", "HOME": "/home/me"}, "/home/me/.cache/edge-cnnlstm/plans"),
    ],
)
def test_plans_are_kept_where_systemd_says_or_in_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], place: str
) -> None:
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert default_folder() == Path(place)


def test_a_user_without_a_home_is_told_to_name_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", nowhere)

    with pytest.raises(ConfigError, match="CACHE_DIRECTORY"):
        PlanCache()


@pytest.fixture(scope="module")
def trt() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is built for Linux only")


def build(onnx: bytes, trt: Any, folder: Path, **changes: Any) -> StoredPlan:
    options = {"watch": ["h_next"], "trt": trt, "device": ORIN, "folder": folder} | changes
    digest = hashlib.sha256(onnx).hexdigest()
    configuration = options.pop("configuration", DEFAULT)
    return plan_for(onnx, "tiny", digest, configuration, **options)


def test_a_plan_is_built_once_and_then_taken(
    tiny_onnx: bytes, trt: Any, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger=plans.__name__)
    told: list[str] = []

    built = build(tiny_onnx, trt, folder, progress=lambda phase, done, total: told.append(phase))
    assert told
    told.clear()
    taken = build(tiny_onnx, trt, folder, progress=lambda phase, done, total: told.append(phase))

    assert built.why == "never built here"
    assert taken == StoredPlan(built.plan, built.file)
    assert built.plan.precisions
    assert not told
    assert said(caplog) == ["graph 'tiny': building a plan, which may take minutes: never built here"]


def test_a_plan_that_was_built_by_hand_in_another_way_serves_a_run_the_last_first(
    tiny_onnx: bytes, trt: Any, folder: Path
) -> None:
    levels = {level: Configuration(optimization_level=level) for level in (None, 0, 1)}
    files = {level: build(tiny_onnx, trt, folder, configuration=levels[level]).file for level in levels}
    assert len(set(files.values())) == 3

    assert build(tiny_onnx, trt, folder).file == files[1]
    again = build(tiny_onnx, trt, folder, again=True)
    assert (again.file, again.why) == (files[None], "it is to be built again")
    assert files[1] is not None
    assert not files[1].exists()
    assert build(tiny_onnx, trt, folder) == StoredPlan(again.plan, again.file)
    assert build(tiny_onnx, trt, folder, configuration=levels[0]).file == files[0]
    assert build(tiny_onnx, trt, folder, configuration=Configuration(batch=2)).why is not None


def test_all_that_changes_the_plan_is_in_its_key(trt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(configuration: Configuration = DEFAULT, watch: tuple[str, ...] = ("h",), **device: Any) -> Key:
        return key_of("ab", configuration, watch=watch, trt=trt, device=replace(ORIN, **device))

    keys = [
        key(),
        key(Configuration(batch=2)),
        key(Configuration(optimization_level=0)),
        key(Configuration(workspace_bytes=1 << 20)),
        key(watch=("h", "c")),
        key(watch=()),
        key(name="Thor"),
        key(multiprocessors=4),
        key(memory_bytes=16 << 30),
        key(compute_capability="11.0"),
        key(driver="13.0"),
    ]
    for name in ("l4t_release", "driver_version"):
        monkeypatch.setattr(plans, name, lambda: "another")
        keys.append(key())
    monkeypatch.setattr(trt, "__version__", "99.0")
    keys.append(key())

    assert len({each.plan_file for each in keys}) == len(keys) == 14


def test_a_plan_that_has_no_room_still_serves_and_the_old_one_stays(
    tiny_onnx: bytes, trt: Any, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = build(tiny_onnx, trt, folder)
    assert old.file is not None
    before = old.file.read_bytes()
    with no_file_above(5000):
        new = build(tiny_onnx, trt, folder, configuration=Configuration(batch=2))

    assert new.file is None
    assert len(new.data) > 5000
    assert said(caplog)[-1] == "graph 'tiny': its plan serves, but could not be kept: File too large"
    assert names(folder, "") == {".lock", old.file.name}
    assert old.file.read_bytes() == before


def test_a_disk_that_cannot_be_written_costs_a_warning_and_not_the_plan(
    tiny_onnx: bytes, trt: Any, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: fail(errno.EROFS))

    assert build(tiny_onnx, trt, folder).file is None

    assert said(caplog)[-1] == "graph 'tiny': its plan serves, but could not be kept: Read-only file system"


def test_timings_are_handed_to_the_next_build_and_what_that_returns_is_kept(
    trt: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # TensorRT-RTX times nothing when it builds: what it is given and returns is written down instead.
    given: list[bytes | None] = []

    def builder(*_: Any, timing_cache: bytes | None, **__: Any) -> Plan:
        given.append(timing_cache)
        return replace(SMALL, timing_cache=b"timings %d" % len(given))

    monkeypatch.setattr(plans, "build_plan", builder)
    for name in (b"a", b"b", b"c"):
        assert build(name, trt, folder).why == "never built here"

    assert given == [None, b"timings 1", b"timings 2"]


def test_a_build_that_fails_leaves_nothing(trt: Any, folder: Path) -> None:
    with pytest.raises(ExportError, match="refused"):
        build(b"not an ONNX file", trt, folder)

    assert not folder.exists()


def test_in_a_folder_that_others_can_write_nothing_is_built(tiny_onnx: bytes, trt: Any, folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)

    with pytest.raises(ConfigError, match="chmod go-w"):
        build(tiny_onnx, trt, folder)

    assert not names(folder, "")


def test_a_board_that_a_start_left_a_little_less_memory_is_the_same_board(trt: Any) -> None:
    nano, later, nx = (
        key_of("ab", DEFAULT, watch=("h",), trt=trt, device=replace(ORIN, memory_bytes=size))
        for size in (7_990_000_000, 7_990_020_480, 15_650_000_000)
    )

    assert nano == later != nx
