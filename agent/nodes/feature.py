# SPDX-License-Identifier: Apache-2.0
"""Nodes of every cluster, as a feature."""

from __future__ import annotations

from agent.core import Core
from agent.feature import Feature
from agent.nodes.rows import node_rows
from agent.nodes.writer import NodeWriter
from meshapi.agent import NodeRow
from meshkit.rest import Rest


class NodesFeature(Feature):
    name = "nodes"

    def __init__(self, core: Core) -> None:
        self._core = core
        self.writer = NodeWriter(core.db)

    def add_routes(self, rest: Rest) -> None:
        @rest.get("/v1/nodes", list[NodeRow], tag="tables")
        async def nodes(cluster: str = "") -> list[NodeRow]:
            """Nodes of every cluster."""
            return node_rows(self._core.db, cluster)
