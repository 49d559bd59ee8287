# SPDX-License-Identifier: Apache-2.0
"""Keys of single records, as tests put them into stores. Programs write names below a prefix and read by prefix."""

from __future__ import annotations

from meshmodel.keys import Kind, prefix_of


def node_key(cluster: str, node: str, *, cached: bool = False) -> bytes:
    return prefix_of(Kind.NODES, cluster, cached=cached) + node.encode()


def service_key(cluster: str, name: object, *, cached: bool = False) -> bytes:
    """`name` is a ServiceName or the text namespace/name."""
    return prefix_of(Kind.SERVICES, cluster, cached=cached) + str(name).encode()


def ip_key(cluster: str, prefix: str, *, cached: bool = False) -> bytes:
    """`prefix` is an address, or network/length for a record with a mask."""
    return prefix_of(Kind.IPS, cluster, cached=cached) + prefix.encode()


def endpointslice_key(cluster: str, namespace: str, name: str, *, cached: bool = False) -> bytes:
    return prefix_of(Kind.ENDPOINT_SLICES, cluster, cached=cached) + f"{namespace}/{name}".encode()


def serviceexport_key(cluster: str, name: object, *, cached: bool = False) -> bytes:
    return prefix_of(Kind.SERVICE_EXPORTS, cluster, cached=cached) + str(name).encode()
