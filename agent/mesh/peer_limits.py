# SPDX-License-Identifier: Apache-2.0
"""What peers may cost an agent's memory, together and each: a part of what the agent may use (ADR 22). Pure.

So several lying peers cost no more than one; and one leaves a third to the others.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from agent.mesh.record_room import MAXIMUM_BACKENDS, MAXIMUM_NETWORKS, PeerRooms, SharedRoom
from meshpeer.caps import Caps

RECORD_BYTES: Final = 1_000
"""What a record of a small pod takes in tables and indexes beside its own length (measured: 1.2 KB with it)."""
BACKEND_BYTES: Final = 160
NETWORK_BYTES: Final = 640
LARGEST_BYTES: Final = 1 << 30
"""Of one peer, whatever memory there is."""


class PeerLimits(NamedTuple):
    """`caps` for each, `total_bytes` and `rooms` for all together."""

    caps: Caps
    total_bytes: int
    rooms: PeerRooms


def limits_of(memory_bytes: int) -> PeerLimits:
    """Half of the memory for records, an eighth for backends, a sixteenth for networks of pods."""
    total = memory_bytes // 2
    backends, networks = memory_bytes // 8 // BACKEND_BYTES, memory_bytes // 16 // NETWORK_BYTES
    return PeerLimits(
        Caps(size_bytes=min(LARGEST_BYTES, _of_one(total)), record_bytes=RECORD_BYTES),
        total,
        PeerRooms(
            SharedRoom.of(backends, min(MAXIMUM_BACKENDS, _of_one(backends))),
            SharedRoom.of(networks, min(MAXIMUM_NETWORKS, _of_one(networks))),
        ),
    )


def _of_one(total: int) -> int:
    return max(1, total * 2 // 3)
