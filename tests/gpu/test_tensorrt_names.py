"""Every name of TensorRT's API that is used here is in every version that is promised.

`trt_names.json` lists the public names of the Python bindings by version, as they were found by importing each. What is
used is read from the sources; what a variable is, from its name: OBJECTS is the convention that makes that possible.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Set as AbstractSet
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "edge_cnnlstm"

MODULE = "tensorrt"
OURS = "ours"

SPEAKERS = [
    *(LIBRARY / "gpu" / name for name in ("tensorrt.py", "network.py", "progress.py", "engine.py", "audit.py")),
    LIBRARY / "runtime" / "device_step.py",
]
"""The files that may ask TensorRT for anything."""

OBJECTS = {
    "trt": MODULE, "builder": "Builder", "network": "INetworkDefinition", "config": "IBuilderConfig",
    "parser": "OnnxParser", "problem": "ParserError", "code": "ErrorCode", "tensor": "ITensor", "total": "ITensor",
    "dtype": "DataType", "layer": "ILayer", "cache": "ITimingCache", "blob": "IHostMemory", "serialized": "IHostMemory",
    "pool": "MemoryPoolType", "runtime": "Runtime", "engine": "ICudaEngine", "context": "IExecutionContext",
    "inspector": "EngineInspector", "logger": OURS,
}  # fmt: skip
"""What a variable, a parameter or an attribute of this name is, in the files of SPEAKERS."""

ELSEWHERE = {"audit.py": {"layer", "tensor"}}
"""Names that mean something of our own in one file."""

RESULTS = {
    "Builder.create_network": "INetworkDefinition",
    "Builder.create_builder_config": "IBuilderConfig",
    "Builder.build_serialized_network": "IHostMemory",
    "INetworkDefinition.get_input": "ITensor",
    "INetworkDefinition.get_output": "ITensor",
    "INetworkDefinition.get_layer": "ILayer",
    "ILayer.get_input": "ITensor",
    "ILayer.get_output": "ITensor",
    "ILayer.type": "LayerType",
    "ITensor.dtype": "DataType",
    "OnnxParser.get_error": "ParserError",
    "ParserError.code": "ErrorCode",
    "IBuilderConfig.create_timing_cache": "ITimingCache",
    "IBuilderConfig.get_timing_cache": "ITimingCache",
    "ITimingCache.serialize": "IHostMemory",
    "Runtime.deserialize_cuda_engine": "ICudaEngine",
    "ICudaEngine.create_execution_context": "IExecutionContext",
    "ICudaEngine.create_engine_inspector": "EngineInspector",
    "ICudaEngine.get_tensor_dtype": "DataType",
}
"""What comes back, where anything of it is used."""


@cache
def names() -> dict[str, dict[str, set[str]]]:
    """The public names of each version: those of each class, and under MODULE those of the module."""
    table = json.loads((Path(__file__).parent / "trt_names.json").read_text())
    found: dict[str, dict[str, set[str]]] = {version: {} for version in table["versions"]}
    for version, classes in found.items():
        for owner, members in table["everywhere"].items():
            classes.setdefault(owner, set()).update(members.split())
        for owner, groups in table["somewhere"].items():
            for versions, members in groups.items():
                if version in versions.split():
                    classes.setdefault(owner, set()).update(members.split())
    return found


class Reader(ast.NodeVisitor):
    """Collects what a file asks TensorRT for, and where it cannot be told what is asked."""

    def __init__(self, source: str, ours: AbstractSet[str]) -> None:
        self.objects = {name: kind for name, kind in OBJECTS.items() if name not in ours}
        self.uses: set[tuple[str, str]] = set()
        self.faults: list[str] = []
        tree = ast.parse(source)
        self.opened = {
            node.value.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        }
        self.visit(tree)

    def kind(self, node: ast.expr) -> str | None:
        """Which class an expression is of; None for what is not TensorRT's, or cannot be told."""
        if isinstance(node, ast.Name):
            return self.objects.get(node.id)
        if isinstance(node, ast.Call):
            return self.kind(node.func)
        if not isinstance(node, ast.Attribute):
            return None
        owner = self.kind(node.value)
        if owner is None:
            return self.objects.get(node.attr.lstrip("_"))
        if owner == MODULE:
            return node.attr
        # A member of an enumeration is of its kind.
        return RESULTS.get(f"{owner}.{node.attr}", owner if node.attr.isupper() else None)

    def asks(self, node: ast.expr) -> bool:
        """Whether an expression is something that TensorRT returned."""
        if isinstance(node, ast.Call):
            return self.asks(node.func)
        return isinstance(node, ast.Attribute) and self.kind(node.value) not in (None, OURS)

    def fault(self, node: ast.AST, text: str) -> None:
        self.faults.append(f"line {getattr(node, 'lineno', '?')}: {text}")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        owner = self.kind(node.value)
        if owner not in (None, OURS) and not node.attr.startswith("__"):
            self.uses.add((str(owner), node.attr))
        if owner is None and self.asks(node.value):
            self.fault(node, f"of what {ast.unparse(node.value)} is, RESULTS says nothing")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if node.keywords and self.asks(node.func):
            self.fault(node, f"{ast.unparse(node.func)} is given keywords, which no table tells")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=True))
            else:
                pairs = [(target, node.value)]
            for name, value in pairs:
                self.bind(name, value)
        self.generic_visit(node)

    def bind(self, target: ast.expr, value: ast.expr) -> None:
        if not isinstance(target, ast.Name) or not self.asks(value):
            return
        named, found = self.objects.get(target.id), self.kind(value)
        if named is None and target.id in self.opened:
            self.fault(target, f"{target.id!r} is {ast.unparse(value)}, and not among OBJECTS")
        if named is not None and found is not None and named != found:
            self.fault(target, f"{target.id!r} is {found}, and {named} by its name")

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for parameter in node.args.args:
            untyped = isinstance(parameter.annotation, ast.Name) and parameter.annotation.id == "Any"
            if untyped and parameter.arg in self.opened and parameter.arg not in self.objects:
                self.fault(node, f"{parameter.arg!r} may be anything, and is not among OBJECTS")
        self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """TensorRT calls what overrides a method of its own: a name that it does not know it would never call."""
        bases = [self.kind(base) for base in node.bases if self.asks(base)]
        called = [part for part in node.body if isinstance(part, ast.FunctionDef) and not part.decorator_list]
        self.uses |= {(str(base), part.name) for base in bases for part in called if not part.name.startswith("_")}
        self.generic_visit(node)


