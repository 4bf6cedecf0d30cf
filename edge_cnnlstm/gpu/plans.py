"""Plans that were built on this device, kept for its next start.

A plan is code. It is read from a folder that only this user and root can write, and never from a bundle. That it was
kept whole does not make it right: whoever takes one proves it against the golden rollout.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.gpu.board import driver_version, l4t_release
from edge_cnnlstm.gpu.context import Device
from edge_cnnlstm.gpu.engine import DEFAULT, Configuration, Plan, build_plan
from edge_cnnlstm.gpu.private import PrivateFolder, open_private, user_folder
from edge_cnnlstm.gpu.progress import Progress
from edge_cnnlstm.gpu.tensorrt import version

log = logging.getLogger(__name__)

MOST = 16
"""Plans that are kept, and timing caches: those that were not used for longest go first."""
_PLAN, _TIMING = ".plan", ".timing"


@dataclass(frozen=True, slots=True)
class Key:
    """All that a plan depends on: one that differs in any of these is not taken.

    `graph` is the ONNX file's SHA-256 in hexadecimal, `tensorrt` the module and its full version, `l4t` None off a
    Jetson. `multiprocessors` and `memory_gib` tell boards apart that CUDA calls by one name, and power modes; the
    memory is rounded up, because a start of a board may leave a little more or less of it.
    `purpose` is what the plan is for and `effort` how it was built, a line each.
    """

    graph: str
    tensorrt: str
    gpu: str
    compute_capability: str
    multiprocessors: int
    memory_gib: int
    driver: str
    l4t: str | None
    purpose: str
    effort: str

    @property
    def plan_file(self) -> str:
        """The name of the plan's file; those of one graph begin alike."""
        return f"{self.graph[:16]}-{_name(asdict(self))}{_PLAN}"

    @property
    def timing(self) -> dict[str, Any]:
        """All that a timing cache depends on: graphs share it."""
        shared = ("tensorrt", "gpu", "compute_capability", "multiprocessors")
        return {name: getattr(self, name) for name in shared}

    @property
    def timing_file(self) -> str:
        """The name of the timing cache's file."""
        return _name(self.timing) + _TIMING


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """A plan, where it is kept (None when it could not be), and why it was built just now (None when it was there)."""

    plan: Plan
    file: Path | None
    why: str | None = None

    @property
    def data(self) -> bytes:
        """The plan itself, for `engine.deserialize`."""
        return self.plan.data


@dataclass(frozen=True, slots=True)
class Miss:
    """Why there is no plan to take, in a line."""

    reason: str


