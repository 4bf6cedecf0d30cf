"""The golden rollout: frames, resets, and what each graph must answer and remember.

It travels inside the bundle, so that wherever the bundle arrives, an engine can be asked to prove itself.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.bundle import archive

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Golden:
    """A rollout and its expected course.

    `frames` uint8 [time, height, width, 3]; `resets` bool [time], true where the memory is emptied before the
    frame. `expected` maps a graph's name to its outputs over time, [time, …] each, and to its final state,
    under the name of the state output.
    """

    frames: NDArray[np.uint8]
    resets: NDArray[np.bool_]
    expected: Mapping[str, Arrays]


def dump(golden: Golden) -> bytes:
    """Return the rollout as an npz whose bytes depend on nothing but the arrays."""
    arrays: dict[str, NDArray[np.generic]] = {"frames": golden.frames, "resets": golden.resets}
    for graph, expected in golden.expected.items():
        arrays |= {f"{graph}/{name}": array for name, array in expected.items()}
    return archive.encode({f"{name}.npy": _npy(array) for name, array in arrays.items()})


def parse(data: bytes) -> Golden:
    """Read a rollout. Raises BundleError when an array is missing or cannot be read."""
    try:
        arrays = {name.removesuffix(".npy"): _array(member) for name, member in archive.decode(data).items()}
        expected: dict[str, dict[str, NDArray[np.generic]]] = {}
        frames, resets = arrays.pop("frames"), arrays.pop("resets")
        for name, array in arrays.items():
            graph, _, tensor = name.partition("/")
            expected.setdefault(graph, {})[tensor] = array
    except (ValueError, KeyError, EOFError) as error:
        raise archive.damaged(f"a golden rollout that cannot be read ({error})") from error
    return Golden(frames.astype(np.uint8), resets.astype(np.bool_), expected)


def _npy(array: NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _array(data: bytes) -> NDArray[np.generic]:
    array: NDArray[np.generic] = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    return array
