# SPDX-License-Identifier: Apache-2.0
"""The frontends that a service asks for: one for each of its addresses and ports. Pure."""

from __future__ import annotations

from agent.tables import Address, Frontend, FrontendKey, Service, ServicePort, Target


def pairs_of(service: Service) -> list[tuple[Address, ServicePort]]:
    return [(address, port) for address in service.addresses for port in service.ports]


def key_of(address: Address, port: ServicePort) -> FrontendKey:
    return FrontendKey(address.ip, port.port, port.protocol)


def frontend_keys(service: Service) -> tuple[FrontendKey, ...]:
    return tuple(key_of(address, port) for address, port in pairs_of(service))


def make_frontend(
    service: Service,
    address: Address,
    port: ServicePort,
    targets: tuple[tuple[Target, ...], tuple[Target, ...]],
    wall_s: float,
) -> Frontend:
    return Frontend(
        key=key_of(address, port),
        service=service.name,
        kind=address.kind,
        port_name=port.name,
        chosen=targets[0],
        draining=targets[1],
        session_affinity_s=service.session_affinity_s,
        received_wall_s=wall_s,
    )
