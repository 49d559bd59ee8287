# SPDX-License-Identifier: Apache-2.0
"""Service + its slices + its namespace → one whole record, or none. Pure.

None means that peers must not know the service. Differences from what Cilium 1.19 writes, each readable by it: an
ExternalName is never published, endpoints that are neither ready nor serving are left out, and an address that occurs
in several slices keeps the ports of all of them (Cilium keeps those of one).

A few kilobytes of addresses and ports may mean millions of pairs: what is beyond a number that no store takes is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kubeintent.rows import NamespaceIntent, Port, ServiceIntent, SliceEndpointIntent, SliceIntent
from meshmodel.condition import Condition, condition_of
from meshmodel.export_scope import NOBODY
from meshmodel.names import ClusterId, ClusterName, ServiceName
from meshmodel.service import ClusterService, RecordPort, Zone

Ports = dict[str, RecordPort]
MAXIMUM_PAIRS: Final = 200_000
"""Of an address and a port, in one record: ten times what etcd takes as one value."""


def is_shared(service: ServiceIntent, namespace: NamespaceIntent) -> bool:
    """Whether peers may use this service's endpoints: global, shared, of a global namespace and of a kind that can."""
    annotations = service.annotations
    if not (annotations.global_ and annotations.shared and namespace.is_global and annotations.export_to != NOBODY):
        return False
    return not (service.external_name or service.other_proxy)


def convert_service(
    service: ServiceIntent, slices: Iterable[SliceIntent], *, cluster: ClusterName, cluster_id: ClusterId
) -> ClusterService:
    """The record of a service that is shared."""
    backends: dict[str, Ports] = {}
    zones: dict[str, Zone] = {}
    hostnames: dict[str, str] = {}
    active: set[str] = set()
    terminating: set[str] = set()
    pairs = 0
    for piece in sorted(slices, key=lambda piece: piece.name):
        if piece.from_mesh or piece.address_type not in ("IPv4", "IPv6"):
            continue
        ports = _port_map(piece.ports)
        for endpoint in piece.endpoints:
            pairs += len(endpoint.addresses) * len(ports)
            if pairs > MAXIMUM_PAIRS:
                break
            if endpoint.is_exported:
                _add_endpoint(endpoint, ports, backends, zones, hostnames)
                (terminating if _is_ending(endpoint) else active).update(endpoint.addresses)
    frontend_ports = _port_map(service.ports)
    addresses = () if service.headless else service.cluster_ips
    return ClusterService(
        cluster=cluster,
        cluster_id=cluster_id,
        name=ServiceName(service.namespace, service.name),
        frontends=dict.fromkeys(addresses, frontend_ports),
        backends=backends,
        hostnames=hostnames,
        zones=zones,
        labels=dict(service.labels),
        selector=dict(service.selector),
        shared=True,
        include_external=True,
        export_to=service.annotations.export_to,
        terminating=frozenset(terminating - active),
    )


def _is_ending(endpoint: SliceEndpointIntent) -> bool:
    found = condition_of(ready=endpoint.ready, serving=endpoint.serving, terminating=endpoint.terminating)
    return found is Condition.TERMINATING


def _add_endpoint(
    endpoint: SliceEndpointIntent,
    ports: Ports,
    backends: dict[str, Ports],
    zones: dict[str, Zone],
    hostnames: dict[str, str],
) -> None:
    for address in endpoint.addresses:
        backends.setdefault(address, {}).update(ports)
        if endpoint.zone:
            zones[address] = Zone(endpoint.zone, endpoint.for_zones)
        if endpoint.hostname:
            hostnames[address] = endpoint.hostname


def _port_map(ports: Iterable[Port]) -> Ports:
    """By name; a slice's port that means all ports has no place in this record."""
    return {port.name: RecordPort(port.protocol, port.port) for port in ports if port.port is not None}
