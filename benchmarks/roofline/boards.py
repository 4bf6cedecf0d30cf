"""What a Jetson's GPU could do at best, from NVIDIA's public figures. Nothing here was run on a Jetson.

Figures are dense: NVIDIA's sparse ones count zeros that a network would skip in which two weights of four are pruned,
and are halved. DLA cores are left out. An operation is half a multiply-accumulate.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.roofline.floor import Bound, bound
from benchmarks.roofline.work import Work


@dataclass(frozen=True, slots=True)
class Board:
    """A module: dense tera-operations a second of its GPU, gigabytes a second of its memory, and where that is said."""

    name: str
    int8_tops: float
    fp16_tflops: float
    memory_gb_s: float
    source: str

    @property
    def macs(self) -> dict[str, float]:
        """Multiply-accumulates a second by precision."""
        return {"int8": self.int8_tops / 2 * 1e12, "fp16": self.fp16_tflops / 2 * 1e12}

    def predicts(self, work: Work) -> bool:
        """Whether the step's precisions are all among the figures; FP32 is not, since TensorRT may run it as TF32."""
        return all(layer.precision in self.macs for layer in work.layers)

    def bounds(self, work: Work) -> list[Bound]:
        """Return each layer's bound, its weights from memory; activations are taken to stay on the chip."""
        return [bound(layer, self.macs, self.memory_gb_s * 1e9) for layer in work.layers]


BOARDS = (
    Board(
        "Orin Nano 8 GB (Super)",
        33.5,
        16.75,
        102,
        "Jetson Orin Nano Super data sheet: 67 sparse INT8 TOPS, halved; 102 GB/s. FP16: half of INT8, which "
        "agrees with NVIDIA's 17 TFLOPS.",
    ),
    Board(
        "Orin NX 16 GB (Super)",
        38.4,
        19.2,
        102.4,
        "JetPack 6.2 (Super mode): GPU at 1,173 MHz; 102 GB/s. INT8 derived: 8 multiprocessors at the 4,096 dense "
        "operations a clock that the AGX Orin's figures give; NVIDIA's 157 TOPS are sparse and count two DLAs. FP16: "
        "half of INT8.",
    ),
    Board(
        "AGX Orin 64 GB",
        85,
        42.5,
        204.8,
        "Jetson AGX Orin technical brief: 170 sparse INT8 TOPS of the GPU (of 275 with the DLAs), halved; 204.8 GB/s. "
        "FP16: half of INT8.",
    ),
    Board(
        "Thor T5000",
        517.5,
        258.75,
        273,
        "Jetson Thor data sheet: 2,070 sparse FP4 TFLOPS, so 517.5 dense FP8; 273 GB/s. INT8 ASSUMED as fast as FP8, "
        "which NVIDIA does not state for this module. FP16: half of FP8.",
    ),
)
