# SPDX-License-Identifier: Apache-2.0
"""Connections that the datapath remembers, whichever map they are in."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from agent.datapath.flow_layout import ConntrackKey, ConntrackValue
from agent.datapath.maps import Maps


def connections(maps: Maps) -> Iterator[tuple[ConntrackKey, ConntrackValue]]:
    """Entries of all connection tracking maps."""
    return chain(maps.conntrack_tcp.items(), maps.conntrack_other.items(), maps.conntrack_opening.items())
