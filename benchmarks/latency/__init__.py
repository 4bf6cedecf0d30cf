"""What one more frame costs: back to back, at a camera's rate, and by running a window again."""

from benchmarks.latency.loops import WARM_UP_FRAMES, rerun

__all__ = ["WARM_UP_FRAMES", "rerun"]
