"""Power, clocks, temperatures and throttling on the time line of the latencies.

sample.py              what is known at one instant, and what a source is
jetson.py linux.py     sources that read /sys: sysfs.py, thermal.py, rapl.py and counters.py serve them
tegrastats_process.py  the source that follows tegrastats, whose lines tegrastats.py understands
nvml.py                the source that asks NVIDIA's driver
verdict.py             what makes a run invalid
recorder.py            the thread that asks them all; history.py keeps its memory constant
"""

from __future__ import annotations

from edge_cnnlstm.runtime.telemetry.recorder import Telemetry
from edge_cnnlstm.runtime.telemetry.sample import Reading, Sample
from edge_cnnlstm.runtime.telemetry.verdict import throttled

__all__ = ["Reading", "Sample", "Telemetry", "throttled"]
