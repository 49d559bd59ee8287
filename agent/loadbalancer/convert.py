# SPDX-License-Identifier: Apache-2.0
"""Kubernetes Service and EndpointSlice objects, to rows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from agent.tables import Address, Backend, Condition, Service, ServicePort
from meshmodel.annotations import parse_service_annotations
from meshmodel.names import ServiceName

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
MANAGED_BY_LABEL = "endpointslice.kubernetes.io/managed-by"
# Slices mirrored from peers: reading them back would make a peer's backends look like ours.
MESH_CONTROLLERS = frozenset(
    {"endpointslice-mesh-controller.cilium.io", "endpointslice-mesh-controller.clustermesh.io"}
)
BALANCED_PROTOCOLS = frozenset({"TCP", "UDP"})
DEFAULT_AFFINITY_TIMEOUT_S = 10_800


class Slice(NamedTuple):
    """One EndpointSlice as its service needs it."""

    service: ServiceName
    name: str
    backends: tuple[Backend, ...]


def strip_service(item: dict[str, Any]) -> Service | None:
    """The service as a row; None for what is never balanced here: headless services and ExternalName."""
    meta, spec = item["metadata"], item.get("spec") or {}
    cluster_ips = [ip for ip in (spec.get("clusterIPs") or [spec.get("clusterIP") or ""]) if ip]
    if spec.get("type") == "ExternalName" or not cluster_ips or cluster_ips[0].lower() == "none":
        return None
    annotations = parse_service_annotations(meta.get("annotations") or {})
    problems = list(annotations.problems)
    ports = []
    for port in spec.get("ports") or ():
        protocol = port.get("protocol") or "TCP"
        if protocol not in BALANCED_PROTOCOLS:
            problems.append(f"port {port['port']}/{protocol}: protocol is not balanced")
            continue
        ports.append(ServicePort(port.get("name") or "", int(port["port"]), protocol))
    return Service(
        name=ServiceName(meta["namespace"], meta["name"]),
        addresses=_addresses(cluster_ips, spec, item.get("status") or {}),
        ports=tuple(ports),
        is_global=annotations.global_,
        is_shared=annotations.global_ and annotations.shared,
        affinity=annotations.affinity,
        session_affinity_s=_session_affinity(spec),
        problems=tuple(problems),
    )


def _addresses(cluster_ips: Iterable[str], spec: Mapping[str, Any], status: Mapping[str, Any]) -> tuple[Address, ...]:
    """IPv4 addresses by kind, each once: the cluster's own first."""
    found: dict[str, str] = {}
    ingress = (status.get("loadBalancer") or {}).get("ingress") or ()
    for kind, ips in (
        ("ClusterIP", cluster_ips),
        ("ExternalIP", spec.get("externalIPs") or ()),
        ("LoadBalancer", [i["ip"] for i in ingress if i.get("ip")]),
    ):
        for ip in ips:
            if ":" not in ip:
                found.setdefault(ip, kind)
    return tuple(Address(ip, kind) for ip, kind in found.items())


def _session_affinity(spec: Mapping[str, Any]) -> int:
    if spec.get("sessionAffinity") != "ClientIP":
        return 0
    client_ip = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
    return int(client_ip.get("timeoutSeconds") or DEFAULT_AFFINITY_TIMEOUT_S)


def strip_slice(item: dict[str, Any]) -> Slice | None:
    """The slice as rows; None for slices of no service, of another address family, or mirrored from a peer."""
    meta = item["metadata"]
    labels = meta.get("labels") or {}
    owner = labels.get(SERVICE_NAME_LABEL)
    if not owner or item.get("addressType") != "IPv4" or labels.get(MANAGED_BY_LABEL) in MESH_CONTROLLERS:
        return None
    ports = [
        (p.get("name") or "", int(p["port"]), p.get("protocol") or "TCP")
        for p in item.get("ports") or ()
        if p.get("port")
    ]
    backends: list[Backend] = []
    for endpoint in item.get("endpoints") or ():
        condition = _condition(endpoint.get("conditions") or {})
        if condition is None:
            continue
        zone = endpoint.get("zone") or ""
        for address in endpoint.get("addresses") or ():
            backends.extend(
                Backend(address, port, protocol, (name,), condition, zone=zone) for name, port, protocol in ports
            )
    return Slice(ServiceName(meta["namespace"], owner), meta["name"], tuple(backends))


def _condition(conditions: Mapping[str, Any]) -> Condition | None:
    """Active when ready, terminating while it still serves, None otherwise. Absent means ready (discovery/v1)."""
    is_ready = conditions.get("ready") is not False
    is_terminating = conditions.get("terminating") is True
    if is_ready and not is_terminating:
        return Condition.ACTIVE
    is_serving = conditions["serving"] is not False if conditions.get("serving") is not None else is_ready
    return Condition.TERMINATING if is_terminating and is_serving else None
