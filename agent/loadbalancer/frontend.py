# SPDX-License-Identifier: Apache-2.0
"""The frontends that a service asks for: one for each of its addresses and ports, and for each node port. Pure."""

from __future__ import annotations

from typing import Final

from agent.datapath.layout import ServiceFlag
from agent.loadbalancer.ownership import CLUSTER_IP, LOAD_BALANCER, NODE_PORT
from agent.tables import Address, Frontend, FrontendKey, Service, ServicePort, Target

ALL_ADDRESSES: Final = Address("0.0.0.0", NODE_PORT)
"""How the service map spells "every address of the node"."""
_OF_NODE: Final = int(ServiceFlag.OF_NODE)
_OF_ALL: Final = int(ServiceFlag.OF_NODE | ServiceFlag.OF_OUTSIDERS)
_SOURCE_RANGES: Final = int(ServiceFlag.SOURCE_RANGES)
OF_PODS_ONLY: Final = "SCTP"
"""Pods alone are led by it: a node's own sockets and outsiders are left to the cluster's proxy."""


def pairs_of(service: Service) -> list[tuple[Address, ServicePort]]:
    found = [(address, port) for address in service.addresses for port in service.ports if leads(address, port)]
    return found + [(ALL_ADDRESSES, at_node(port)) for port in service.ports if port.node_port]


def pairs_by_port(service: Service) -> list[tuple[Address, ServicePort]]:
    """The same, in order of the service's ports."""
    return [
        pair
        for port in service.ports
        for pair in (
            *((address, port) for address in service.addresses if leads(address, port)),
            *(((ALL_ADDRESSES, at_node(port)),) if port.node_port else ()),
        )
    ]


def at_node(port: ServicePort) -> ServicePort:
    """The node port that leads to this port, as a port of its own."""
    return ServicePort(port.name, port.node_port, port.protocol)


def key_of(address: Address, port: ServicePort) -> FrontendKey:
    return FrontendKey(address.ip, port.port, port.protocol)


def frontend_keys(service: Service) -> tuple[FrontendKey, ...]:
    return tuple(key_of(address, port) for address, port in pairs_of(service))


def reach_of(service: Service, address: Address, scope: str, protocol: str = "TCP") -> int:
    """Who is led from this address to the service's backends, beside pods. `scope`: global, all or none.

    An address of IPv6 leads pods alone.
    """
    kind = address.kind
    if protocol == OF_PODS_ONLY or is_ipv6(address):
        return 0
    if scope == "none" or (scope == "global" and not service.is_global):
        return 0
    if kind == CLUSTER_IP or service.is_external_local:
        return _OF_NODE
    return _OF_ALL


def clients_of(frontend: Frontend) -> list[str]:
    """The same in words."""
    within = ""
    if frontend.source_ranges is not None:
        within = f" in {' '.join(frontend.source_ranges) or 'no range'}"
    words = ("node", ServiceFlag.OF_NODE), (f"outsiders{within}", ServiceFlag.OF_OUTSIDERS)
    return [f"pods{within}", *(word for word, bit in words if frontend.reach & bit)]


def is_ipv6(address: Address) -> bool:
    return ":" in address.ip


def leads(address: Address, port: ServicePort) -> bool:
    """Whether the datapath translates the two: no port of SCTP over IPv6, which is left to the cluster's proxy."""
    return not (port.protocol == OF_PODS_ONLY and is_ipv6(address))


def families_of(service: Service) -> tuple[bool, ...]:
    """Whether IPv6, for each family that the service's frontends may have."""
    return (False, True) if any(map(is_ipv6, service.addresses)) else (False,)


def ranges_of(service: Service, address: Address) -> tuple[str, ...] | None:
    """The sources that the address answers, which are of its family; None: all."""
    if service.source_ranges is None or address.kind != LOAD_BALANCER:
        return None
    return tuple(text for text in service.source_ranges if (":" in text) == is_ipv6(address))


def make_frontend(
    service: Service,
    address: Address,
    port: ServicePort,
    targets: tuple[tuple[Target, ...], tuple[Target, ...]],
    wall_s: float,
    *,
    scope: str,
    is_consistent: bool,
) -> Frontend:
    ranges = ranges_of(service, address)
    reach = reach_of(service, address, scope, port.protocol)
    return Frontend(
        key_of(address, port),
        service.name,
        address.kind,
        port.name,
        targets[0],
        targets[1],
        service.session_affinity_s,
        is_consistent,
        wall_s,
        reach if ranges is None else reach | _SOURCE_RANGES,
        ranges,
    )
