"""Every peer, in the order of the table. Importing this imports none of the engines."""

from __future__ import annotations

from benchmarks.peers.engines import litert, ort, ov, pytorch, xnnpack
from benchmarks.peers.peer import Peer

PEERS: tuple[Peer, ...] = (*pytorch.PEERS, *ort.PEERS, *ov.PEERS, *xnnpack.PEERS, *litert.PEERS)
