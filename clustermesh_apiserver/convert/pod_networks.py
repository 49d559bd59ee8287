# SPDX-License-Identifier: Apache-2.0
"""Which networks a node's pods are really in, whatever its CNI does with Node.spec.podCIDRs. Pure.

Readers refuse addresses outside a cluster's announced networks, and send what is inside them to the node: nothing may be
missing, and nothing claimed that is not a pod's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, TypeAlias

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

REMEMBERED_NETWORKS: Final = 16_384


def pod_networks(
    assigned: Sequence[str], blocks: Sequence[str], pods: Iterable[str], *, has_blocks: bool
) -> tuple[str, ...]:
    """The networks to announce for one node, those given to it first.

    `assigned` are Node.spec.podCIDRs, which mean nothing where the CNI has blocks of its own (`has_blocks`, anywhere in the
    cluster), or where the node has pods and none of them is inside. Addresses of pods outside are announced one by one,
    joined where they fill a network.
    """
    given = tuple(blocks if has_blocks else assigned)
    outside = []
    is_used = False
    for ip in pods:
        if is_inside(ip, given):
            is_used = True
        else:
            outside.append(ip)
    if outside and not is_used and not has_blocks:
        given = ()
    return (*given, *_joined(outside))


def is_inside(ip: str, networks: Iterable[str]) -> bool:
    """Whether one of the networks holds the address; both in their one form."""
    for text in networks:
        whole_octets, network = _network(text)
        if ip.startswith(whole_octets) if whole_octets else ipaddress.ip_address(ip) in network:
            return True
    return False


def _joined(ips: Iterable[str]) -> list[str]:
    parsed = [ipaddress.ip_network(ip) for ip in ips]
    fours: list[Network] = [*ipaddress.collapse_addresses(n for n in parsed if isinstance(n, ipaddress.IPv4Network))]
    sixes: list[Network] = [*ipaddress.collapse_addresses(n for n in parsed if isinstance(n, ipaddress.IPv6Network))]
    return [str(network) for network in (*fours, *sixes)]


@lru_cache(REMEMBERED_NETWORKS)
def _network(text: str) -> tuple[str, Network]:
    """The network, and what the text of every address in it begins with where that says it all: much quicker to look at."""
    network = ipaddress.ip_network(text)
    octets = text.partition("/")[0].split(".")
    length = network.prefixlen // 8
    is_whole = network.version == 4 and network.prefixlen in (8, 16, 24)
    return ("".join(f"{octet}." for octet in octets[:length]) if is_whole else ""), network
