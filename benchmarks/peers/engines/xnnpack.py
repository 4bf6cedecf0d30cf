"""ExecuTorch with XNNPACK: FP32, and int8 by torchao's post-training quantization of the exported program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.peers.peer import Bare, Material, Peer
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.errors import BackendError

if TYPE_CHECKING:
    from torch import fx, nn

PROGRAM = "step.pte"
STATED = "XnnpackPartitioner, frames normalised outside of the call; docs.pytorch.org/executorch, XNNPACK"


def _fp32(material: Material, folder: Path) -> Path:
    from benchmarks.peers.engines.network import convertible

    return _lowered(convertible(material), material, folder)


def _int8(material: Material, folder: Path) -> Path:
    from benchmarks.peers.engines.network import convertible

    return _lowered(_quantized(convertible(material), material), material, folder)


def _quantized(step: nn.Module, material: Material) -> nn.Module:
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    from benchmarks.peers.engines.network import convertible_feeds, quietly

    steps = convertible_feeds(bundle_format.read(material.bundle))
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    quantizer.set_filter_function(_not_summed_up)
    with quietly(), torch.no_grad():
        observed: Any = prepare_pt2e(torch.export.export(step, steps[0]).module(), quantizer)
        for inputs in steps:
            observed(*inputs)
        quantized: nn.Module = convert_pt2e(observed)
    return quantized


def _not_summed_up(node: fx.Node) -> bool:
    """Return whether a node is anything but a cell's own arithmetic, which stays in FP32, or errors would add up."""
    modules = list(node.meta.get("nn_module_stack", {}).values())
    return not (modules and str(modules[-1][1]).endswith("LstmCell"))


def _lowered(step: nn.Module, material: Material, folder: Path) -> Path:
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    from benchmarks.peers.engines.network import example, quietly

    try:
        with quietly(), torch.no_grad():
            inputs = example(bundle_format.read(material.bundle).manifest.model, torch.float32)
            exported = torch.export.export(step, inputs)
            program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    except Exception as error:  # each of its passes raises what it likes
        raise BackendError(
            f"ExecuTorch does not lower the network: {' '.join(str(error).split())}",
            expected="operators that it has",
            fix="update executorch",
        ) from error
    path = folder / PROGRAM
    path.write_bytes(program.buffer)
    return path


def _open(prepared: Path, material: Material) -> Bare:
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
    from executorch.runtime import Runtime

    from benchmarks.peers.engines.network import Normalised

    _unsafe_reset_threadpool(material.threads)
    method = Runtime.get().load_program(prepared).load_method("forward")
    return Normalised(lambda *inputs: method.execute(inputs), bundle_format.read(material.bundle).manifest.model)


PEERS = (
    Peer("executorch fp32", "executorch", "fp32", STATED, ("executorch",), _fp32, _open),
    Peer(
        "executorch int8",
        "executorch",
        "int8",
        f"pt2e with XNNPACKQuantizer on golden frames, per channel, the CNN and every matrix product; {STATED}",
        ("executorch", "torchao"),
        _int8,
        _open,
    ),
)
