# SPDX-License-Identifier: Apache-2.0
"""Addresses outside of the mesh, as the twin reads them: which world each is of, and which ranges mean it."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.policy_twin import Twin, Who

WORLDS = ("world", "world-ipv4", "world-ipv6")


def is_entity(twin: Twin, name: str, peer: Who) -> bool:
    """Whether one of the worlds means the peer."""
    if name == "world":
        return peer.is_reserved(*WORLDS)
    return peer.is_reserved(name) or (name == "world-ipv4" and twin.is_ipv6_judged and peer.is_reserved("world"))


def is_called(twin: Twin, name: str, peer: Who) -> bool:
    """Whether a selector finds the peer by the name of one of the worlds, which its own label need not say."""
    if not twin.is_ipv6_judged:
        return False
    return is_entity(twin, name, peer)


def is_in_range(twin: Twin, text: str, excepts: list[str], peer: Who) -> bool:
    """Whether the peer's address lies in the range and in none of the exceptions."""
    if not peer.is_reserved(*WORLDS):
        return False
    outer, holes = ipaddress.ip_network(text, strict=False), [ipaddress.ip_network(e, strict=False) for e in excepts]
    if peer.address:
        address = ipaddress.ip_address(peer.address)
        return address in outer and not any(address in hole for hole in holes)
    # what no policy names is in no smaller range than the whole of its family
    is_whole = outer.prefixlen == 0 and not any(hole.prefixlen == 0 for hole in holes)
    return is_whole and outer.version == _family(twin, peer)


def _family(twin: Twin, peer: Who) -> int:
    """Of addresses that nobody names; 0: of none. With one family, or without worlds of their own, `world` is IPv4."""
    for name, version in (("world-ipv4", 4), ("world-ipv6", 6), ("world", 0 if twin.is_dual_stack else 4)):
        if peer.is_reserved(name):
            return version
    return 0
