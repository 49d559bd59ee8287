# SPDX-License-Identifier: Apache-2.0
"""Which of its addresses a service may be reached at. Cluster IPs are given by Kubernetes; the others anybody may write.

An external IP must be allowed by a range of this node's settings. Neither it nor a load balancer's address may be what
belongs to somebody already: another service's cluster IP, a node, a pod, or an address that is no service's by its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from agent.loadbalancer.ownership import CLUSTER_IP, EXTERNAL_IP
from agent.tables import Address, AgentDB, ClaimOrigin, Service
from meshmodel.address import host_prefix
from meshmodel.names import ServiceName

_SHORTEST = 8

Network = IPv4Network | IPv6Network


class AddressRules:
    """Answers from the tables as they are now; `owner_of_cluster_ip` names the service that has a cluster IP."""

    def __init__(
        self,
        db: AgentDB,
        allowed: Sequence[Network],
        owner_of_cluster_ip: Callable[[str, ServiceName], ServiceName | None],
    ) -> None:
        self._db, self._allowed, self._owner_of_cluster_ip = db, tuple(allowed), owner_of_cluster_ip

    def refusal(self, service: Service, address: Address) -> str:
        """Why the service is not reached at this address; empty if it is."""
        if address.kind == CLUSTER_IP:
            return ""
        try:
            ip = ip_address(address.ip)
        except ValueError:
            return f"{address.kind} {address.ip} is not an IP address"
        what = self._what(service, address, ip)
        return f"{address.kind} {address.ip} {what}" if what else ""

    def _what(self, service: Service, address: Address, ip: IPv4Address | IPv6Address) -> str:
        if ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip.is_reserved:
            return "is loopback, link-local, multicast, unspecified or reserved, never a service's"
        owner = self._owner_of_cluster_ip(address.ip, service.name)
        if owner is not None:
            return f"is the cluster IP of service {owner}"
        holder = self._holder(ip)
        if holder:
            return holder
        if address.kind == EXTERNAL_IP and not any(ip in network for network in self._allowed):
            return "is not in a range that is allowed (external-ip-ranges)"
        return ""

    def _holder(self, ip: IPv4Address | IPv6Address) -> str:
        """The node or pod that has the address, or the pod network it lies in."""
        row = self._db.prefixes.get(host_prefix(str(ip)))
        if row is not None and row.origin in (ClaimOrigin.NODE, ClaimOrigin.POD):
            label = f"{row.namespace}/{row.name}" if row.namespace else row.name
            return f"belongs to {row.origin} {label or ip} of cluster {row.cluster}"
        number, width = int(ip), ip.max_prefixlen
        for length in range(width - 1, _SHORTEST - 1, -1):
            network = f"{type(ip)(number >> (width - length) << (width - length))}/{length}"
            row = self._db.prefixes.get(network)
            if row is not None and row.origin is ClaimOrigin.POD_CIDR:
                return f"lies in the pod network {network} of cluster {row.cluster}"
        return ""


def parse_ranges(texts: Sequence[str]) -> tuple[Network, ...]:
    """Raises: ValueError for what is not a network."""
    return tuple(ip_network(text) for text in texts)
