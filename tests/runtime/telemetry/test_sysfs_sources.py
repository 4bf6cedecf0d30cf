from __future__ import annotations

from pathlib import Path

import pytest

from edge_cnnlstm.gpu.board import l4t_release
from edge_cnnlstm.runtime.telemetry.jetson import Jetson
from edge_cnnlstm.runtime.telemetry.linux import Linux
from edge_cnnlstm.runtime.telemetry.rapl import Rapl
from edge_cnnlstm.runtime.telemetry.sample import QUANTITIES, Reading
from edge_cnnlstm.runtime.telemetry.sysfs import read_number, read_word
from tests.runtime.telemetry.roots import ORIN_JP6, ORIN_JP7, THOR, X86, build, change

S = 1_000_000_000


def jetson(root: Path) -> Jetson:
    source = Jetson.find(root)
    assert source is not None
    return source


def linux(root: Path) -> Linux:
    source = Linux.find(root)
    assert source is not None
    return source


def test_an_orin_with_jetpack_6(tmp_path: Path) -> None:
    root = build(tmp_path, ORIN_JP6)

    assert jetson(root).read() == Reading(
        power_mw={"VDD_IN": 7524.0},
        clocks_mhz={"gpu": 1020.0},
        utilisation={"gpu": 0.437},
        throttle={"oc1": 0, "oc2": 15, "oc3": 27390},
        power_mode="MAXN_SUPER",
    )
    assert linux(root).read() == Reading(
        clocks_mhz={"cpu": 1728.0}, temperatures_c={"cpu": 50.531, "tj": 52.781}, trips_c={"cpu": 99.0}
    )
    assert l4t_release(root) == "36.4.3"


def test_an_orin_with_jetpack_7(tmp_path: Path) -> None:
    root = build(tmp_path, ORIN_JP7)

    assert jetson(root).read() == Reading(
        power_mw={"VDD_GPU_SOC": 5000.0, "VDDQ_VDD2_1V8AO": -40.0},
        clocks_mhz={"gpu": 1300.5},
        throttle={"oc1": 7},
        power_mode="MODE_50W",
    )
    assert l4t_release(root) == "39.2.0"


def test_a_thor(tmp_path: Path) -> None:
    root = build(tmp_path, THOR)

    assert jetson(root).read() == Reading(clocks_mhz={"gpu": 1575.0}, throttle={"oc3": 179}, power_mode="120W")
    assert l4t_release(root) == "38.4.0"


def test_an_x86_machine(tmp_path: Path) -> None:
    root = build(tmp_path, X86)

    assert Jetson.find(root) is None
    assert l4t_release(root) is None
    # The counters begin at 0 with the source; the power needs a second reading; unset trip points are none.
    assert linux(root).read() == Reading(
        clocks_mhz={"cpu": 4700.123},
        temperatures_c={"acpitz": 27.8, "acpitz (zone 1)": 29.8, "x86_pkg_temp": 61.0},
        throttle={"core_throttle": 0, "package_throttle": 0},
    )


def test_a_machine_that_says_nothing_has_no_sources(tmp_path: Path) -> None:
    assert Jetson.find(tmp_path) is None
    assert Linux.find(tmp_path) is None
    assert l4t_release(tmp_path) is None


@pytest.mark.parametrize("junk", ["", "<unknown>", "1_000", "٣٣", "12 34", "0x10", "nan", "1e3", "9" * 40, "\0", "-"])
def test_what_is_no_number_is_unknown_and_never_0(tmp_path: Path, junk: str) -> None:
    root = build(
        tmp_path,
        {name: text if "_label" in name or name.endswith("/name") else junk for name, text in (ORIN_JP6 | X86).items()},
    )
    for source in (jetson(root), linux(root)):
        for _ in range(2):
            reading = source.read()
            assert not any(getattr(reading, quantity) for quantity in QUANTITIES)
            assert (reading.trips_c, reading.power_mode) == ({}, None)


def test_files_that_vanish_or_become_folders_are_unknown(tmp_path: Path) -> None:
    root = build(tmp_path, ORIN_JP6 | X86)
    sources = [jetson(root), linux(root)]
    for name in ORIN_JP6 | X86:
        (root / name).unlink()
        if name.endswith(("temp", "cur_freq")):
            (root / name).mkdir()
    for source in sources:
        reading = source.read()
        assert not any(getattr(reading, quantity) for quantity in QUANTITIES)


