# SPDX-License-Identifier: Apache-2.0
"""Nodes of every cluster, as a feature."""

from __future__ import annotations

from agent.core import Core
from agent.feature import Feature
from agent.nodes.writer import NodeWriter


class NodesFeature(Feature):
    name = "nodes"

    def __init__(self, core: Core) -> None:
        self.writer = NodeWriter(core.db)
