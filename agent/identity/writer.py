# SPDX-License-Identifier: Apache-2.0
"""The only verbs on the identities table."""

from __future__ import annotations

from agent.tables import AgentDB, Identity
from meshmodel.names import ClusterName


class IdentityWriter:
    """Every method must be called inside `db.write()`."""

    def __init__(self, db: AgentDB) -> None:
        self._db = db

    def set_identity(self, row: Identity) -> None:
        """The identity stands for these labels. Ranges of clusters do not overlap, so a number has one owner."""
        self._db.identities.put(row)

    def delete_identity(self, identity: int) -> None:
        self._db.identities.delete(identity)

    def drain_cluster(self, cluster: ClusterName) -> list[int]:
        """No identity of the cluster is known; returns the numbers that were."""
        gone = [row.id for row in self._db.identities.rows() if row.cluster == cluster]
        for identity in gone:
            self._db.identities.delete(identity)
        return gone
