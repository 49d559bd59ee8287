# SPDX-License-Identifier: Apache-2.0
"""Which node answers for a load balancer's address, as a balancer of layer 2 decides it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from lab.kubeproxy.choices import Obj, balancer_addresses, is_external_local, key_of, slices_by_service, usable_backends
from lab.topology import ClusterPlan


def announcers(services: Iterable[Obj], slices: Iterable[Obj], cluster: ClusterPlan) -> dict[str, str]:
    """Node address by balancer address: the last node, with externalTrafficPolicy Local the last that has a backend."""
    by_service = slices_by_service(slices)
    found: dict[str, str] = {}
    for service in sorted(services, key=key_of):
        addresses = balancer_addresses(service)
        if not addresses:
            continue
        nodes = [node.address for node in cluster.nodes]
        if is_external_local(service):
            used = _nodes_with_backends(service, by_service.get(key_of(service), []))
            nodes = [node.address for node in cluster.nodes if node.name in used] or nodes
        found |= dict.fromkeys(addresses, nodes[-1])
    return found


def _nodes_with_backends(service: Obj, slices: list[Obj]) -> set[str]:
    ports = [(port.get("name") or "", port.get("protocol", "TCP")) for port in service["spec"].get("ports") or []]
    return {endpoint.get("nodeName") or "" for port in ports for endpoint, _ in usable_backends(slices, *port)}
