# SPDX-License-Identifier: Apache-2.0
"""How large the maps of services are on this node. Pure.

A map costs its bucket array at once (16 bytes an entry of capacity) and about 96 bytes for each entry it holds. So a node of
8 GiB may hold 524,288 service entries (a service with five backends takes six), 128 MiB when full, and a larger one twice as
many for twice its memory. Backends have as many entries: the own cluster's half of them (ADR 57), peers' and kept ones the rest.
"""

from __future__ import annotations

from typing import Final

from agent.datapath import spec

GIB: Final = 1 << 30
ENTRIES_PER_GIB: Final = 1 << 16
SMALLEST: Final = spec.SERVICES.max_entries
LARGEST: Final = 1 << 22


def service_map_sizes(wanted: int, memory_bytes: int, wanted6: int = spec.SERVICES6.max_entries) -> dict[str, int]:
    """Capacities by map name: of `wanted` service entries, or of what the node's memory allows if that is 0.

    The result changes with a doubling of memory only, so that a restart does not copy the maps. `wanted6`: of IPv6, whose maps
    are made only where packets of IPv6 are judged.
    """
    entries = wanted
    if not entries:
        affordable = max(1, memory_bytes // GIB) * ENTRIES_PER_GIB
        entries = min(LARGEST, max(SMALLEST, 1 << (affordable.bit_length() - 1)))
    return {
        spec.SERVICES.name: entries,
        spec.MEMBERS.name: entries,
        spec.BACKENDS.name: entries,
        spec.SERVICES6.name: wanted6,
        spec.MEMBERS6.name: wanted6,
        spec.BACKENDS6.name: wanted6,
    }
