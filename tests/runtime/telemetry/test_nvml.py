from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from edge_cnnlstm.runtime.telemetry.nvml import Nvml
from edge_cnnlstm.runtime.telemetry.sample import Reading

pynvml = pytest.importorskip("pynvml")

ANSWERS = {
    "nvmlDeviceGetPowerUsage": 71_432,
    "nvmlDeviceGetClockInfo": {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 2619},
    "nvmlDeviceGetTemperatureV": 41,
    "nvmlDeviceGetTemperature": 40,
    "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=37, memory=4),
    "nvmlDeviceGetCurrentClocksEventReasons": pynvml.nvmlClocksEventReasonGpuIdle,
}


class Driver:
    """Stands in for the module pynvml: its constants and errors, answers from a table, and a list of the calls.

    A question in `silent` raises what a GPU raises that cannot answer it. NVML's units: milliwatts, MHz, °C, %.
    """

    def __init__(self, *silent: str, error: int = pynvml.NVML_ERROR_NOT_SUPPORTED) -> None:
        self.answers: dict[str, Any] = dict(ANSWERS)
        self.silent = set(silent)
        self.error = error
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if not name.startswith(("nvmlDevice", "nvmlInit", "nvmlShutdown")):
            return getattr(pynvml, name)
        assert hasattr(pynvml, name), name
        return lambda *arguments: self.answer(name, arguments)

    def answer(self, name: str, arguments: tuple[Any, ...]) -> Any:
        self.calls.append(name)
        if name in self.silent:
            raise pynvml.NVMLError(self.error)
        answer = self.answers.get(name)
        return answer[arguments[-1]] if isinstance(answer, dict) else answer


def test_every_answer_has_its_place_and_unit() -> None:
    assert Nvml(Driver()).read() == Reading(
        power_mw={"gpu": 71_432.0},
        clocks_mhz={"gpu": 1980.0, "memory": 2619.0},
        temperatures_c={"gpu": 41.0},
        utilisation={"gpu": 0.37, "memory": 0.04},
        throttle=dict.fromkeys(
            ["sw_thermal_slowdown", "hw_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown"], 0
        ),
    )


@pytest.mark.parametrize("error", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_GPU_IS_LOST])
def test_every_question_may_go_unanswered(error: int) -> None:
    assert Nvml(Driver(*ANSWERS, error=error)).read() == Reading()


@pytest.mark.parametrize("question", ANSWERS)
def test_one_question_without_an_answer_leaves_the_others(question: str) -> None:
    whole, part = Nvml(Driver()).read(), Nvml(Driver(question)).read()
    fields = ("power_mw", "clocks_mhz", "temperatures_c", "utilisation", "throttle")
    missing = {field for field in fields if getattr(part, field) != getattr(whole, field)}
    expected = {
        "nvmlDeviceGetPowerUsage": {"power_mw"},
        "nvmlDeviceGetClockInfo": {"clocks_mhz"},
        "nvmlDeviceGetTemperatureV": {"temperatures_c"},
        "nvmlDeviceGetTemperature": set[str](),
        "nvmlDeviceGetUtilizationRates": {"utilisation"},
        "nvmlDeviceGetCurrentClocksEventReasons": {"throttle"},
    }
    assert missing == expected[question]


def test_older_drivers_are_asked_for_the_temperature_their_way() -> None:
    driver = Driver("nvmlDeviceGetTemperatureV", error=pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
    assert Nvml(driver).read().temperatures_c == {"gpu": 40.0}


def test_slowdowns_are_counted_and_harmless_reasons_are_not() -> None:
    driver = Driver()
    source = Nvml(driver)
    heat = pynvml.nvmlClocksEventReasonHwThermalSlowdown | pynvml.nvmlClocksEventReasonHwSlowdown
    harmless = pynvml.nvmlClocksEventReasonSwPowerCap | pynvml.nvmlClocksEventReasonApplicationsClocksSetting
    for reasons, hardware, heat_seen in ((harmless, 0, 0), (heat, 1, 1), (0, 1, 1), (heat | harmless, 2, 2)):
        driver.answers["nvmlDeviceGetCurrentClocksEventReasons"] = reasons
        throttle = source.read().throttle
        assert (throttle["hw_slowdown"], throttle["hw_thermal_slowdown"]) == (hardware, heat_seen)
        assert throttle["sw_thermal_slowdown"] == throttle["hw_power_brake_slowdown"] == 0


def test_nvml_is_let_go_of_however_it_ends() -> None:
    driver = Driver("nvmlShutdown")
    Nvml(driver).close()
    assert driver.calls == ["nvmlInit", "nvmlDeviceGetHandleByIndex", "nvmlShutdown"]
    driver = Driver("nvmlDeviceGetHandleByIndex")
    with pytest.raises(pynvml.NVMLError):
        Nvml(driver)
    assert driver.calls[-1] == "nvmlShutdown"


@pytest.mark.parametrize("silent", ["nvmlInit", "nvmlDeviceGetHandleByIndex"])
def test_without_a_driver_or_gpu_there_is_no_source(monkeypatch: pytest.MonkeyPatch, silent: str) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Driver(silent))  # type: ignore[arg-type]
    assert Nvml.find() is None


def test_without_the_package_there_is_no_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # type: ignore[arg-type]
    assert Nvml.find() is None


def test_the_real_package_finds_a_gpu_or_none_and_never_raises() -> None:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        assert Nvml.find() is None
    else:
        pynvml.nvmlShutdown()
        source = Nvml.find()
        if source is not None:
            source.read()
            source.close()
