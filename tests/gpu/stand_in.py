"""The kernels of benchmarks/device as the tests' tiny network, and as networks of any size that answer noise to noise.

What is opened here is a TensorRT backend in everything but the engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.device.network import Network
from benchmarks.device.stand_in import StandIn
from edge_cnnlstm.gpu.engine import Engine
from edge_cnnlstm.runtime.backends.trt import TensorRtBackend
from edge_cnnlstm.runtime.wiring import AS_FOUND, Wiring
from edge_cnnlstm.spec import HeadSpec, ModelSpec, StatePair, TensorSpec

OF_TINY = {"digit_logits": "digit", "target_box": "box", "target_presence": "presence"}


def tiny_network(spec: ModelSpec, weights: dict[str, NDArray[np.float32]]) -> Network:
    """The network of tests/conftest.py: the same numbers, found by the names of what they make."""
    own = {name: weights[name] for name in ("gates", "bias", "missed")}
    own |= {output: weights[name] for output, name in OF_TINY.items()}
    return Network(spec, own, frozenset({"target_box"}))


def network(*, size: int = 16, hidden: int = 8, classes: int = 3, streams: int = 1) -> Network:
    """One of any size: frames of size × size."""
    spec = ModelSpec(
        frame=TensorSpec("frame", (1, size, size, 3), "uint8"),
        fit="crop",
        states=(StatePair("h", "h_next", (2, 1, hidden)), StatePair("c", "c_next", (2, 1, hidden))),
        outputs=(TensorSpec("logits", (1, classes), "float32"),),
        heads=(HeadSpec("letter", "classify", ("logits",), tuple(map(str, range(classes)))),),
    )
    return Network.random(spec.batched(streams))


def opened(network: Network, wiring: Wiring = AS_FOUND) -> TensorRtBackend:
    # It has what a backend uses of an engine, and is none.
    return TensorRtBackend(lambda: cast("Engine", StandIn(network)), network.spec, wiring)


def free_bytes(backend: TensorRtBackend) -> int:
    """What is free on the GPU, by its driver."""
    with backend._step._session as session:
        return session.free_bytes()[0]


@contextmanager
def filled(piece: int) -> Iterator[list[Any]]:
    """Take all of the GPU's memory but for less than a piece, and give back what is not taken out of the list."""
    import pycuda.driver as driver

    from edge_cnnlstm.gpu.context import gpu

    ballast: list[Any] = []
    gpu().context.push()
    try:
        for size in (1 << 30, piece):
            with suppress(driver.MemoryError):
                while True:
                    ballast.append(driver.mem_alloc(size))
        yield ballast
    finally:
        for memory in ballast:
            memory.free()
        gpu().context.pop()
