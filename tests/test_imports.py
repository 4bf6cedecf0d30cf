"""Who may import what: rules as tests, not promises."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = [
    *("torch", "onnx", "cv2", "onnxruntime", "tensorrt", "tensorrt_rtx", "pycuda", "cuda", "pynvml", "lightning"),
    "modelopt",
]

FLOORS = {
    "edge_cnnlstm/errors.py": set[str](),
    "edge_cnnlstm/provenance.py": set[str](),
    "edge_cnnlstm/spec.py": {"errors"},
    "edge_cnnlstm/bundle": {"errors", "spec", "bundle"},
    "edge_cnnlstm/gpu": {"errors", "provenance", "spec", "gpu"},
    "edge_cnnlstm/runtime": {"errors", "provenance", "spec", "bundle", "gpu", "runtime"},
    "edge_cnnlstm/training": {"errors", "provenance", "spec", "runtime", "training"},
    "edge_cnnlstm/report": {"errors", "provenance", "runtime", "report"},
}
"""What each floor of the library may stand on."""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)


def modules(folder: str) -> list[str]:
    paths = sorted((ROOT / "edge_cnnlstm" / folder).rglob("*.py"))
    return [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]


def test_every_runtime_module_imports_with_all_heavy_packages_blocked() -> None:
    names = ["edge_cnnlstm", *modules("runtime"), *modules("bundle"), *modules("gpu")]
    assert len(names) > 20

    result = run(
        f"import sys, importlib\nfor name in {HEAVY}: sys.modules[name] = None\n"
        f"for name in {names}: importlib.import_module(name)"
    )

    assert result.returncode == 0, result.stderr


def test_importing_the_package_loads_numpy_and_the_standard_library_only() -> None:
    result = run(
        "import sys; before = set(sys.modules); import edge_cnnlstm\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - sys.stdlib_module_names))"
    )

    assert result.stdout.strip() == "['edge_cnnlstm', 'numpy']", result.stderr


def test_a_missing_engine_is_named_with_the_way_to_get_it() -> None:
    result = run(
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from edge_cnnlstm.runtime.optional import load_onnxruntime\nload_onnxruntime()"
    )

    assert "DependencyError" in result.stderr
    assert "pip install 'edge-cnnlstm[ort]'" in result.stderr


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def sources(place: str) -> list[Path]:
    path = ROOT / place
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


@pytest.mark.parametrize("floor", FLOORS)
def test_each_floor_stands_only_on_those_below_it(floor: str) -> None:
    for path in sources(floor):
        used = {name.split(".")[1] for name in imported(path) if name.startswith("edge_cnnlstm.")}
        assert used <= FLOORS[floor], f"{path.relative_to(ROOT)} imports {used - FLOORS[floor]}"


@pytest.mark.parametrize("program", ["export", "benchmarks", "jetson"])
def test_the_programs_never_import_each_other(program: str) -> None:
    others = {"export", "benchmarks", "jetson"} - {program}
    for path in sources(program):
        assert not {name.partition(".")[0] for name in imported(path)} & others


def test_the_library_never_imports_the_programs_and_only_training_imports_torch() -> None:
    for path in sources("edge_cnnlstm"):
        tops = {name.partition(".")[0] for name in imported(path)}
        assert not tops & {"export", "benchmarks", "jetson"}, path
        assert not tops & {"torch", "lightning"} or "training" in path.parts, path


def test_the_public_names_are_what_the_package_says() -> None:
    import edge_cnnlstm

    visible = {
        name for name, value in vars(edge_cnnlstm).items() if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert visible - {"annotations"} | {"__version__"} == set(edge_cnnlstm.__all__)


@pytest.mark.parametrize("path", sources("edge_cnnlstm"), ids=lambda path: path.name)
def test_no_file_uses_pickle_or_host_code(path: Path) -> None:
    tree = ast.parse(path.read_text())
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    keywords = {
        keyword.arg: keyword.value for node in ast.walk(tree) if isinstance(node, ast.Call) for keyword in node.keywords
    }

    assert "pickle" not in imported(path)
    assert "engine_host_code_allowed" not in names
    for forbidden, value in (("allow_pickle", True), ("weights_only", False)):
        given = keywords.get(forbidden)
        assert not (isinstance(given, ast.Constant) and given.value is value)
