# SPDX-License-Identifier: Apache-2.0
"""Every etcd key. Source: spec of the wire format, section 1 and 3.4. Keys never start with a slash; prefixes end with one."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from meshmodel.names import ServiceName

ROOT: Final = b"cilium"
HEARTBEAT: Final = b"cilium/.heartbeat"
STATE: Final = b"cilium/state/"
CACHE: Final = b"cilium/cache/"
CLUSTER_CONFIGS: Final = b"cilium/cluster-config/"
SYNCED: Final = b"cilium/synced/"
KVSTOREMESH_LOCK: Final = b"cilium/kvstoremesh-lock/"


class Kind(StrEnum):
    """What is published, by the path element it is published under."""

    NODES = "nodes"
    SERVICES = "services"
    IPS = "ip"
    IDENTITIES = "identities"
    ENDPOINT_SLICES = "endpointslices"
    SERVICE_EXPORTS = "serviceexports"

    @property
    def scope(self) -> str:
        """The label of metrics: third and fourth path element."""
        return f"{self.value}/v1"


def cluster_config_key(cluster: str) -> bytes:
    return CLUSTER_CONFIGS + cluster.encode()


def synced_prefix(cluster: str) -> bytes:
    """Under it, one canary per kind."""
    return SYNCED + cluster.encode() + b"/"


def canary_name(kind: Kind, *, cached: bool = False) -> bytes:
    """What stands after `synced_prefix`. Irregular: it lacks `/id` of identities, `/default` of IPs and the cluster of cached data."""
    return (CACHE if cached else STATE) + f"{kind}/v1".encode()


def synced_key(cluster: str, kind: Kind, *, cached: bool = False) -> bytes:
    return synced_prefix(cluster) + canary_name(kind, cached=cached)


def records_prefix(kind: Kind, cluster: str, *, cached: bool = False) -> bytes:
    """Where the records of one kind stand, with a final slash so that cluster `c1` never sees `c11`.

    In `state/` identities and IPs carry no cluster; in `cache/` all do: before `id/` for identities, instead of `default` for IPs.
    """
    if cached:
        tail = "/id" if kind is Kind.IDENTITIES else ""
        return CACHE + f"{kind}/v1/{cluster}{tail}/".encode()
    scope = {Kind.IDENTITIES: "id", Kind.IPS: "default"}.get(kind, cluster)
    return STATE + f"{kind}/v1/{scope}/".encode()


def nodes_prefix(cluster: str, *, cached: bool = False) -> bytes:
    return records_prefix(Kind.NODES, cluster, cached=cached)


def services_prefix(cluster: str, *, cached: bool = False) -> bytes:
    return records_prefix(Kind.SERVICES, cluster, cached=cached)


def ips_prefix(cluster: str, *, cached: bool = False) -> bytes:
    return records_prefix(Kind.IPS, cluster, cached=cached)


def identities_prefix(cluster: str, *, cached: bool = False) -> bytes:
    return records_prefix(Kind.IDENTITIES, cluster, cached=cached)


def endpointslices_prefix(cluster: str, *, cached: bool = False) -> bytes:
    return records_prefix(Kind.ENDPOINT_SLICES, cluster, cached=cached)


def serviceexports_prefix(cluster: str, *, cached: bool = False) -> bytes:
    return records_prefix(Kind.SERVICE_EXPORTS, cluster, cached=cached)


def service_key(cluster: str, name: ServiceName) -> bytes:
    return services_prefix(cluster) + str(name).encode()


def node_key(cluster: str, node: str) -> bytes:
    return nodes_prefix(cluster) + node.encode()


def ip_key(address: str) -> bytes:
    """`address` is an IP, or `network/length` for a prefix; IPv6 stands unescaped."""
    return ips_prefix("") + address.encode()


def identity_key(identity: int) -> bytes:
    return identities_prefix("") + str(identity).encode()


def endpointslice_key(cluster: str, namespace: str, name: str) -> bytes:
    return endpointslices_prefix(cluster) + f"{namespace}/{name}".encode()


def serviceexport_key(cluster: str, name: ServiceName) -> bytes:
    return serviceexports_prefix(cluster) + str(name).encode()