def test_a_power_mode_is_named_by_the_configuration(tmp_path: Path) -> None:
    root = build(tmp_path, ORIN_JP6)
    source = jetson(root)
    for status, name in (("pmode:0001", "25W"), ("pmode:0007", None), ("pmode:", None), ("off", None)):
        change(root, "var/lib/nvpmodel/status", status)
        assert source.read().power_mode == name


def test_a_load_of_more_than_all_is_unknown(tmp_path: Path) -> None:
    source = jetson(build(tmp_path, ORIN_JP6))
    for permille, load in (("0", {"gpu": 0.0}), ("1000", {"gpu": 1.0}), ("1001", {})):
        change(tmp_path, "sys/class/devfreq/17000000.gpu/device/load", permille)
        assert source.read().utilisation == load


def test_a_core_that_goes_offline_and_comes_back_counts_nothing(tmp_path: Path) -> None:
    root = build(tmp_path, X86)
    source = linux(root)
    counter = "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count"
    source.read()
    (root / counter).unlink()
    assert source.read().throttle["core_throttle"] == 0
    build(root, {counter: "5"})
    assert source.read().throttle["core_throttle"] == 0
    change(root, counter, "8")
    assert source.read().throttle == {"core_throttle": 3, "package_throttle": 0}


class Clock:
    def __init__(self) -> None:
        self.now_ns = 5 * S

    def __call__(self) -> int:
        return self.now_ns


PACKAGE = "sys/class/powercap/intel-rapl:0/energy_uj"


def rapl_after(root: Path, before: int, now: int, seconds: float = 2) -> float | None:
    clock = Clock()
    change(root, PACKAGE, str(before))
    rapl = Rapl(root, clock)
    assert rapl.power_mw() == {}
    clock.now_ns += int(seconds * S)
    change(root, PACKAGE, str(now))
    return rapl.power_mw().get("package-0")


def test_power_is_the_energy_used_between_two_readings(tmp_path: Path) -> None:
    root = build(tmp_path, X86)
    clock = Clock()
    rapl = Rapl(root, clock)
    assert rapl.power_mw() == {}
    clock.now_ns += 2 * S
    change(root, PACKAGE, str(1_000_000 + 30_000_000))
    assert rapl.power_mw() == {"package-0": 15_000.0, "package-0 core": 0.0}


def test_the_energy_counter_wraps_at_its_range(tmp_path: Path) -> None:
    root = build(tmp_path, X86)
    assert rapl_after(root, before=262_143_328_850 - 4_000_000, now=6_000_000) == 5000.0


def test_an_energy_counter_that_was_set_back_makes_no_power(tmp_path: Path) -> None:
    root = build(tmp_path, X86)
    assert rapl_after(root, before=1_000_000_000, now=5) is None
    (root / "sys/class/powercap/intel-rapl:0/max_energy_range_uj").unlink()
    assert rapl_after(root, before=262_143_328_849, now=5) is None


def test_no_time_makes_no_power(tmp_path: Path) -> None:
    root = build(tmp_path, X86)
    assert rapl_after(root, before=5, now=6, seconds=0) is None


def test_an_energy_counter_that_only_root_may_read_is_unknown(tmp_path: Path) -> None:
    root = build(tmp_path, X86)
    for name in X86:
        if name.endswith("energy_uj"):
            (root / name).unlink()
    assert len(Rapl(root)) == 0


def test_a_gap_in_the_energy_counter_is_not_bridged(tmp_path: Path) -> None:
    root = build(tmp_path, X86)
    clock = Clock()
    rapl = Rapl(root, clock)
    for text, known in (("10", False), ("x", False), ("30", False), ("1000030", True)):
        change(root, PACKAGE, text)
        clock.now_ns += S
        assert ("package-0" in rapl.power_mw()) is known


def test_numbers_and_words(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content, number, word in (
        (b"-256000\n", -256000, "-256000"),
        (b"0", 0, "0"),
        (b"nvidia\0", None, "nvidia"),
        (b"\xff\xfe", None, "��"),
        (b" \n", None, None),
    ):
        path.write_bytes(content)
        assert (read_number(path), read_word(path)) == (number, word)
    assert (read_number(tmp_path), read_word(tmp_path / "none")) == (None, None)
