# SPDX-License-Identifier: Apache-2.0
"""The addresses outside that pods of this node have connections to, from connection tracking."""

from __future__ import annotations

from collections.abc import Collection

from agent.datapath.flow_layout import ConntrackKind
from agent.datapath.maps import Maps
from agent.fqdn.name_cache import Pair

_TICK_BITS = 30


def find_connected(maps: Maps, wanted: Collection[Pair], monotonic_s: float) -> set[Pair]:
    """Those of the pairs between which a connection is open, or is remembered as it was not closed long ago.

    `monotonic_s`: seconds of CLOCK_MONOTONIC, by which the kernel lets entries end. Raises: MapError.
    """
    now = int(monotonic_s * 1e9) >> _TICK_BITS
    found = set[Pair]()
    for tracked in (maps.conntrack_tcp, maps.conntrack_other, maps.conntrack_opening):
        for key, value in tracked.items():
            if key.kind == ConntrackKind.EGRESS and value.lifetime >= now:
                pair = Pair(key.source, key.destination)
                if pair in wanted:
                    found.add(pair)
    return found
