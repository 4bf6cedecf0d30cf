"""Holds that each peer computes what was trained, and carries its memory, in every engine that is installed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.engines import PEERS, litert, pytorch
from benchmarks.peers.peer import Bare, Material, Peer, deviation
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.training.checkpoint import save_checkpoint
from tests.benchmarks.conftest import unfolded

FP32, INT8 = 1e-3, 0.3
QUICK = {"torch eager", "torch TorchScript", "openvino fp32", "openvino int8 (bundle's graph)"} | {
    peer.name for peer in PEERS if peer.family == "onnxruntime" and "static" not in peer.name
}

Opened = Callable[[Peer], Bare]


@pytest.fixture(scope="session")
def material(nano: Path, tmp_path_factory: pytest.TempPathFactory) -> Material:
    checkpoint = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(unfolded(layers=1), checkpoint)
    return Material(nano, checkpoint, threads=1)


@pytest.fixture
def opened(material: Material, tmp_path: Path) -> Opened:
    def opened(peer: Peer) -> Bare:
        installed = {package.name for package in distributions()}
        if missing := set(peer.needs) - installed:
            pytest.skip(f"pip install {' '.join(missing)}")
        return peer.open(peer.prepare(material, tmp_path), material)

    return opened


# What compilers say about their own parts, when they are imported, is no concern of ours.
SLOW = (pytest.mark.slow, pytest.mark.filterwarnings("ignore"))


@pytest.mark.parametrize(
    "peer", [pytest.param(one, marks=() if one.name in QUICK else SLOW, id=one.name) for one in PEERS]
)
def test_a_peer_follows_the_golden_rollout_of_fp32(peer: Peer, opened: Opened, material: Material) -> None:
    bundle = bundle_format.read(material.bundle)
    strays = deviation(opened(peer), bundle.manifest.model, bundle.golden, bundle.golden.expected["fp32"])
    assert strays.largest <= (FP32 if peer.precision == "fp32" else INT8)


@pytest.mark.parametrize("name", ["torch eager", "onnxruntime fp32 (portable graph)", "openvino fp32"])
def test_a_peer_that_is_reset_answers_as_it_did_at_first_and_otherwise_not(
    name: str, opened: Opened, material: Material
) -> None:
    (peer,) = (one for one in PEERS if one.name == name)
    bare, frame = opened(peer), bundle_format.read(material.bundle).golden.frames[0]

    def answer() -> np.ndarray:
        bare.lay(frame)
        bare.run()
        return np.array(bare.outputs()["digit_logits"])

    first, second = answer(), answer()
    bare.reset()
    assert np.array_equal(answer(), first)
    assert not np.array_equal(second, first)


def test_torch_says_that_it_needs_a_checkpoint(nano: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--checkpoint"):
        pytorch.PEERS[0].prepare(Material(nano, None, threads=1), tmp_path)


def test_every_peer_states_its_settings_and_where_they_are_documented() -> None:
    for peer in PEERS:
        assert any(site in peer.settings for site in ("docs.", "onnxruntime.ai", "ai.google.dev")), peer.name
        assert "\n" not in peer.settings
        assert peer.needs
    assert len({peer.name for peer in PEERS}) == len(PEERS)


def test_naming_the_peers_imports_no_engine() -> None:
    engines = {"torch", "onnxruntime", "openvino", "executorch", "ai_edge_litert"}
    code = f"import sys, benchmarks.peers.engines; print({engines} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "set()"


def test_a_range_is_the_widest_of_all_steps() -> None:
    steps = [
        {"x": {"min": np.array([-1.0]), "max": np.array([2.0])}},
        {"x": {"min": np.array([-3]), "max": np.array([1])}},
    ]
    found = litert._widest(steps)["x"]
    assert (found["min"], found["max"]) == (-3, 2)
