"""What NVIDIA's driver says about its GPU: data-centre and desktop cards, and Jetsons from JetPack 7 on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from edge_cnnlstm.errors import DependencyError
from edge_cnnlstm.runtime.optional import load_pynvml
from edge_cnnlstm.runtime.telemetry.sample import Reading

SLOWDOWNS = {
    "sw_thermal_slowdown": "nvmlClocksEventReasonSwThermalSlowdown",
    "hw_slowdown": "nvmlClocksEventReasonHwSlowdown",
    "hw_thermal_slowdown": "nvmlClocksEventReasonHwThermalSlowdown",
    "hw_power_brake_slowdown": "nvmlClocksEventReasonHwPowerBrakeSlowdown",
}
"""The reasons for a low clock that mean trouble. A GPU that idles or keeps to its power limit works as it should."""


class Nvml:
    """Reads the GPU with NVML's number `index`. A question that the GPU does not answer leaves its answer unknown.

    The driver says which slowdowns are at work, not how often they began: `throttle` counts the readings that saw
    each of them.
    """

    name = "nvml"

    def __init__(self, pynvml: Any, index: int = 0) -> None:
        """Open the GPU; raises what `pynvml` raises."""
        self._nvml = pynvml
        self._seen: Counter[str] = Counter()
        pynvml.nvmlInit()
        try:
            self._gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
        except pynvml.NVMLError:
            pynvml.nvmlShutdown()
            raise

    @classmethod
    def find(cls, index: int = 0) -> Nvml | None:
        """Return the source; None without the package nvidia-ml-py, without a driver, and without the GPU."""
        try:
            pynvml = load_pynvml()
        except DependencyError:
            return None
        try:
            return cls(pynvml, index)
        except pynvml.NVMLError:
            return None

    def read(self) -> Reading:
        """Ask everything once."""
        nvml, gpu = self._nvml, self._gpu
        load = self._ask(lambda: nvml.nvmlDeviceGetUtilizationRates(gpu))
        return Reading(
            power_mw=_known(gpu=self._ask(lambda: nvml.nvmlDeviceGetPowerUsage(gpu))),
            clocks_mhz=_known(
                gpu=self._ask(lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM)),
                memory=self._ask(lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM)),
            ),
            temperatures_c=_known(gpu=self._temperature()),
            utilisation={} if load is None else {"gpu": load.gpu / 100, "memory": load.memory / 100},
            throttle=self._slowdowns(),
        )

    def close(self) -> None:
        """Let go of NVML."""
        self._ask(self._nvml.nvmlShutdown)

    def _temperature(self) -> Any:
        nvml, gpu = self._nvml, self._gpu
        new = self._ask(lambda: nvml.nvmlDeviceGetTemperatureV(gpu, nvml.NVML_TEMPERATURE_GPU))
        # The first is unknown to drivers before CUDA 12.8, the second goes with CUDA 14.
        return self._ask(lambda: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU)) if new is None else new

    def _slowdowns(self) -> dict[str, int]:
        reasons = self._ask(lambda: self._nvml.nvmlDeviceGetCurrentClocksEventReasons(self._gpu))
        if reasons is None:
            return {}
        self._seen.update(name for name, bit in SLOWDOWNS.items() if reasons & getattr(self._nvml, bit))
        return {name: self._seen[name] for name in SLOWDOWNS}

    def _ask(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except self._nvml.NVMLError:
            return None


def _known(**answers: Any) -> dict[str, float]:
    return {name: float(answer) for name, answer in answers.items() if answer is not None}
