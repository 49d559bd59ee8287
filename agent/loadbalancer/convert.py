# SPDX-License-Identifier: Apache-2.0
"""What a Service and an EndpointSlice mean to this node's load balancer. Pure. The objects are read by `kubeintent`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from agent.loadbalancer.frontend import OF_PODS_ONLY
from agent.loadbalancer.slice_backends import SliceBackends, Take, backends_of
from agent.loadbalancer.source_ranges import read_ranges
from agent.tables import Address, LabelledService, Service, ServicePort
from kubeintent.endpoint_slice import read_endpoint_slice
from kubeintent.read import UnreadableError
from kubeintent.rows import ServiceIntent
from kubeintent.service import read_service
from meshmodel.condition import condition_of
from meshmodel.names import ServiceName

DEFAULT_AFFINITY_TIMEOUT_S = 10_800


class Slice(NamedTuple):
    """One EndpointSlice as its service needs it; `problems` are sentences about values that were left out.

    `unready`: addresses of pods that are there and take no connections.
    """

    service: ServiceName
    name: str
    backends: SliceBackends
    problems: tuple[str, ...] = ()
    unready: tuple[str, ...] = ()
    is_ipv6: bool = False


class ServiceObject(NamedTuple):
    """What is kept of a Service: its labels, for policies, and the row to balance; each None where there is none."""

    labelled: LabelledService | None
    balanced: Service | None


def strip_object(item: dict[str, Any], *, is_dual: bool = False) -> ServiceObject:
    """The object as policies and as the load balancer see it. `is_dual`: pods' packets of IPv6 are ours too."""
    return ServiceObject(_labelled(item), strip_service(item, is_dual=is_dual))


def _labelled(item: dict[str, Any]) -> LabelledService | None:
    """None for what has no backends by itself: ExternalName, and objects without a name."""
    try:
        found = read_service(item).row
    except UnreadableError:
        return None
    if found is None or found.external_name:
        return None
    return LabelledService(ServiceName(found.namespace, found.name), found.labels, found.annotations.global_)


def strip_service(item: dict[str, Any], *, is_dual: bool = False) -> Service | None:
    """The service as a row, with addresses of IPv6 if `is_dual`.

    None for what is not balanced here: headless services, ExternalName, those of another proxy, and objects without a name.
    """
    try:
        read = read_service(item)
    except UnreadableError:
        return None
    found = read.row
    if found is None or found.external_name or found.headless or found.other_proxy or not found.cluster_ips:
        return None
    has_node_ports = found.annotations.global_
    ranges, bad_ranges = read_ranges(found.balancer_sources)
    ports = (p for p in found.ports if p.port is not None)
    return Service(
        name=ServiceName(found.namespace, found.name),
        addresses=_addresses(found, is_dual=is_dual),
        ports=tuple(
            ServicePort(
                p.name, p.port or 0, p.protocol, p.node_port if has_node_ports and p.protocol != OF_PODS_ONLY else 0
            )
            for p in ports
        ),
        is_global=found.annotations.global_,
        is_shared=found.annotations.global_ and found.annotations.shared,
        affinity=found.annotations.affinity,
        steering=found.annotations.steering,
        session_affinity_s=_session_affinity(found),
        is_internal_local=found.is_internal_local,
        is_external_local=found.is_external_local,
        source_ranges=ranges if found.balancer_sources else None,
        unsupported=(*(_unsupported(found, is_dual=is_dual) if found.annotations.global_ else ()), *bad_ranges),
        problems=(*found.annotations.problems, *read.problems),
        health_probe=found.annotations.health_probe,
        algorithm=found.annotations.algorithm,
        created=found.created,
        uid=found.uid,
    )


def strip_slice(item: dict[str, Any], *, is_dual: bool = False) -> Slice | None:
    """The slice as backends; None for slices of no service, of another address family, or mirrored from a peer."""
    try:
        read = read_endpoint_slice(item)
    except UnreadableError:
        return None
    found = read.row
    if found is None or not found.service or found.from_mesh:
        return None
    if found.address_type != "IPv4" and not (is_dual and found.address_type == "IPv6"):
        return None
    ports = [(port.port, port.protocol, (port.name,)) for port in found.ports if port.port is not None]
    takes: list[Take] = []
    unready: list[str] = []
    for endpoint in found.endpoints:
        condition = condition_of(ready=endpoint.ready, serving=endpoint.serving, terminating=endpoint.terminating)
        if condition is not None:
            takes.append((endpoint, condition))
        elif not endpoint.terminating:
            unready += endpoint.addresses
    name = ServiceName(found.namespace, found.service)
    return Slice(
        name, found.name, backends_of(takes, ports), read.problems, tuple(unready), found.address_type == "IPv6"
    )


def _addresses(found: ServiceIntent, *, is_dual: bool) -> tuple[Address, ...]:
    """Addresses by kind, each once: the cluster's own first."""
    kinds: dict[str, str] = {}
    for kind, ips in (
        ("ClusterIP", found.cluster_ips),
        ("LoadBalancer", found.balancer_ips),
        ("ExternalIP", found.external_ips),
    ):
        for ip in ips:
            if is_dual or ":" not in ip:
                kinds.setdefault(ip, kind)
    return tuple(Address(ip, kind) for ip, kind in kinds.items())


def _unsupported(found: ServiceIntent, *, is_dual: bool) -> Iterator[str]:
    """What a global service asks for that only its own cluster's proxy does: remote backends have no part in it."""
    for port in found.ports:
        if port.protocol == OF_PODS_ONLY:
            yield (
                f"port {port.port}/{port.protocol} leads pods alone to other clusters: processes of nodes, and who comes from "
                "outside, reach pods of this cluster only"
            )
    wide = [ip for ip in found.cluster_ips if ":" in ip]
    for port in found.ports if is_dual and wide else ():
        if port.protocol == OF_PODS_ONLY:
            yield f"port {port.port}/{port.protocol} of {', '.join(wide)} leads to pods of this cluster only: its proxy does it"
    if wide and not is_dual:
        yield f"{', '.join(wide)} does not lead to other clusters: only IPv4 is balanced (setting ipv6)"
    elif wide:
        yield (
            f"{', '.join(wide)} leads pods alone to other clusters: processes of nodes, and who comes from outside, reach "
            "pods of this cluster only"
        )


def _session_affinity(found: ServiceIntent) -> int:
    if found.session_affinity != "ClientIP":
        return 0
    return found.affinity_timeout_s or DEFAULT_AFFINITY_TIMEOUT_S
