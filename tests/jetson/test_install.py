"""Runs the real install.sh on a fake root: what it refuses, what it leaves, what it never touches."""

from __future__ import annotations

import configparser
import fcntl
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import pytest

JETSON = Path(__file__).resolve().parents[2] / "jetson"
SCRIPT = JETSON / "install.sh"
UNIT = JETSON / "edge-cnnlstm.service"

ORIN = b"nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0"
THOR = b"nvidia,p3971-0089+p3834-0008\0nvidia,tegra264\0"
XAVIER = b"nvidia,p3668-0001\0nvidia,tegra194\0"

# The system Python of a Jetson: the real interpreter, isolated as the script asks, with
# JetPack's packages in SITE. A real virtual environment takes seconds, so this one makes
# a stand-in; test_real_environment covers the real one.
PYTHON = """\
#!/bin/sh
if [ "$1" = -I ]; then
    exec {real} -IS -c "import sys; sys.path.insert(0, '{site}'); $3"
fi
[ "$1 $2" = "-m venv" ] || exit 1
for venv; do :; done
mkdir -p "$venv/bin" "$venv/lib/python{version}"
cp {stubs}/venv-python "$venv/bin/python"
cp {stubs}/venv-python "$venv/bin/pip"
"""

# pip writes what the wheel's entry point would be: a verify that refuses bundles of b"bad".
VENV_PYTHON = """\
#!/bin/sh
[ "$1" = -m ] || exit 1
echo "pip $*" >>{calls}
[ ! -e {stubs}/no-network ] || {{ echo "no matching distribution" >&2; exit 1; }}
cat >"$(dirname "$0")/edge-cnnlstm" <<'END'
#!/bin/sh
[ "$1" = verify ] && [ "$(head -c 3 "$2")" != bad ] && exit
echo "BundleError: member step.onnx does not match its SHA-256" >&2
exit 1
END
chmod +x "$(dirname "$0")/edge-cnnlstm"
"""

USERADD = """\
#!/bin/sh
echo "useradd $*" >>{calls}
echo "edge-cnnlstm:x:999:999::/:/usr/sbin/nologin" >>{root}/etc/passwd
"""

SYSTEMCTL = """\
#!/bin/sh
link={root}/etc/systemd/system/multi-user.target.wants/edge-cnnlstm.service
case "$*" in
*is-enabled*) test -L "$link"; exit ;;
*enable*) mkdir -p "$(dirname "$link")"; ln -s ../edge-cnnlstm.service "$link" ;;
esac
echo "systemctl $*" >>{calls}
"""


