# SPDX-License-Identifier: Apache-2.0
"""Nodes of every cluster, and the devices of this one, as a feature."""

from __future__ import annotations

from agent.core import Core
from agent.feature import Feature, Tasks
from agent.nodes.devices import DeviceFollower
from agent.nodes.rows import node_rows
from agent.nodes.writer import NodeWriter
from meshapi.agent import NodeRow
from meshkit.health import Health
from meshkit.rest import Rest


class NodesFeature(Feature):
    name = "nodes"

    def __init__(self, core: Core) -> None:
        self._core = core
        self.writer = NodeWriter(core.db)
        self._devices = DeviceFollower(core.host, core.clock)

    def tasks(self) -> Tasks:
        return {
            "device changes": self._devices.hear(),
            "devices": self._devices.follow(),
            "node address": self._follow_address(),
        }

    def check_health(self, health: Health) -> None:
        if self._devices.failure:
            health.failed("node devices", self._devices.failure)
        else:
            health.ok("node devices")

    async def _follow_address(self) -> None:
        db, followed = self._core.db, self._core.facts.node_ip
        while True:
            rung = db.moved.count
            if db.node_address != followed:
                followed = db.node_address
                self._devices.move_to(followed)
            await db.moved.wait(rung)

    def add_routes(self, rest: Rest) -> None:
        @rest.get("/v1/nodes", list[NodeRow], tag="tables")
        async def nodes(cluster: str = "") -> list[NodeRow]:
            """Nodes of every cluster."""
            return node_rows(self._core.db, cluster)
