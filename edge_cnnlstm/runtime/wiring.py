"""What a user may choose about a GPU's steps; apart from them, so that who has no GPU need not load them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from edge_cnnlstm.errors import ConfigError

if TYPE_CHECKING:
    from edge_cnnlstm.gpu.context import Device

Transfer = Literal["auto", "mapped", "copied"]


@dataclass(frozen=True, slots=True)
class Wiring:
    """How a step reaches the GPU.

    `transfer`: `mapped`, frames and answers are read and written in page-locked host memory in place; `copied`, they
    are copied; `auto`, mapped where GPU and processor share their memory. `graphs`: a step is replayed as one CUDA
    graph where `cuda-bindings` is installed. `spin`: wait for the GPU as CUDA sees fit, which is to look, at the cost
    of a core meanwhile, but on a low-powered board may be to sleep; else the thread always sleeps. Raises ConfigError
    for a transfer that does not exist.
    """

    transfer: Transfer = "auto"
    graphs: bool = True
    spin: bool = True

    def __post_init__(self) -> None:
        if self.transfer not in (known := get_args(Transfer)):
            raise ConfigError(
                f"transfer {self.transfer!r}", expected=f"one of {', '.join(known)}", fix="choose one of these"
            )

    def maps(self, device: Device) -> bool:
        """Return whether a GPU reads frames where they lie."""
        if self.transfer == "auto":
            return device.integrated and device.maps_host_memory
        return self.transfer == "mapped"


AS_FOUND = Wiring()
