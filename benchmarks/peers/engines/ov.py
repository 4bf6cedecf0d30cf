"""OpenVINO on the CPU: FP32, NNCF's int8 of it, and the bundle's int8 graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.bundle import reference_of
from benchmarks.engines.peer import calibration_feeds
from benchmarks.peers.engines.memory import TwoSided
from benchmarks.peers.engines.ort import portable
from benchmarks.peers.peer import Bare, Material, Peer
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.errors import BackendError, ConfigError
from edge_cnnlstm.runtime.backends.ov import SETTINGS
from edge_cnnlstm.spec import ModelSpec

NOT_GATES = r".*/cells\.\d+/(?!gates).*"
"""What the memory adds up and multiplies: it stays in FP32, or its errors would grow with every step."""

STATED = (
    "INFERENCE_PRECISION_HINT f32, PERFORMANCE_HINT LATENCY, one stream, tensors set once; "
    "docs.openvino.ai, High-level Performance Hints"
)


class Requests(TwoSided):
    """A model file with one request for each side of the memory, their tensors set once.

    Raises BackendError when OpenVINO refuses the graph.
    """

    def __init__(self, graph: Path, spec: ModelSpec, threads: int) -> None:
        import openvino

        super().__init__(spec)
        try:
            core = openvino.Core()
            compiled = core.compile_model(_model(graph, spec), "CPU", SETTINGS | {"INFERENCE_NUM_THREADS": threads})
        except RuntimeError as error:
            raise _refused(error) from error
        self._core = core  # its death would take the thread's signal stack with it
        self._requests = []
        for side in (0, 1):
            request = compiled.create_infer_request()
            for name, array in (self.read(side) | self.written(side)).items():
                request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
            self._requests.append(request)

    def run(self) -> None:
        # A dictionary of outputs is made for nobody, but start_async and wait take 50 µs more.
        self._requests[self.side].infer(share_outputs=True)
        self.side ^= 1


def _open(prepared: Path, material: Material) -> Bare:
    return Requests(prepared, bundle_format.read(material.bundle).manifest.model, material.threads)


def _model(graph: Path, spec: ModelSpec) -> Any:
    """Read a graph for one stream, its shapes fixed."""
    import openvino

    model = openvino.Core().read_model(graph)
    memory = {pair.input: list(pair.shape) for pair in spec.states}
    model.reshape({tensor.name: list(tensor.shape) for tensor in spec.inputs} | memory)
    return model


def _nncf(material: Material, folder: Path) -> Path:
    import nncf
    import openvino
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    bundle = bundle_format.read(material.bundle)
    model = _model(portable(material, folder), bundle.manifest.model)
    feeds = calibration_feeds(bundle, reference_of(bundle))
    path = folder / "nncf.xml"
    try:
        quantized = nncf.quantize(
            model,
            nncf.Dataset(feeds),
            subset_size=len(feeds),
            target_device=nncf.TargetDevice.CPU,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                # Its default, the mean of each step's range, cuts off what a long rollout needs.
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
            ),
            ignored_scope=nncf.IgnoredScope(patterns=[NOT_GATES], validate=False),
        )
        openvino.save_model(quantized, path, compress_to_fp16=False)
    except RuntimeError as error:
        raise _refused(error) from error
    return path


def _bundled(material: Material, folder: Path) -> Path:
    bundle = bundle_format.read(material.bundle)
    for graph in bundle.manifest.graphs:
        if graph.dialect == "onnxruntime" and graph.precision.startswith("int8"):
            path = folder / f"{graph.name}.onnx"
            path.write_bytes(bundle.graph(graph.name))
            return path
    raise ConfigError(
        "the bundle has no int8 graph for CPUs", expected="one in the onnxruntime dialect", fix="export it with int8"
    )


def _refused(error: RuntimeError) -> BackendError:
    return BackendError(
        f"OpenVINO refused the graph: {' '.join(str(error).split())}",
        expected="a graph that this version of OpenVINO runs",
        fix="update openvino",
    )


PEERS = (
    Peer("openvino fp32", "openvino", "fp32", STATED, ("openvino",), portable, _open),
    Peer(
        "openvino int8 (nncf)",
        "openvino",
        "int8",
        f"nncf.quantize on golden frames, all of the CNN and every matrix product; {STATED}, Basic Quantization Flow",
        ("openvino", "nncf"),
        _nncf,
        _open,
    ),
    Peer("openvino int8 (bundle's graph)", "openvino", "int8", STATED, ("openvino",), _bundled, _open),
)