@dataclass
class Robot:
    """A fake root with a Jetson's identity, and the commands that stand for its system."""

    base: Path
    root: Path = field(init=False)
    stubs: Path = field(init=False)
    site: Path = field(init=False)
    wheel: Path = field(init=False)
    bundle: Path = field(init=False)

    def __post_init__(self) -> None:
        for name in ("root", "stubs", "site"):
            setattr(self, name, self.base / name)
            (self.base / name).mkdir()
        self.wheel = self.base / "edge_cnnlstm-0.1.0-py3-none-any.whl"
        self.wheel.write_bytes(b"wheel")
        self.bundle = self.base / "model.edge"
        self.bundle.write_bytes(b"first bundle")

        (self.root / "proc/device-tree").mkdir(parents=True)
        (self.root / "etc").mkdir()
        (self.root / "etc/passwd").write_text("root:x:0:0::/root:/bin/bash\n")
        (self.root / "etc/group").write_text("root:x:0:\nvideo:x:44:\n")
        self.becomes(ORIN, "36", "4.3")

        (self.site / "tensorrt.py").write_text("__version__ = '10.3.0'\n")
        (self.site / "pycuda.py").write_text("")
        self.stub("python3", PYTHON)
        self.stub("venv-python", VENV_PYTHON)
        self.stub("useradd", USERADD)
        self.stub("systemctl", SYSTEMCTL)
        self.stub("uname", "#!/bin/sh\necho aarch64\n")

    def becomes(self, compatible: bytes, major: str, revision: str) -> None:
        tree = self.root / "proc/device-tree"
        (tree / "model").write_bytes(b"NVIDIA Jetson test board\0")
        (tree / "compatible").write_bytes(compatible)
        (self.root / "etc/nv_tegra_release").write_text(
            f"# R{major} (release), REVISION: {revision}, GCID: 1, BOARD: generic, EABI: aarch64\n"
        )

    def stub(self, name: str, text: str) -> None:
        if "{" in text:
            text = text.format(
                real=shlex.quote(sys.executable),
                site=self.site,
                stubs=self.stubs,
                root=self.root,
                calls=self.base / "calls",
                version=sysconfig.get_python_version(),
            )
        path = self.stubs / name
        path.write_text(text)
        path.chmod(0o755)

    def install(self, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
        return self.script("--wheel", str(self.wheel), "--bundle", str(self.bundle), *options, **env)

    def script(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        environ = {
            "PATH": f"{self.stubs}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.base),
            "EDGE_CNNLSTM_ROOT": str(self.root),
        }
        return subprocess.run(
            [SCRIPT, *arguments],
            env=environ | env,
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )

    @property
    def prefix(self) -> Path:
        return self.root / "opt/edge-cnnlstm"

    @property
    def current(self) -> str:
        return str((self.prefix / "current.edge").readlink())

    def calls(self) -> list[str]:
        log = self.base / "calls"
        return log.read_text().splitlines() if log.exists() else []

    def tree(self) -> dict[str, tuple[int, int, int, bytes]]:
        """Everything under the root by path, with what any write to it would change."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            stat = path.lstat()
            content = b""
            if path.is_symlink():
                content = str(path.readlink()).encode()
            elif path.is_file():
                content = path.read_bytes()
            found[str(path.relative_to(self.root))] = (stat.st_mode, stat.st_ino, stat.st_mtime_ns, content)
        return found


@pytest.fixture
def robot(tmp_path: Path) -> Robot:
    return Robot(tmp_path)


def bundle_link(content: bytes) -> str:
    return f"bundles/{sha256(content).hexdigest()[:16]}.edge"


def test_shellcheck() -> None:
    shellcheck = shutil.which("shellcheck") or shutil.which("shellcheck", path=Path(sys.executable).parent)
    if not shellcheck:
        pytest.skip("shellcheck is not installed")
    result = subprocess.run([shellcheck, SCRIPT], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_help_needs_no_jetson(robot: Robot) -> None:
    shutil.rmtree(robot.root / "proc")
    result = robot.script("--help")
    assert result.returncode == 0
    assert "--allow-any-machine" in result.stdout


@dataclass(frozen=True)
class Refusal:
    name: str
    found: str
    expected: str
    to_do: str
    arrange: Callable[[Robot], object] = lambda robot: None
    options: tuple[str, ...] = ()


def board(compatible: bytes, major: str, revision: str) -> Callable[[Robot], None]:
    return lambda robot: robot.becomes(compatible, major, revision)


def stub(name: str, text: str) -> Callable[[Robot], None]:
    return lambda robot: robot.stub(name, text)


REFUSALS = [
    Refusal("unknown option", "--force", "options only", "--help", options=("--force",)),
    Refusal("stray argument", "b.whl", "one wheel", "--help", options=("b.whl",)),
    Refusal("option without value", "--source", "--source VALUE", "--help", options=("--source", "--dry-run")),
    Refusal("prefix with space", "/opt/a b", "absolute path", "--prefix", options=("--prefix", "/opt/a b")),
    Refusal("prefix upward", "/opt/..", "absolute path", "--prefix", options=("--prefix", "/opt/../etc")),
    Refusal("prefix in a home", "/home/me", "not under /home", "--prefix", options=("--prefix", "/home/me/x")),
    Refusal("source with quote", "it's", "no single quote", "--source", options=("--source", "it's")),
    Refusal("architecture", "x86_64", "aarch64", "on the Jetson", stub("uname", "#!/bin/sh\necho x86_64\n")),
    Refusal(
        "not a Jetson",
        "no L4T release",
        "a Jetson",
        "on the Jetson",
        lambda robot: (robot.root / "etc/nv_tegra_release").unlink(),
    ),
    Refusal("JetPack 5", "L4T 35.6.4", "36.4", "flash JetPack 6.1", board(ORIN, "35", "6.4")),
    Refusal("JetPack 5, Xavier", "L4T 35.4.1", "tegra234", "flash JetPack 6.1", board(XAVIER, "35", "4.1")),
    Refusal("JetPack 6.0", "L4T 36.3.0", "36.4", "boards.md", board(ORIN, "36", "3.0")),
    Refusal("Orin, JetPack 7.0", "L4T 38.2.0", "39.2 or later, on Orin", "boards.md", board(ORIN, "38", "2.0")),
    Refusal("Thor, L4T 36", "L4T 36.4.3", "38.2 or later on Thor", "boards.md", board(THOR, "36", "4.3")),
    Refusal("no python3", "no python3", "Python 3.10", "JetPack 6.1", stub("python3", "#!/bin/sh\nexit 127\n")),
    Refusal("old python3", "3.8", "Python 3.10", "JetPack 6.1", stub("python3", "#!/bin/sh\necho 3.8\n")),
    Refusal(
        "no TensorRT",
        "No module named 'tensorrt'",
        "10.3 or later",
        "apt install python3-libnvinfer",
        lambda robot: (robot.site / "tensorrt.py").unlink(),
    ),
    Refusal(
        "old TensorRT",
        "8.6.2",
        "10.3 or later",
        "apt install python3-libnvinfer",
        lambda robot: (robot.site / "tensorrt.py").write_text("__version__ = '8.6.2'\n"),
    ),
    Refusal(
        "no nvcc for PyCUDA",
        "no nvcc",
        "nvcc, g++ and Python.h",
        "apt install",
        lambda robot: (robot.site / "pycuda.py").unlink(),
    ),
    Refusal("no wheel", "absent.whl", "edge_cnnlstm-*.whl", "--wheel", options=("--wheel", "absent.whl")),
    Refusal("another wheel", "install.sh", "edge_cnnlstm-*.whl", "--wheel", options=("--wheel", str(SCRIPT))),
    Refusal("no bundle", "absent.edge", "an existing bundle", "--bundle", options=("--bundle", "absent.edge")),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_refusal_is_one_message_and_touches_nothing(robot: Robot, refusal: Refusal) -> None:
    refusal.arrange(robot)
    before = robot.tree()
    result = robot.install(*refusal.options)
    assert result.returncode == 2, result.stdout + result.stderr
    summary, found, expected, to_do = result.stderr.splitlines()
    assert summary.startswith("install.sh: refused: ")
    assert found.startswith("  found:    ")
    assert refusal.found in found
    assert expected.startswith("  expected: ")
    assert refusal.expected in expected
    assert to_do.startswith("  to do:    ")
    assert refusal.to_do in to_do
    assert robot.tree() == before
    assert robot.calls() == []


def test_refuses_without_root(tmp_path: Path) -> None:
    # No fake root here, so root gives its rights up first. The script is handed over open:
    # the checkout may lie where nobody else can look it up.
    with SCRIPT.open() as script:
        result = subprocess.run(
            ["/bin/bash", f"/dev/fd/{script.fileno()}"],
            pass_fds=[script.fileno()],
            check=False,
            cwd="/",
            user=65534 if os.geteuid() == 0 else None,
            env={"PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
        )
    assert result.returncode == 2
    assert "not running as root" in result.stderr
    assert "sudo" in result.stderr


def test_refuses_a_second_installer(robot: Robot) -> None:
    directory = os.open(robot.root, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        result = robot.install()
    finally:
        os.close(directory)
    assert result.returncode == 2
    assert "another installation is running" in result.stderr
    assert not robot.prefix.exists()


@pytest.mark.parametrize(
    ("compatible", "major", "revision"),
    [(ORIN, "36", "4.0"), (ORIN, "36", "5.2"), (ORIN, "39", "2.0"), (THOR, "38", "2.1"), (THOR, "39", "2.0")],
)
def test_supported_boards_pass(robot: Robot, compatible: bytes, major: str, revision: str) -> None:
    robot.becomes(compatible, major, revision)
    result = robot.install("--dry-run")
    assert result.returncode == 0, result.stderr
    assert f"NVIDIA Jetson test board, L4T {major}.{revision}" in result.stdout


def test_release_falls_back_to_the_package(robot: Robot) -> None:
    (robot.root / "etc/nv_tegra_release").unlink()
    robot.stub("dpkg-query", "#!/bin/sh\necho installed 36.4.3-20250107174145\n")
    assert "L4T 36.4.3, " in robot.install("--dry-run").stdout


def test_dry_run_prints_the_commands_and_changes_nothing(robot: Robot) -> None:
    before = robot.tree()
    result = robot.install("--dry-run")
    assert result.returncode == 0, result.stderr
    assert robot.tree() == before
    assert robot.calls() == []
    steps = ["useradd", "-m venv", "pip", "edge-cnnlstm verify", "current.edge", "edge-cnnlstm.env", "enable"]
    places = [result.stdout.index(step) for step in steps]
    assert places == sorted(places)


@pytest.mark.skipif(not Path(sysconfig.get_path("include"), "Python.h").exists(), reason="this Python has no headers")
def test_pycuda_is_compiled_with_the_cuda_paths(robot: Robot) -> None:
    (robot.site / "pycuda.py").unlink()
    robot.stub("g++", "#!/bin/sh\n")
    cuda = robot.root / "usr/local/cuda"
    (cuda / "bin").mkdir(parents=True)
    (cuda / "bin/nvcc").write_text("")
    (cuda / "bin/nvcc").chmod(0o755)
    result = robot.install("--dry-run")
    assert result.returncode == 0, result.stderr
    assert f"PATH={cuda}/bin:" in result.stdout
    assert f"CUDA_ROOT={cuda} " in result.stdout
    assert r"\[robot\,tensorrt-jetson\]" in result.stdout


def test_install_leaves_the_expected_tree(robot: Robot) -> None:
    result = robot.install()
    assert result.returncode == 0, result.stderr
    assert "systemctl restart edge-cnnlstm" in result.stdout

    assert robot.current == bundle_link(b"first bundle")
    served = robot.prefix / "current.edge"
    assert served.read_bytes() == b"first bundle"
    assert served.stat().st_mode & 0o777 == 0o644

    environment = robot.root / "etc/edge-cnnlstm.env"
    assert environment.stat().st_mode & 0o777 == 0o600
    assert environment.read_text() == (
        "EDGE_CNNLSTM_SOURCE='/dev/video0'\nEDGE_CNNLSTM_BUNDLE=/opt/edge-cnnlstm/current.edge\n"
    )
    unit = robot.root / "etc/systemd/system/edge-cnnlstm.service"
    assert unit.read_text() == UNIT.read_text().replace("@PREFIX@", "/opt/edge-cnnlstm")
    assert unit.stat().st_mode & 0o777 == 0o644

    useradd, *pips, enable = robot.calls()
    assert "--system" in useradd
    assert "--groups video " in useradd
    assert "nologin" in useradd
    assert pips[0].endswith(f"install {robot.wheel}[robot,tensorrt-jetson]")
    assert enable == f"systemctl --root={robot.root} enable edge-cnnlstm.service"
    assert not list(robot.root.rglob("*.new"))


def test_second_run_changes_nothing(robot: Robot) -> None:
    robot.install("--source", "rtsp://camera/live")
    before, calls = robot.tree(), robot.calls()
    for options in [(), ("--source", "rtsp://camera/live")]:
        result = robot.install(*options)
        assert result.returncode == 0, result.stderr
        assert "nothing was changed" in result.stdout
        assert robot.tree() == before
        assert robot.calls() == calls


def test_new_bundle_replaces_the_link_and_keeps_the_old_file(robot: Robot) -> None:
    robot.install()
    robot.bundle.write_bytes(b"second bundle")
    assert robot.install().returncode == 0
    assert robot.current == bundle_link(b"second bundle")
    assert (robot.prefix / bundle_link(b"first bundle")).read_bytes() == b"first bundle"


def test_rebuilt_wheel_of_the_same_version_replaces_the_old(robot: Robot) -> None:
    robot.install()
    robot.wheel.write_bytes(b"rebuilt wheel")
    before = len(robot.calls())
    assert robot.install().returncode == 0
    assert any("--force-reinstall --no-deps" in call for call in robot.calls()[before:])


def test_damaged_copy_is_replaced(robot: Robot) -> None:
    robot.install()
    (robot.prefix / "current.edge").resolve().write_bytes(b"first bundl")
    assert robot.install().returncode == 0
    assert (robot.prefix / "current.edge").read_bytes() == b"first bundle"


def test_refused_bundle_leaves_the_old_one_in_service(robot: Robot) -> None:
    robot.install()
    before = robot.tree()
    robot.bundle.write_bytes(b"bad bundle")
    result = robot.install()
    assert result.returncode == 2
    assert "member step.onnx does not match" in result.stderr
    assert "the bundle in service is unchanged" in result.stderr
    assert robot.current == bundle_link(b"first bundle")
    after = robot.tree()
    # Its directory saw the refused copy come and go; nothing else may differ.
    for tree in (before, after):
        del tree["opt/edge-cnnlstm/bundles"]
    assert after == before


def test_refused_first_bundle_leaves_no_service(robot: Robot) -> None:
    robot.bundle.write_bytes(b"bad bundle")
    assert robot.install().returncode == 2
    assert not (robot.prefix / "current.edge").is_symlink()
    assert list((robot.prefix / "bundles").iterdir()) == []
    assert not (robot.root / "etc/systemd").exists()


def test_failed_step_stops_and_can_be_repeated(robot: Robot) -> None:
    robot.install()
    robot.wheel.write_bytes(b"newer wheel")
    robot.bundle.write_bytes(b"second bundle")
    (robot.stubs / "no-network").touch()
    result = robot.install()
    assert result.returncode == 1
    assert "install.sh: stopped: exit status 1 from:" in result.stderr
    assert "no matching distribution" in result.stderr
    assert robot.current == bundle_link(b"first bundle")

    # Half of the newer wheel may be there by now: the first one counts as installed no more.
    (robot.stubs / "no-network").unlink()
    robot.wheel.write_bytes(b"wheel")
    attempts = len(robot.calls())
    assert robot.install().returncode == 0
    assert len(robot.calls()) > attempts
    assert robot.current == bundle_link(b"second bundle")


def test_source_is_replaced_only_when_given(robot: Robot) -> None:
    robot.install()
    environment = robot.root / "etc/edge-cnnlstm.env"
    edited = environment.read_text() + "EDGE_CNNLSTM_LOG=debug\n"
    environment.write_text(edited)
    robot.install()
    assert environment.read_text() == edited

    robot.install("--source", "nvarguscamerasrc ! appsink")
    lines = environment.read_text().splitlines()
    assert "EDGE_CNNLSTM_SOURCE='nvarguscamerasrc ! appsink'" in lines
    assert "EDGE_CNNLSTM_LOG=debug" in lines
    assert len(lines) == 3


def test_prefix_moves_everything_and_a_stale_bundle_path_is_named(robot: Robot) -> None:
    robot.install()
    result = robot.install("--prefix", "/srv/edge")
    assert result.returncode == 0, result.stderr
    assert (robot.root / "srv/edge/current.edge").is_symlink()
    assert "ExecStart=/srv/edge/venv/bin/" in (robot.root / "etc/systemd/system/edge-cnnlstm.service").read_text()
    assert "does not say EDGE_CNNLSTM_BUNDLE=/srv/edge/current.edge" in result.stderr


def test_any_machine_warns_and_leaves_pycuda_out(robot: Robot) -> None:
    shutil.rmtree(robot.root / "proc")
    (robot.root / "etc/nv_tegra_release").unlink()
    (robot.site / "tensorrt.py").unlink()
    robot.stub("uname", "#!/bin/sh\necho x86_64\n")
    result = robot.install("--allow-any-machine")
    assert result.returncode == 0, result.stderr
    for warning in ("wrong architecture", "this machine is not a Jetson", "no usable TensorRT"):
        assert f"warning: {warning}" in result.stderr
    assert robot.current == bundle_link(b"first bundle")
    assert not any("tensorrt-jetson" in call for call in robot.calls())


def build_wheel(path: Path) -> None:
    """A wheel with the real one's name, entry point and extra, and no dependency to download."""
    info = "edge_cnnlstm-0.1.0.dist-info"
    metadata = "Metadata-Version: 2.1\nName: edge-cnnlstm\nVersion: 0.1.0\nProvides-Extra: robot\n"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("edge_cnnlstm/__init__.py", "def main() -> None:\n    print('the program')\n")
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/entry_points.txt", "[console_scripts]\nedge-cnnlstm = edge_cnnlstm:main\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_real_environment(robot: Robot) -> None:
    """The real venv, pip and systemctl, in place of the stand-ins of the other tests."""
    if shutil.which("systemctl"):
        (robot.stubs / "systemctl").unlink()
    (robot.stubs / "python3").unlink()
    (robot.stubs / "python3").symlink_to(sys.executable)
    build_wheel(robot.wheel)
    result = robot.install("--allow-any-machine", PIP_NO_INDEX="1")
    assert result.returncode == 0, result.stdout + result.stderr
    assert subprocess.check_output([robot.prefix / "venv/bin/edge-cnnlstm"], text=True) == "the program\n"
    assert "include-system-site-packages = true" in (robot.prefix / "venv/pyvenv.cfg").read_text()
    assert (robot.root / "etc/systemd/system/multi-user.target.wants/edge-cnnlstm.service").is_symlink()


def test_unit_is_valid_and_leaves_devices_open(tmp_path: Path) -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    service = unit["Service"]
    assert service["ExecStart"] == ("@PREFIX@/venv/bin/edge-cnnlstm run ${EDGE_CNNLSTM_BUNDLE} --json")
    assert service["User"] == "edge-cnnlstm"
    assert unit["Install"]["WantedBy"] == "multi-user.target"
    closes_devices = {"PrivateDevices", "DeviceAllow", "DevicePolicy", "ProtectClock", "PrivateTmp"}
    assert not closes_devices & set(service)

    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    program = tmp_path / "venv/bin/edge-cnnlstm"
    program.parent.mkdir(parents=True)
    program.touch(0o755)
    rendered = tmp_path / UNIT.name
    rendered.write_text(UNIT.read_text().replace("@PREFIX@", str(tmp_path)))
    result = subprocess.run(["systemd-analyze", "verify", rendered], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert UNIT.name not in result.stderr
