"""Every peer's preparation, in a process of its own: what it wrote, or why there is nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.peers.as_used import AS_USED
from benchmarks.peers.engines import PEERS
from benchmarks.peers.peer import Material, Peer
from benchmarks.processes import Message, answer, run
from edge_cnnlstm.errors import BackendError, ConfigError, EdgeError

EVERY = (*PEERS, *AS_USED)


def peer_called(name: str) -> Peer:
    """Return a peer by its name; raises ConfigError for one that does not exist."""
    for peer in EVERY:
        if peer.name == name:
            return peer
    raise ConfigError(
        f"peer {name!r}", expected=f"one of {', '.join(peer.name for peer in EVERY)}", fix="choose one of these"
    )


def prepare(peers: Iterable[Peer], material: Material, folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Prepare peers one after the other, each in a subfolder of its own.

    Returns what each one's preparation wrote, and why the others are missing, by the peer's name.
    """
    paths, missing = dict[str, Path](), dict[str, str]()
    for number, peer in enumerate(peers):
        absent = [needed for needed in peer.needs if not _is_installed(needed)]
        if absent:
            missing[peer.name] = f"not installed: pip install {' '.join(absent)}"
            continue
        place = folder / str(number)
        place.mkdir()
        found = _prepare(peer, material, place)
        if "refused" in found:
            missing[peer.name] = without_folders(found["refused"], place, material)
        else:
            paths[peer.name] = Path(found["path"])
    return paths, missing


def without_folders(text: str, place: Path, material: Material) -> str:
    """Return what an engine said without the folders of this machine, which are nobody else's business."""
    folders = [place, Path(sys.prefix), material.bundle.parent]
    for folder in (*folders, *([material.checkpoint.parent] if material.checkpoint else [])):
        text = text.replace(f"{folder}/", "")
    return text


def main(name: str, place: str, bundle: str, threads: str, checkpoint: str = "") -> Message:
    """Prepare one peer, and answer with the path of what it wrote, or why it refuses the network."""
    material = Material(Path(bundle), Path(checkpoint) if checkpoint else None, int(threads))
    try:
        return {"path": str(peer_called(name).prepare(material, Path(place)))}
    except EdgeError as error:
        return {"refused": error.found}


def _prepare(peer: Peer, material: Material, place: Path) -> Message:
    words = [peer.name, place, material.bundle, material.threads, material.checkpoint or ""]
    try:
        return run("benchmarks.peers.prepared", *words)
    except BackendError as error:
        return {"refused": f"its preparation ended with {error.found.partition(' ended with ')[2]}"}


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    answer(main)
