from __future__ import annotations

import numpy as np
import pytest

from edge_cnnlstm.runtime.telemetry.sample import QUANTITIES, Reading
from edge_cnnlstm.runtime.telemetry.tegrastats import parse

ORIN_JP7 = (
    "07-25-2026 09:08:28 RAM 20642/62817MB (lfb 1x2MB) CPU [23%@2201,10%@2201,4%@2188,14%@2201] EMC_FREQ 3%@3199 "
    "GR3D_FREQ 12%@[1300,1300] NVENC0 off NVDEC0 off VIC off OFA off APE 174 "
    "cpu@52.968C/52.968C soc2@48.406C/48.406C gpu@47.625C/47.625C "
    "VDD_GPU_SOC 5139mW/5139mW/5139mW VDD_CPU_CV 3268mW/3268mW/3268mW VIN_SYS_5V0 5500mW/5500mW/5500mW\n"
)
ORIN_JP6 = (
    "RAM 4722/7844MB (lfb 1x512kB) SWAP 0/3922MB (cached 0MB) CPU [5%@729,off,12%@1190,off] EMC_FREQ 2%@1866 "
    "GR3D_FREQ 10%@1300 APE 150 CPU@39.5C gpu@42.25C cv0@-256C tj@43.0C VDD_IN 5520mW/5400mW VDD_SOC 1451mW/1451mW\n"
)
THOR = (
    "RAM 105265/125772MB (lfb 34x4MB) CPU [1%@2601,0%@2601] EMC_FREQ @4266 GR3D_FREQ @[314,314,315] "
    "cpu@37.343C tj@38.875C VDD_GPU 2764mW/2764mW VIN 19780mW/19780mW\n"
)
THOR_IDLE = (
    "08-08-2026 20:58:23 RAM 3429/125749MB (lfb 120x4MB) CPU [0%,5%,off]@2601 GR3D_FREQ 87%@[1574,off,1573] "
    "gpu@51.218C/51.218C VDD_GPU 6330mW/6330mW/6330mW\n"
)
PLAIN_USER = "RAM 1/2MB (lfb 1x4kB) CPU [7%@102] EMC_FREQ 0% GR3D_FREQ 34% PLL@38C\n"
VECTORS = {
    ORIN_JP7: Reading(
        power_mw={"VDD_GPU_SOC": 5139, "VDD_CPU_CV": 3268, "VIN_SYS_5V0": 5500},
        clocks_mhz={"cpu": 2201, "gpu": 1300, "emc": 3199},
        temperatures_c={"cpu": 52.968, "soc2": 48.406, "gpu": 47.625},
        utilisation={"cpu": 0.1275, "gpu": 0.12, "emc": 0.03},
    ),
    ORIN_JP6: Reading(
        power_mw={"VDD_IN": 5520, "VDD_SOC": 1451},
        clocks_mhz={"cpu": 1190, "gpu": 1300, "emc": 1866},
        temperatures_c={"cpu": 39.5, "gpu": 42.25, "tj": 43.0},
        utilisation={"cpu": 0.085, "gpu": 0.1, "emc": 0.02},
    ),
    THOR: Reading(
        power_mw={"VDD_GPU": 2764, "VIN": 19780},
        clocks_mhz={"cpu": 2601, "gpu": 315, "emc": 4266},
        temperatures_c={"cpu": 37.343, "tj": 38.875},
        utilisation={"cpu": 0.005},
    ),
    THOR_IDLE: Reading(
        power_mw={"VDD_GPU": 6330},
        clocks_mhz={"cpu": 2601, "gpu": 1574},
        temperatures_c={"gpu": 51.218},
        utilisation={"cpu": 0.025, "gpu": 0.87},
    ),
    # Without root the memory's load is always "0%", which means nothing.
    PLAIN_USER: Reading(clocks_mhz={"cpu": 102}, temperatures_c={"pll": 38.0}, utilisation={"cpu": 0.07, "gpu": 0.34}),
}
ids = ["orin-jp7", "orin-jp6", "thor", "thor-idle", "plain-user"]


def facts(reading: Reading) -> set[tuple[str, str, float]]:
    return {(quantity, *item) for quantity in QUANTITIES for item in getattr(reading, quantity).items()}


@pytest.mark.parametrize(("line", "expected"), VECTORS.items(), ids=ids)
def test_recorded_lines(line: str, expected: Reading) -> None:
    assert parse(line) == expected


@pytest.mark.parametrize("shape", ["10%@1300", "10%@[1300,1300]", "10%@[1300,off]"])
def test_the_shapes_of_the_gpu(shape: str) -> None:
    reading = parse(f"RAM 1/2MB (lfb 1x2MB) GR3D_FREQ {shape} APE 1\n")
    assert facts(reading) == {("clocks_mhz", "gpu", 1300), ("utilisation", "gpu", 0.1)}


def test_a_gpu_without_a_load_has_only_a_clock() -> None:
    reading = parse("RAM 1/2MB (lfb 1x2MB) GR3D_FREQ @[314,314,314] APE 1\n")
    assert facts(reading) == {("clocks_mhz", "gpu", 314)}


def test_a_load_of_0_is_known() -> None:
    reading = parse("RAM 1/2MB (lfb 1x2MB) GR3D_FREQ 0%@[1300,1300]\n")
    assert facts(reading) == {("clocks_mhz", "gpu", 1300), ("utilisation", "gpu", 0)}


@pytest.mark.parametrize("line", VECTORS, ids=ids)
def test_a_line_cut_at_any_byte_says_nothing_that_the_whole_line_does_not(line: str) -> None:
    whole = facts(parse(line))
    for cut in range(len(line) + 1):
        assert facts(parse(line[:cut])) <= whole, line[:cut]
        assert facts(parse(line[cut:])) <= whole, line[cut:]
        # The end of the pipe's buffer may stand where the number was cut.
        assert facts(parse(line[:cut].rstrip("\n"))) <= whole, line[:cut]


@pytest.mark.parametrize("line", VECTORS, ids=ids)
def test_a_cut_line_that_runs_into_the_next_says_nothing(line: str) -> None:
    head = line.index("RAM ") + len("RAM 20642/62817MB ")
    for cut in range(head, len(line) - 1):
        # Only a line that was cut where a word ends shows that there are two.
        for other in VECTORS:
            joined = facts(parse(line[:cut] + other))
            assert joined <= facts(parse(line)) | facts(parse(other)), (line[:cut], other)


JUNK = [
    "",
    "\n",
    " ",
    "RAM",
    "RAM \n",
    "tegrastats: command not found\n",
    "GR3D_FREQ 10%@1300 VDD_IN 5520mW/5400mW\n",
    "PROGRAM 1/2MB (lfb 1x2MB) GR3D_FREQ 10%@1300\n",
    "RAM 1/2MB RAM 1/2MB GR3D_FREQ 10%@1300\n",
    "RAM 1/2MB GR3D_FREQ\n",
    "RAM 1/2MB GR3D_FREQ off\n",
    "RAM 1/2MB GR3D_FREQ 101%\n",
    "RAM 1/2MB GR3D_FREQ -5%\n",
    "RAM 1/2MB GR3D_FREQ 10%junk\n",
    "RAM 1/2MB GR3D_FREQ N/A%@N/A\n",
    "RAM 1/2MB GR3D_FREQ @[]\n",
    "RAM 1/2MB GR3D_FREQ @[,]\n",
    "RAM 1/2MB GR3D_FREQ @[off,off]\n",
    "RAM 1/2MB GR3D_FREQ @[NaN,1e9,-3]\n",
    "RAM 1/2MB GR3D_FREQ @99999999999999999999\n",
    "RAM 1/2MB GR3D_FREQ ١٢%@١٣٠٠\n",
    "RAM 1/2MB EMC_FREQ 0%\n",
    "RAM 1/2MB CPU []\n",
    "RAM 1/2MB CPU [off,off]\n",
    "RAM 1/2MB CPU [12%@,13%@5]\n",
    "RAM 1/2MB CPU [12%@1190,junk]\n",
    "RAM 1/2MB CPU [12%@1190\n",
    "RAM 1/2MB CPU [300%@1190]\n",
    "RAM 1/2MB cpu@-256C tj@-256.000C\n",
    "RAM 1/2MB cpu@9999C gpu@400C tj@999.9C\n",
    "RAM 1/2MB cpu@C gpu@.5C tj@5.C soc@1.23456C\n",
    "RAM 1/2MB cpu@52.968K @52C\n",
    "RAM 1/2MB cpu@52Celsius\n",
    "RAM 1/2MB VDD_IN 5520\n",
    "RAM 1/2MB VDD_IN 5520/5400\n",
    "RAM 1/2MB VDD_IN mW VDD_SOC -5mW\n",
    "RAM 1/2MB VDD_IN 5520mWh\n",
    "RAM 1/2MB VDD_IN 99999999999999999999999999mW\n",
    "RAM 1/2MB VDD_IN ５５２０mW\n",
    "RAM\u00a01/2MB GR3D_FREQ 10%@1300\n",
    "RAM 1/2MB\u2003GR3D_FREQ 10%@1300\n",
    "RAM 1/2MB \x00\x00\x00GR3D_FREQ\x0010%@1300\n",
    "🚗 RAM 1/2MB 🚗 VDD_🚗 5mW\n",
]


@pytest.mark.parametrize("line", JUNK)
def test_junk_says_nothing(line: str) -> None:
    assert parse(line) == Reading()


def test_a_temperature_below_zero_is_one() -> None:
    assert parse("RAM 1/2MB cpu@-12.5C\n").temperatures_c == {"cpu": -12.5}


def test_of_two_equal_labels_the_first_is_believed() -> None:
    reading = parse("RAM 1/2MB VDD_IN 5mW vdd_in 6mW cpu@1C CPU@2C\n")
    assert facts(reading) == {("power_mw", "VDD_IN", 5), ("temperatures_c", "cpu", 1)}


def test_random_bytes_never_raise() -> None:
    generator = np.random.default_rng(7)
    for length in generator.integers(0, 300, 2000):
        parse(generator.bytes(int(length)).decode(errors="replace"))


@pytest.mark.parametrize("line", VECTORS, ids=ids)
@pytest.mark.parametrize("damage", [b"\0", b"\x07", b"\xff", b"\x80"])
def test_a_damaged_byte_invents_nothing(line: str, damage: bytes) -> None:
    # A byte that no text holds: nobody can see that one digit was another.
    known = facts(parse(line))
    text = line.encode()
    for place in range(len(text)):
        damaged = text[:place] + damage + text[place + 1 :]
        assert facts(parse(damaged.decode(errors="replace"))) <= known, damaged
