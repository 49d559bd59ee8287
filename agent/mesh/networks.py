# SPDX-License-Identifier: Apache-2.0
"""Which addresses a cluster may speak for: its own pod networks and nodes, as its node records say. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from agent.tables import Node
from meshmodel.names import ClusterName

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Counted = TypeVar("_Counted", str, Network)
_MEMO_BITS = 24


@dataclass(slots=True)
class _Cluster:
    nodes: dict[str, tuple[frozenset[str], tuple[Network, ...]]] = field(default_factory=dict)
    networks: dict[Network, int] = field(default_factory=dict)  # how many nodes announce it
    addresses: dict[str, int] = field(default_factory=dict)
    verified: set[str] = field(default_factory=set)  # "10.2.0": every address that starts so is the cluster's

    def has(self, network: Network) -> bool:
        """Whether the network, or a wider one, is announced."""
        lengths = {
            n.prefixlen for n in self.networks if n.version == network.version and n.prefixlen <= network.prefixlen
        }
        return any(network.supernet(new_prefix=length) in self.networks for length in lengths)


class Networks:
    """What every cluster has announced so far. The own cluster's claims cannot be taken by a peer, nor a peer's by another."""

    def __init__(self, own: ClusterName) -> None:
        self._own = own
        self._clusters: dict[ClusterName, _Cluster] = {}

    def set_node(self, node: Node) -> None:
        self.delete_node(node.cluster, node.name)
        cluster = self._clusters.setdefault(node.cluster, _Cluster())
        cluster.verified.clear()
        networks = tuple(ipaddress.ip_network(cidr, strict=False) for cidr in node.pod_cidrs)
        addresses = frozenset(a for a in (*(x.ip for x in node.addresses), node.health_ip, node.ingress_ip) if a)
        cluster.nodes[node.name] = (addresses, networks)
        for address in addresses:
            cluster.addresses[address] = cluster.addresses.get(address, 0) + 1
        for network in networks:
            cluster.networks[network] = cluster.networks.get(network, 0) + 1

    def delete_node(self, name: ClusterName, node: str) -> None:
        cluster = self._clusters.get(name)
        addresses, networks = cluster.nodes.pop(node, ((), ())) if cluster is not None else ((), ())
        if cluster is None:
            return
        cluster.verified.clear()
        for address in addresses:
            _count_down(cluster.addresses, address)
        for network in networks:
            _count_down(cluster.networks, network)

    def drop(self, name: ClusterName) -> None:
        self._clusters.pop(name, None)

    def refuse_node(self, node: Node) -> str | None:
        """Why this node record cannot be true: it takes addresses or networks that another cluster has announced."""
        networks = [ipaddress.ip_network(cidr, strict=False) for cidr in node.pod_cidrs]
        for name, cluster in self._others(node.cluster):
            for address in node.addresses:
                if address.ip in cluster.addresses:
                    return f"address {address.ip} is a node of cluster {name}"
            for network in networks:
                for other in cluster.networks:
                    if network.version == other.version and network.overlaps(other):
                        return f"pod network {network} overlaps {other} of cluster {name}"
        return None

    def refuse_address(self, name: ClusterName, address: str) -> str | None:
        """Why the cluster may not speak for this address (a prefix or a plain address); None if it may.

        A cluster that announces no pod networks at all is held only to not taking other clusters' addresses. The own
        cluster is believed: it may number pods from where no node record says so.
        """
        if name == self._own:
            return None
        mine = self._clusters.get(name)
        if mine is not None and address.rpartition(".")[0] in mine.verified:
            return None
        network = ipaddress.ip_network(address, strict=False)
        if mine is not None and mine.has(network):
            if network.version == 4 and not any(n.prefixlen > _MEMO_BITS for n in mine.networks):
                mine.verified.add(address.rpartition(".")[0])
            return None
        if mine is not None and str(network.network_address) in mine.addresses:
            return None
        for other, cluster in self._others(name):
            if str(network.network_address) in cluster.addresses or cluster.has(network):
                return f"{address} belongs to cluster {other}"
        if mine is not None and mine.networks:
            return f"{address} is in no pod network and on no node of cluster {name}"
        return None

    def _others(self, name: ClusterName) -> Iterable[tuple[ClusterName, _Cluster]]:
        """The own cluster is never refused anything: nobody is believed about it but itself."""
        if name == self._own:
            return ()
        return ((other, cluster) for other, cluster in self._clusters.items() if other != name)


def _count_down(counts: dict[_Counted, int], key: _Counted) -> None:
    left = counts[key] - 1
    if left:
        counts[key] = left
    else:
        del counts[key]