def complaints(source: str, ours: AbstractSet[str] = frozenset()) -> list[str]:
    """Everything that a file asks for and that is not in every version, or not known to be."""
    reader = Reader(source, ours)
    for version, classes in names().items():
        lacking = sorted(use for use in reader.uses if use[1] not in classes.get(use[0], ()))
        reader.faults += [f"{owner}.{member} is not in {version}" for owner, member in lacking]
    return reader.faults


@pytest.mark.parametrize("path", [path for path in SPEAKERS if path.exists()], ids=lambda path: path.name)
def test_every_name_is_in_every_version(path: Path) -> None:
    assert complaints(path.read_text(), ELSEWHERE.get(path.name, set())) == []


def test_every_name_is_in_the_installed_tensorrt_rtx() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is built for Linux only")
    uses = set[tuple[str, str]]()
    for path in SPEAKERS:
        uses |= Reader(path.read_text(), ELSEWHERE.get(path.name, set())).uses if path.exists() else set()

    assert len(uses) > 60
    lacking = [use for use in uses if not hasattr(trt if use[0] == MODULE else getattr(trt, use[0]), use[1])]
    assert lacking == []


def test_no_other_file_asks_tensorrt_for_anything() -> None:
    for path in set(LIBRARY.rglob("*.py")) - set(SPEAKERS):
        opened = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]
        asked = [node for node in opened if "trt" in (getattr(node, "id", ""), getattr(node, "attr", ""))]
        assert asked == [], path


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("config.set_flag(trt.BuilderFlag.FP16)", "BuilderFlag.FP16 is not in 11.4.0.106"),
        ("size = self.engine.device_memory_size", "ICudaEngine.device_memory_size is not in 11.4.0.106"),
        ("config.num_compute_capabilities = 1", "IBuilderConfig.num_compute_capabilities is not in 10.3.0"),
        ("engine.create_runtime_config()", "ICudaEngine.create_runtime_config is not in 10.3.0"),
        ("trt.Builder(logger).create_network(0).add_squeeze(a, b)", "INetworkDefinition.add_squeeze is not in 10.3.0"),
        ("layer.type == trt.LayerType.SQUEEZE", "LayerType.SQUEEZE is not in 10.3.0"),
        ("trt.IStreamReaderV2", "tensorrt.IStreamReaderV2 is not in 10.3.0"),
        ("class M(trt.IProgressMonitor):\n def step_done(self): ...", "IProgressMonitor.step_done is not in 10.3.0"),
        (
            "made = builder.create_network(0)\nmade.num_layers",
            "'made' is builder.create_network(0), and not among OBJECTS",
        ),
        ("layer = builder.create_network(0)", "'layer' is INetworkDefinition, and ILayer by its name"),
        ("a, engine = 1, trt.Runtime(logger)", "'engine' is Runtime, and ICudaEngine by its name"),
        ("engine.get_tensor_shape(name).volume", "of what engine.get_tensor_shape(name) is, RESULTS says nothing"),
        ("config.set_timing_cache(cache, ignore_mismatch=True)", "config.set_timing_cache is given keywords"),
        ("def f(thing: Any) -> None:\n thing.num_layers", "'thing' may be anything, and is not among OBJECTS"),
    ],
)
def test_what_is_missing_in_a_version_or_cannot_be_told_is_caught(source: str, complaint: str) -> None:
    assert any(complaint in found for found in complaints(source)), complaints(source)
