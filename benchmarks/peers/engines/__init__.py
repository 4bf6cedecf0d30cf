"""Every peer, in the order of the table. Importing this imports none of the engines."""

from __future__ import annotations

from benchmarks.peers.peer import Peer

PEERS: tuple[Peer, ...] = ()
