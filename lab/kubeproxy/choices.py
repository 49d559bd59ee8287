# SPDX-License-Identifier: Apache-2.0
"""Who reaches which backends of a Service through one node. Pure. Source: core/v1 and discovery/v1, as kube-proxy reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError
from typing import Any, Final

from lab.topology import ClusterPlan, NodePlan
from meshmodel.endpointslice import SERVICE_NAME_LABEL

PROTOCOLS: Final = ("TCP", "UDP")

Obj = Mapping[str, Any]
Backend = tuple[str, int]


@dataclass(frozen=True, slots=True)
class ProxyRule:
    """What becomes of connections to one address and port; of several rules that fit, the first decides.

    `address` "" is every address of the node. `sources` and `allowed` are networks: the client must be in one of each, where
    there are any. Without backends a connection is refused, or dropped where `is_silent`.
    """

    name: str
    address: str
    protocol: str
    port: int
    backends: tuple[Backend, ...] = ()
    sources: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    masquerade: bool = False
    is_silent: bool = False


def proxy_rules(
    services: Iterable[Obj], slices: Iterable[Obj], node: NodePlan, cluster: ClusterPlan
) -> list[ProxyRule]:
    """Every rule of a node, services in order of names."""
    by_service = slices_by_service(slices)
    inside = (cluster.pod_cidr, node.address)
    found: list[ProxyRule] = []
    for service in sorted(services, key=key_of):
        address = service["spec"].get("clusterIP") or "None"
        if address != "None":
            own = by_service.get(key_of(service), [])
            for port in service["spec"].get("ports") or []:
                if port.get("protocol", "TCP") in PROTOCOLS:
                    found += _rules(service, port, own, node.name, inside)
    return found


def key_of(obj: Obj) -> tuple[str, str]:
    return obj["metadata"]["namespace"], obj["metadata"]["name"]


def slices_by_service(slices: Iterable[Obj]) -> dict[tuple[str, str], list[Obj]]:
    found: dict[tuple[str, str], list[Obj]] = {}
    for item in slices:
        meta = item["metadata"]
        owner = (meta.get("labels") or {}).get(SERVICE_NAME_LABEL, "")
        found.setdefault((meta["namespace"], owner), []).append(item)
    return found


def balancer_addresses(service: Obj) -> list[str]:
    """IPv4 addresses that a load balancer leads to nodes with: those of mode VIP, which is also what absence means."""
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
    return [e["ip"] for e in ingress if e.get("ipMode", "VIP") == "VIP" and is_ipv4(str(e.get("ip")))]


def is_ipv4(text: str) -> bool:
    try:
        IPv4Address(text)
    except AddressValueError:
        return False
    return True


def usable_backends(slices: Sequence[Obj], port_name: str, protocol: str) -> list[tuple[Obj, int]]:
    """Ready endpoints with their ports; those that end and still serve if none is ready."""
    found = []
    for item in slices:
        for port in item.get("ports") or []:
            if (port.get("name") or "") == port_name and port.get("protocol", "TCP") == protocol and port.get("port"):
                found += [(endpoint, int(port["port"])) for endpoint in item.get("endpoints") or []]
    ready = [backend for backend in found if _condition(backend[0], "ready", default=True)]
    return ready or [backend for backend in found if _condition(backend[0], "serving", default=False)]


def is_external_local(service: Obj) -> bool:
    return bool(service["spec"].get("externalTrafficPolicy") == "Local")


def _rules(service: Obj, port: Obj, slices: Sequence[Obj], node: str, inside: tuple[str, ...]) -> Iterator[ProxyRule]:
    spec, protocol = service["spec"], port.get("protocol", "TCP")
    usable = usable_backends(slices, port.get("name") or "", protocol)
    every, here = _addresses(usable), _addresses([b for b in usable if b[0].get("nodeName") == node])
    name = f"{'/'.join(key_of(service))}:{port['port']}/{protocol}"
    first = ProxyRule(name, spec["clusterIP"], protocol, int(port["port"]), every)
    yield replace(first, backends=here) if spec.get("internalTrafficPolicy") == "Local" else first
    outside = [replace(first, address=ip) for ip in spec.get("externalIPs") or [] if is_ipv4(ip)]
    if port.get("nodePort"):
        outside.append(replace(first, address="", port=int(port["nodePort"])))
    ranges = spec.get("loadBalancerSourceRanges")
    allowed = (*_networks(ranges), inside[-1]) if ranges else ()
    outside += [replace(first, address=ip, allowed=allowed) for ip in balancer_addresses(service)]
    for rule in outside:
        if is_external_local(service):  # pods and the node itself reach all
            yield replace(rule, sources=inside, masquerade=True)
            yield replace(rule, backends=here, is_silent=True)
        else:
            yield replace(rule, masquerade=True)
        if rule.allowed:
            yield replace(rule, backends=(), allowed=(), is_silent=True)


def _condition(endpoint: Obj, name: str, *, default: bool) -> bool:
    value = (endpoint.get("conditions") or {}).get(name)
    return default if value is None else bool(value)


def _addresses(backends: Iterable[tuple[Obj, int]]) -> tuple[Backend, ...]:
    """What the node's table can hold: IPv4 addresses. An odd one costs itself alone."""
    found = {(address, port) for endpoint, port in backends for address in endpoint["addresses"]}
    return tuple(sorted(backend for backend in found if is_ipv4(backend[0])))


def _networks(ranges: Iterable[str]) -> Iterator[str]:
    for text in ranges:
        try:
            yield str(IPv4Network(text.strip(), strict=False))
        except (AddressValueError, NetmaskValueError):
            continue  # lets nobody in
