"""Two processes that each score half of the clips find the scores of the whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, sys
import torch
from edge_cnnlstm.training.config import HeadConfig
from edge_cnnlstm.training.metrics import Meters

rank, world, place = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if world > 1:
    torch.distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=world)
heads = (
    HeadConfig(name="digit", task="classify", labels=tuple("0123456")),
    HeadConfig(name="target", task="track"),
    HeadConfig(name="pose", task="regress", labels=("x",), centre=(0,), spread=(1,)),
)
generator = torch.Generator().manual_seed(0)
random = lambda *shape: torch.rand(8, 5, *shape, generator=generator)
digits = torch.randint(0, 7, (8, 5), generator=generator)
digits[1::2] = -1  # the second process knows nothing about its digits
outputs = {"digit_logits": random(7), "target_box": random(4), "target_presence": random(1) - 0.5}
outputs["pose_values"] = random(1)
truth = {"digit": digits, "target_box": random(4), "target_visible": random().round(), "pose": random(1)}
conditions = {"hidden": random() > 0.5}
mine = lambda values: {name: value[rank::world] for name, value in values.items()}
meters = Meters(heads, 64, 64)
meters.update(mine(outputs), mine(truth), mine(conditions))
print(json.dumps(meters.compute()))
"""


@pytest.mark.slow
def test_scores_add_up_over_processes(tmp_path: Path) -> None:
    def start(rank: int, world: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM, str(rank), str(world), str(tmp_path / "rendezvous")]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    processes = [start(0, 1), start(0, 2), start(1, 2)]
    alone, first, second = (json.loads(process.communicate(timeout=120)[0]) for process in processes)

    assert len(alone) > 20
    assert first == second
    assert first == pytest.approx(alone, rel=1e-5)
