"""ONNX Runtime on the CPU: FP32 in two forms, and what its own quantizer makes of it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.bundle import reference_of
from benchmarks.engines.peer import quantize_all
from benchmarks.peers.engines.memory import TwoSided
from benchmarks.peers.peer import Bare, Material, Peer
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.errors import BackendError
from edge_cnnlstm.runtime.backends.ort import bind_array, open_session
from edge_cnnlstm.spec import ModelSpec

TRIAL_ROUNDS, TRIAL_STEPS = 5, 40
SETTINGS = (
    "all graph optimizations, I/O bound once, memory in two buffers that change sides; "
    "onnxruntime.ai/docs/performance/tune-performance"
)


class Bound(TwoSided):
    """An ONNX file whose inputs and outputs are bound once to raw addresses, one binding for each side of the memory.

    Raises BackendError when ONNX Runtime refuses the graph.
    """

    def __init__(self, graph: bytes, spec: ModelSpec, threads: int) -> None:
        super().__init__(spec)
        session = open_session(graph, threads=threads)
        self._run = session.run_with_iobinding
        self._bindings = []
        for side in (0, 1):
            binding = session.io_binding()
            for name, array in self.read(side).items():
                bind_array(binding.bind_input, name, array)
            for name, array in self.written(side).items():
                bind_array(binding.bind_output, name, array)
            self._bindings.append(binding)

    def run(self) -> None:
        self._run(self._bindings[self.side])
        self.side ^= 1


def _open(prepared: Path, material: Material) -> Bare:
    return Bound(prepared.read_bytes(), bundle_format.read(material.bundle).manifest.model, material.threads)


def portable(material: Material, folder: Path) -> Path:
    """Write the bundle's FP32 graph into a folder; raises ConfigError when it has none."""
    bundle = bundle_format.read(material.bundle)
    path = folder / "fp32.onnx"
    path.write_bytes(bundle.graph(reference_of(bundle)))
    return path


def plain(material: Material, folder: Path) -> Path:
    """Write the FP32 graph with ONNX's LSTM operator, as torch's exporter writes it; BackendError without cells."""
    import onnx

    from benchmarks.engines.fused import with_lstm_operators

    path = folder / "lstm.onnx"
    try:
        onnx.save(with_lstm_operators(onnx.load(portable(material, folder))), path)
    except ValueError as error:
        raise BackendError(
            str(error), expected="a network with LSTM cells", fix="nothing: the portable graph is the plain one"
        ) from error
    return path


def _dynamic(material: Material, folder: Path) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    original, path = plain(material, folder), folder / "dynamic.onnx"
    quantize_dynamic(
        original, path, op_types_to_quantize=["MatMul", "Gemm", "LSTM"], per_channel=True, weight_type=QuantType.QInt8
    )
    return path


def _static(material: Material, folder: Path) -> Path:
    """Quantize in every form; keep the one that is fastest here, under its name."""
    bundle = bundle_format.read(material.bundle)
    with TemporaryDirectory(dir=folder) as tried:
        forms, failed = quantize_all(bundle, reference_of(bundle), Path(tried))
        best = _fastest(forms.items(), material, list(bundle.golden.frames))
        if best is None:
            raise BackendError(
                f"no form was quantized: {'; '.join(failed.values())}",
                expected="a network that ONNX Runtime's quantizer takes",
                fix="update onnxruntime",
            )
        name, path = best
        return path.rename(folder / f"{name}.onnx")


def _fastest(
    forms: Iterable[tuple[str, Path]], material: Material, frames: list[np.ndarray]
) -> tuple[str, Path] | None:
    """Return the form with the least median, the forms taking turns."""
    opened = {form: _open(form[1], material) for form in forms}
    samples: dict[tuple[str, Path], list[int]] = {form: [] for form in opened}
    for _ in range(TRIAL_ROUNDS):
        for form, bare in opened.items():
            samples[form] += _timed(bare, frames)
    return min(samples, key=lambda form: float(np.median(samples[form])), default=None)


def _timed(bare: Bare, frames: list[np.ndarray]) -> list[int]:
    samples = []
    for step in range(TRIAL_STEPS):
        bare.lay(frames[step % len(frames)])
        begun = time.monotonic_ns()
        bare.run()
        samples.append(time.monotonic_ns() - begun)
    return samples[TRIAL_STEPS // 4 :]


PEERS = (
    Peer(
        "onnxruntime fp32 (LSTM operator)",
        "onnxruntime",
        "fp32",
        f"the plain export, {SETTINGS}",
        ("onnxruntime", "onnx"),
        plain,
        _open,
    ),
    Peer(
        "onnxruntime fp32 (portable graph)",
        "onnxruntime",
        "fp32",
        f"the bundle's FP32 graph, {SETTINGS}",
        ("onnxruntime",),
        portable,
        _open,
    ),
    Peer(
        "onnxruntime int8 (static)",
        "onnxruntime",
        "int8",
        "quantize_static on golden frames, the fastest here of twelve forms, x64quantprecision, else as fp32; "
        "onnxruntime.ai/docs/performance/model-optimizations/quantization",
        ("onnxruntime", "onnx"),
        _static,
        _open,
    ),
    Peer(
        "onnxruntime int8 (quantize_dynamic)",
        "onnxruntime",
        "int8",
        "LSTM and matrix products, int8 weights per channel, else as fp32; "
        "onnxruntime.ai/docs/performance/model-optimizations/quantization",
        ("onnxruntime", "onnx"),
        _dynamic,
        _open,
    ),
)
