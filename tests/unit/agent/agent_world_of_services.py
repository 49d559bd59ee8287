# SPDX-License-Identifier: Apache-2.0
"""One service with backends of two clusters as node n1 of north shows it, from its tables and memory maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent.datapath.memory import memory_maps
from agent.loadbalancer.ops import LoadBalancerTarget
from agent.loadbalancer.rows import ServiceRows
from agent.loadbalancer.writer import LoadBalancerWriter
from agent.tables import Address, AgentDB, Backend, PeerHealth, Service, ServicePort
from meshapi.service import ServiceStatus
from meshkit.clock import ManualClock
from meshmodel.names import ClusterId, ClusterName, ServiceName

NAME = ServiceName("t", "s")


def rows_of(
    north: Sequence[Backend],
    south: Sequence[Backend],
    *,
    zone: str = "",
    withdrawn: bool = False,
    unreachable: frozenset[str] = frozenset(),
    is_global: bool = True,
    **service: Any,
) -> list[ServiceStatus]:
    """The addresses of the service t/s, which has one port, 80/TCP at 10.0.0.1."""
    db, clock = AgentDB(ClusterName("north"), ClusterId(1), "n1"), ManualClock()
    writer = LoadBalancerWriter(db)
    ports = (ServicePort("", 80, "TCP"),)
    with db.write():
        writer.set_zone(zone)
        writer.set_service(Service(NAME, (Address("10.0.0.1"),), ports, is_global=is_global, **service))
        writer.set_backends(NAME, db.own, db.own_id, north, 0.0)
        writer.set_backends(NAME, ClusterName("south"), ClusterId(2), south, 0.0)
        writer.set_peer(PeerHealth(ClusterName("south"), ClusterId(2), withdrawn))
        writer.set_unreachable(unreachable)
    return ServiceRows(db, writer, LoadBalancerTarget(memory_maps(), clock.wall), clock).services()
