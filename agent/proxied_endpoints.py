# SPDX-License-Identifier: Apache-2.0
"""Which endpoints need which ports of the node's proxies. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from agent.tables import EndpointVerdicts
from meshpolicy import Direction
from meshpolicy.proxy_ports import DNS, HTTP, ProxyPorts


def ports_in_use(rows: Iterable[EndpointVerdicts], ports: ProxyPorts, kind: str) -> dict[int, set[str]]:
    """Ports with rules of this kind that policy entries name, and the addresses of the endpoints whose entries do."""
    found: dict[int, set[str]] = {}
    for row in rows:
        for direction in Direction:
            side = row.policy.side(direction)
            for group in side.groups.values() if side.is_proxied else ():
                for entry in group.values():
                    if entry.proxy_port:
                        found.setdefault(entry.proxy_port, set()).add(row.endpoint.address)
    return {port: users for port, users in found.items() if _kind_of(ports, port) == kind}


def _kind_of(ports: ProxyPorts, port: int) -> str:
    listener = ports.listener(port)
    return "" if listener is None else HTTP if listener.names is None else DNS
