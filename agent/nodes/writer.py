# SPDX-License-Identifier: Apache-2.0
"""The only verbs on the nodes table."""

from __future__ import annotations

from agent.tables import AgentDB, Node
from meshmodel.names import ClusterName


class NodeWriter:
    """Every method must be called inside `db.write()`."""

    def __init__(self, db: AgentDB) -> None:
        self._db = db

    def set_node(self, row: Node) -> None:
        self._db.nodes.put(row)

    def delete_node(self, cluster: ClusterName, name: str) -> None:
        self._db.nodes.delete((cluster, name))

    def drain_cluster(self, cluster: ClusterName) -> list[str]:
        """No node of the cluster is known; returns the names that were."""
        gone = [row.name for row in self._db.nodes.rows() if row.cluster == cluster]
        for name in gone:
            self._db.nodes.delete((cluster, name))
        return gone
