"""The golden rollout: frames, resets, and what each graph must answer and remember.

It travels inside the bundle, so that wherever the bundle arrives, an engine can be asked to prove itself.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.bundle import archive
from edge_cnnlstm.spec import ModelSpec

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Golden:
    """A rollout and its expected course.

    `frames` uint8 [time, height, width, 3]; `resets` bool [time], true where the memory is emptied before the
    frame. `expected` maps a graph's name to its outputs over time, [time, …] each, and to its final state,
    under the name of the state output. `dt` float32 [time], for a network that asks: seconds since the last frame, 0
    for the first and after a reset.
    """

    frames: NDArray[np.uint8]
    resets: NDArray[np.bool_]
    expected: Mapping[str, Arrays]
    dt: NDArray[np.float32] | None = None


def dump(golden: Golden) -> bytes:
    """Return the rollout as an npz whose bytes depend on nothing but the arrays."""
    arrays: dict[str, NDArray[np.generic]] = {"frames": golden.frames, "resets": golden.resets}
    if golden.dt is not None:
        arrays["dt"] = golden.dt
    for graph, expected in golden.expected.items():
        arrays |= {f"{graph}/{name}": array for name, array in expected.items()}
    return archive.encode({f"{name}.npy": _npy(array) for name, array in arrays.items()})


def parse(data: bytes) -> Golden:
    """Read a rollout. Raises BundleError when an array is missing, cannot be read, or is of the wrong kind."""
    members = archive.decode(data)
    if not all(name.endswith(".npy") for name in members):
        raise archive.damaged(f"a golden rollout with members {sorted(members)}")
    arrays = {name.removesuffix(".npy"): _array(name, member) for name, member in members.items()}
    for name in ("frames", "resets"):
        if name not in arrays:
            raise archive.damaged(f"a golden rollout without {name!r}")
    frames, resets, dt = arrays.pop("frames"), arrays.pop("resets"), arrays.pop("dt", None)
    if frames.dtype != np.uint8 or frames.ndim != 4 or 0 in frames.shape or frames.shape[3] != 3:
        raise archive.damaged(f"a golden rollout whose frames are {frames.dtype} {frames.shape}")
    if resets.dtype != np.bool_ or resets.shape != frames.shape[:1]:
        raise archive.damaged(f"a golden rollout whose resets are {resets.dtype} {resets.shape}")
    if dt is not None:
        _check_dt(dt, resets)
    expected: dict[str, dict[str, NDArray[np.generic]]] = {}
    for name, array in arrays.items():
        graph, _, tensor = name.partition("/")
        expected.setdefault(graph, {})[tensor] = array
    return Golden(frames.view(np.uint8), resets.view(np.bool_), expected, None if dt is None else dt.view(np.float32))


def check(golden: Golden, spec: ModelSpec, graphs: Iterable[str]) -> None:
    """Raise BundleError unless the rollout is about this model: every graph, output and state, in its shape."""
    if golden.frames.shape[1:] != spec.frame.shape[1:]:
        raise archive.damaged(f"a golden rollout with frames of {golden.frames.shape[1:]}, not {spec.frame.shape[1:]}")
    if (golden.dt is None) != (spec.dt is None):
        raise archive.damaged(f"a golden rollout {'with' if spec.dt is None else 'without'} dt, unlike its model")
    wanted = {output.name: (len(golden.frames), *output.shape[1:]) for output in spec.outputs}
    wanted |= {pair.output: pair.shape for pair in spec.states}
    for graph in graphs:
        course = golden.expected.get(graph, {})
        found = {name: array.shape for name, array in course.items()}
        if found != wanted or any(array.dtype != np.float32 for array in course.values()):
            raise archive.damaged(f"a golden rollout that says {found} of graph {graph!r}, not {wanted}")


def _check_dt(dt: NDArray[np.generic], resets: NDArray[np.generic]) -> None:
    first = np.asarray(resets | (np.arange(len(resets)) == 0))
    if dt.dtype != np.float32 or dt.shape != resets.shape:
        raise archive.damaged(f"a golden rollout whose dt is {dt.dtype} {dt.shape}")
    seconds = dt.view(np.float32)
    if not (np.isfinite(seconds).all() and (seconds >= 0).all()) or seconds[first].any():
        raise archive.damaged("a golden rollout whose dt is not a time, or not 0 where the memory is empty")


def _npy(array: NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _array(name: str, data: bytes) -> NDArray[np.generic]:
    try:
        array: NDArray[np.generic] = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except Exception as error:
        raise archive.damaged(f"a golden rollout whose {name!r} cannot be read ({error})") from error
    return array
