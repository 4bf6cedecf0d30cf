"""What a runtime must know about a network, read off the network itself."""

from __future__ import annotations

import torch

from edge_cnnlstm.spec import HeadSpec, ModelSpec, StatePair, Task, TensorSpec
from edge_cnnlstm.training.model import CnnLstm

OUTPUTS: dict[Task, tuple[str, ...]] = {"classify": ("logits",), "regress": ("values",), "track": ("box", "presence")}


def spec_of(model: CnnLstm, batch: int = 1) -> ModelSpec:
    """Return what a runtime must know about this network's step graph, for a fixed batch of streams.

    A network that scans the rows of single images, or has no LSTM layer, remembers nothing from frame to frame.
    """
    config = model.config
    with torch.inference_mode():
        frame = torch.zeros(batch, config.height, config.width, 3, dtype=torch.uint8)
        outputs, _ = model.step(frame, model.initial_state(batch))
    memory = (config.layers, batch, config.hidden)
    remembers = config.scan == "frames" and config.layers > 0
    return ModelSpec(
        frame=TensorSpec("frame", tuple(frame.shape), "uint8"),
        fit=config.fit,
        dt=TensorSpec("dt", (batch, 1), "float32") if config.dt_input else None,
        states=(StatePair("h", "h_next", memory), StatePair("c", "c_next", memory)) if remembers else (),
        outputs=tuple(TensorSpec(name, tuple(value.shape), "float32") for name, value in outputs.items()),
        heads=tuple(
            HeadSpec(head.name, head.task, tuple(f"{head.name}_{part}" for part in OUTPUTS[head.task]), head.labels)
            for head in config.heads
        ),
    )
