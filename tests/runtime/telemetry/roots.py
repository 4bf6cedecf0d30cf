"""False roots: what /sys, /etc and /var hold on machines that are not here."""

from __future__ import annotations

from pathlib import Path

ORIN_JP6 = {
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: x",
    "etc/nvpmodel.conf": (
        "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=1 NAME=25W >\n"
        "< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n< PM_CONFIG DEFAULT=1 >"
    ),
    "var/lib/nvpmodel/status": "pmode:0002",
    "sys/class/hwmon/hwmon0/name": "pwmfan",
    "sys/class/hwmon/hwmon1/name": "ina3221",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_IN",
    "sys/class/hwmon/hwmon1/in1_input": "5016",
    "sys/class/hwmon/hwmon1/curr1_input": "1500",
    "sys/class/hwmon/hwmon1/in2_label": "VDD_CPU_GPU_CV",
    "sys/class/hwmon/hwmon1/in2_input": "5000",
    "sys/class/hwmon/hwmon1/in3_label": "NC",
    "sys/class/hwmon/hwmon1/in3_input": "0",
    "sys/class/hwmon/hwmon1/curr3_input": "0",
    "sys/class/hwmon/hwmon1/in7_label": "sum of shunt voltages",
    "sys/class/hwmon/hwmon1/in7_input": "0",
    "sys/class/hwmon/hwmon3/name": "soctherm_oc",
    "sys/class/hwmon/hwmon3/oc1_event_cnt": "0",
    "sys/class/hwmon/hwmon3/oc2_event_cnt": "15",
    "sys/class/hwmon/hwmon3/oc3_event_cnt": "27390",
    "sys/class/hwmon/hwmon3/oc3_throt_en": "1",
    "sys/class/devfreq/17000000.gpu/cur_freq": "1020000000",
    "sys/class/devfreq/17000000.gpu/device/load": "437",
    "sys/class/devfreq/15340000.vic/cur_freq": "729600000",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
    "sys/class/thermal/thermal_zone0/temp": "50531",
    "sys/class/thermal/thermal_zone0/trip_point_0_type": "active",
    "sys/class/thermal/thermal_zone0/trip_point_0_temp": "35000",
    "sys/class/thermal/thermal_zone0/trip_point_1_type": "critical",
    "sys/class/thermal/thermal_zone0/trip_point_1_temp": "104500",
    "sys/class/thermal/thermal_zone0/trip_point_2_type": "passive",
    "sys/class/thermal/thermal_zone0/trip_point_2_temp": "99000",
    "sys/class/thermal/thermal_zone2/type": "cv0-thermal",
    "sys/class/thermal/thermal_zone2/temp": "-256000",
    "sys/class/thermal/thermal_zone8/type": "tj-thermal",
    "sys/class/thermal/thermal_zone8/temp": "52781",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1190400",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq": "1728000",
}
"""An Orin Nano. `in2` has no current, and the sensor of `cv0` sleeps."""

ORIN_JP7 = {
    "etc/nv_tegra_release": "# R39 (release), REVISION: 2.0, GCID: 1, BOARD: generic, EABI: aarch64, DATE: x",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=3 NAME=MODE_50W >",
    "var/lib/nvpmodel/status": "pmode:0003 fmode:quiet",
    "sys/class/hwmon/hwmon2/name": "soctherm_oc",
    "sys/class/hwmon/hwmon2/oc1_event_cnt": "7",
    "sys/class/hwmon/hwmon4/name": "ina3221",
    "sys/class/hwmon/hwmon4/in1_label": "VDD_GPU_SOC",
    "sys/class/hwmon/hwmon4/in1_input": "20000",
    "sys/class/hwmon/hwmon4/curr1_input": "250",
    "sys/class/hwmon/hwmon5/name": "ina3221",
    "sys/class/hwmon/hwmon5/in2_label": "vddq_vdd2_1v8ao",
    "sys/class/hwmon/hwmon5/in2_input": "5000",
    "sys/class/hwmon/hwmon5/curr2_input": "-8",
    "sys/class/devfreq/17000000.gpu/cur_freq": "1300500000",
}

THOR = {
    "etc/nv_tegra_release": "# R38 (release), REVISION: 4.0, GCID: 43443517, BOARD: generic, EABI: aarch64, DATE: x",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=120W >",
    "var/lib/nvpmodel/status": "pmode:0001",
    "sys/class/hwmon/hwmon5/name": "soctherm_oc",
    "sys/class/hwmon/hwmon5/oc3_event_cnt": "179",
    "sys/class/devfreq/gpu-gpc-0/cur_freq": "1575000000",
    "sys/class/devfreq/gpu-nvd-0/cur_freq": "1692000000",
}

X86 = {
    "sys/class/thermal/thermal_zone0/type": "acpitz",
    "sys/class/thermal/thermal_zone0/temp": "27800",
    "sys/class/thermal/thermal_zone1/type": "acpitz",
    "sys/class/thermal/thermal_zone1/temp": "29800",
    "sys/class/thermal/thermal_zone2/type": "x86_pkg_temp",
    "sys/class/thermal/thermal_zone2/temp": "61000",
    "sys/class/thermal/thermal_zone2/trip_point_0_type": "passive",
    "sys/class/thermal/thermal_zone2/trip_point_0_temp": "-274000",
    "sys/class/thermal/thermal_zone2/trip_point_1_type": "passive",
    "sys/class/thermal/thermal_zone2/trip_point_1_temp": "0",
    "sys/class/powercap/intel-rapl:0/name": "package-0",
    "sys/class/powercap/intel-rapl:0/energy_uj": "1000000",
    "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "262143328850",
    "sys/class/powercap/intel-rapl:0:0/name": "core",
    "sys/class/powercap/intel-rapl:0:0/energy_uj": "500000",
    "sys/class/powercap/intel-rapl:0:0/max_energy_range_uj": "262143328850",
    "sys/class/powercap/intel-rapl-mmio:0/name": "package-0",
    "sys/class/powercap/intel-rapl-mmio:0/energy_uj": "777",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "800000",
    "sys/devices/system/cpu/cpufreq/policy1/scaling_cur_freq": "4700123",
    "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "12",
    "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "30",
    "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "5",
    "sys/devices/system/cpu/cpu1/thermal_throttle/package_throttle_count": "30",
}


def build(root: Path, files: dict[str, str]) -> Path:
    """Write these files below `root`, each with the line end that the kernel gives it."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def change(root: Path, name: str, text: str) -> None:
    """Change a file that is there."""
    assert (root / name).exists()
    (root / name).write_text(text + "\n")