class PlanCache:
    """The plans of one folder, `default_folder()` unless another is given.

    Every call raises ConfigError when others can write the folder, one above it, or the file it would read.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or default_folder()

    def find(self, key: Key, *, in_any_effort: bool = False) -> StoredPlan | Miss:
        """Return the plan that was kept under this key, or why there is none to take.

        `in_any_effort` takes one that was built in another effort, too: that which was built or used last.
        """
        try:
            with open_private(self._folder) as folder:
                why, like = None, list[Key]()
                for name in folder.latest_first(_PLAN):
                    if name == key.plan_file:
                        found = _parse(folder.read(name) or b"")
                        sound = found is not None and found[0] == key
                        why = None if sound else f"{folder.path / name} is damaged, or not what its name says"
                    elif name.startswith(key.graph[:16]):
                        found = _other(folder, name)
                    else:
                        continue
                    if found is not None and found[0] in (key, in_any_effort and replace(key, effort=found[0].effort)):
                        folder.touch(name)
                        return StoredPlan(found[1], folder.path / name)
                    like += [found[0]] if found is not None and found[0].graph == key.graph else []
                return Miss(why or _nearest(like, key))
        except FileNotFoundError:
            return Miss("never built here")
        except OSError as error:
            return Miss(f"{self._folder} cannot be read: {error.strerror}")

    def drop(self, plan: StoredPlan) -> None:
        """Remove a plan that serves no more; what cannot be removed stays."""
        if plan.file is not None:
            with suppress(OSError), open_private(self._folder) as folder, folder.locked():
                folder.remove(plan.file.name)

    def keep(self, key: Key, plan: Plan) -> Path:
        """Keep a plan, whole or not at all, and return where; raises OSError when the disk refuses.

        A plan under the same key serves until this one is on the disk. Processes that keep one at the same time take
        turns.
        """
        facts = asdict(plan)
        del facts["data"], facts["timing_cache"]
        return self._write(key.plan_file, _sealed({"key": asdict(key), **facts}, plan.data), _PLAN)

    def timing_cache(self, key: Key) -> bytes | None:
        """Return what builders measured on this GPU before; None when that was not kept whole."""
        try:
            with open_private(self._folder) as folder:
                facts, data = _unsealed(folder.read(key.timing_file) or b"")
                return data if facts == key.timing else None
        except (OSError, ValueError):
            return None

    def keep_timing_cache(self, key: Key, data: bytes) -> Path:
        """Keep what a builder measured, as `keep` keeps a plan."""
        return self._write(key.timing_file, _sealed(key.timing, data), _TIMING)

    def _write(self, name: str, content: bytes, ending: str) -> Path:
        with open_private(self._folder, make=True) as folder, folder.locked():
            folder.write(name, content)
            # A clock that was set back would make the one just written the oldest.
            others = [other for other in folder.latest_first(ending) if other != name]
            for other in others[MOST - 1 :]:
                folder.remove(other)
            return folder.path / name


def plan_for(
    onnx: bytes,
    name: str,
    digest: str,
    configuration: Configuration,
    *,
    watch: Sequence[str],
    trt: Any,
    device: Device,
    progress: Progress | None = None,
    again: bool = False,
    folder: Path | None = None,
) -> StoredPlan:
    """Return the plan of a graph for this device: the one that was kept, or a new one, which is then kept.

    `digest` is the graph's SHA-256 in hexadecimal; `configuration`, `watch` and `progress` are as in `build_plan`;
    `trt` is the TensorRT that is to run the plan. Where nothing is said of how to build it, a plan that was built by
    hand in any other way serves, too. `again` builds it in any case, in place of the one that would have been taken. A
    disk that is full or cannot be written costs a warning, not the plan. Raises ConfigError when others can write the
    folder, and whatever `build_plan` raises.
    """
    cache = PlanCache(folder)
    key = key_of(digest, configuration, watch=watch, trt=trt, device=device)
    found = cache.find(key, in_any_effort=configuration.effort == DEFAULT.effort)
    if isinstance(found, StoredPlan) and not again:
        return found
    why = "it is to be built again" if isinstance(found, StoredPlan) else found.reason
    # A start that takes minutes is worth a line to whoever waits for it.
    log.warning("graph %r: building a plan, which may take minutes: %s", name, why)
    plan = build_plan(
        onnx,
        name,
        configuration,
        watch=watch,
        ahead_of_time=key.tensorrt.startswith("tensorrt_rtx "),
        timing_cache=cache.timing_cache(key),
        progress=progress,
    )
    file = None
    try:
        file = cache.keep(key, plan)
        if isinstance(found, StoredPlan) and found.file != file:
            cache.drop(found)
        if plan.timing_cache is not None:
            cache.keep_timing_cache(key, plan.timing_cache)
    except OSError as error:
        what = "plan" if file is None else "timing cache"
        log.warning("graph %r: its %s serves, but could not be kept: %s", name, what, error.strerror)
    return StoredPlan(plan, file, why)


def key_of(digest: str, configuration: Configuration, *, watch: Sequence[str], trt: Any, device: Device) -> Key:
    """Return what the plan of a graph depends on here; the arguments are as in `plan_for`."""
    # What CUDA tells of the driver is the version of CUDA that it speaks, which many releases share.
    driver = f"{driver_version() or 'unknown'} with CUDA {device.driver}"
    return Key(
        digest,
        version(trt),
        device.name,
        device.compute_capability,
        device.multiprocessors,
        -(-device.memory_bytes >> 30),
        driver,
        l4t_release(),
        f"{configuration.purpose}, watching {', '.join(watch) or 'nothing'}",
        configuration.effort,
    )


def default_folder() -> Path:
    """Return where plans are kept: below systemd's CacheDirectory=, or in the user's cache folder."""
    try:
        # systemd may hand over several.
        given = os.environ.get("CACHE_DIRECTORY", "").partition(":")[0]
        return Path(given or user_folder()) / "plans"
    except RuntimeError as error:
        raise ConfigError(
            f"no folder for plans: {error}",
            expected="CACHE_DIRECTORY, XDG_CACHE_HOME or a user with a home",
            fix="set CACHE_DIRECTORY to a folder that only this user can write",
        ) from error


def _other(folder: PrivateFolder, name: str) -> tuple[Key, Plan] | None:
    """Read a file that was not asked for by its name: whatever is wrong with it is no reason not to build a plan."""
    with suppress(ConfigError, OSError):
        return _parse(folder.read(name) or b"")
    return None


def _nearest(like: Sequence[Key], key: Key) -> str:
    """Say what is different about the plan of the same graph that is most like the one asked for."""
    if not like:
        return "never built here"
    nearest = min([_differences(each, key) for each in like], key=len)
    return f"built before {'; '.join(nearest)}"


def _differences(there: Key, here: Key) -> list[str]:
    phrases = {
        "tensorrt": "by",
        "gpu": "for GPU",
        "compute_capability": "for compute capability",
        "multiprocessors": "for multiprocessors",
        "memory_gib": "for GiB of memory",
        "driver": "with driver",
        "l4t": "on L4T",
        "purpose": "for",
        "effort": "with",
    }
    pairs = [(field.name, getattr(there, field.name), getattr(here, field.name)) for field in fields(Key)]
    return [f"{phrases[name]} {old}, this is {new}" for name, old, new in pairs if old != new]


def _sealed(facts: dict[str, Any], data: bytes) -> bytes:
    """Return a line with the SHA-256 of all that follows, a line of JSON, and the data."""
    body = json.dumps(facts).encode() + b"\n" + data
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _unsealed(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the facts and the data; raises ValueError when a byte is not as it was written."""
    digest, _, body = content.partition(b"\n")
    if digest != hashlib.sha256(body).hexdigest().encode():
        raise ValueError("the SHA-256 does not hold")
    line, _, data = body.partition(b"\n")
    return json.loads(line), data


def _parse(content: bytes) -> tuple[Key, Plan] | None:
    """Return the key and the plan; None for a file that is damaged, or not of this release."""
    try:
        facts, data = _unsealed(content)
        return Key(**facts.pop("key")), Plan(data=data, timing_cache=None, **facts)
    except (ValueError, KeyError, TypeError):
        return None


def _name(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
