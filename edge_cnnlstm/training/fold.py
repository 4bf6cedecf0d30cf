"""The backbone as a graph of operations: batch norms folded away, and what reads what in plain sight.

Any `nn.Module` whose control flow does not look at tensor values can be traced, so what follows, where to quantize
above all, is decided from the dataflow and not from how a module happens to be nested.
"""

from __future__ import annotations

import copy
from collections import Counter

from torch import fx, nn

from edge_cnnlstm.errors import ExportError
from edge_cnnlstm.training.model import CnnLstm


def fold(model: CnnLstm) -> CnnLstm:
    """Return a copy in evaluation mode whose backbone is traced, its batch norms part of the convolutions before them.

    Its layers lie side by side, so that each has one name everywhere: `stages.0.narrowed.3` becomes
    `backbone.stages_0_narrowed_3`, and its nodes in a graph begin with `/backbone/stages_0_narrowed_3/`. Raises
    ExportError for a backbone that looks at values in Python.
    """
    folded = copy.deepcopy(model).eval()
    folded.set_submodule("backbone", _fold_batch_norms(_traced(folded.backbone)))
    return folded


def _traced(backbone: nn.Module) -> fx.GraphModule:
    try:
        traced = fx.symbolic_trace(backbone)
    # The user's own code runs here, on stand-ins for tensors, and may fail in any way.
    except Exception as error:
        raise ExportError(
            f"the backbone cannot be traced: {error}",
            expected="a forward pass without Python control flow that looks at tensors",
            fix="replace `if`, `for` and `assert` over tensor values or shapes in the backbone's forward()",
        ) from error
    for node in traced.graph.nodes:
        if node.op == "call_module":
            flat = str(node.target).replace(".", "_")
            traced.add_submodule(flat, traced.get_submodule(str(node.target)))
            node.target = flat
    traced.delete_all_unused_submodules()
    return traced


def _fold_batch_norms(traced: fx.GraphModule) -> fx.GraphModule:
    modules = dict(traced.named_modules())
    calls = Counter(node.target for node in traced.graph.nodes if node.op == "call_module")
    for node in list(traced.graph.nodes):
        norm, before = modules.get(str(node.target)), node.args[0] if node.args else None
        if not isinstance(norm, nn.BatchNorm2d) or not isinstance(before, fx.Node):
            continue
        convolution = modules.get(str(before.target))
        alone = len(before.users) == 1 and calls[before.target] == 1 and calls[node.target] == 1
        if isinstance(convolution, nn.Conv2d) and alone:
            modules[str(before.target)] = nn.utils.fusion.fuse_conv_bn_eval(convolution, norm)
            traced.set_submodule(str(before.target), modules[str(before.target)])
            node.replace_all_uses_with(before)
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced
