from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_wheel_holds_edge_cnnlstm_and_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "source"
    tracked = ("pyproject.toml", "README.md", "edge_cnnlstm", "export", "benchmarks", "jetson", "tests")
    for name in tracked:
        origin = ROOT / name
        if origin.is_dir():
            shutil.copytree(origin, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            source.mkdir(exist_ok=True)
            shutil.copy(origin, source / name)
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr

    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()

    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"edge_cnnlstm"}
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "edge_cnnlstm").rglob("*")
        if path.suffix in {".py", ".md", ".j2", ".toml"} or path.name == "py.typed"
    }
    assert {name for name in names if ".dist-info/" not in name} == expected
