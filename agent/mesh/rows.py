# SPDX-License-Identifier: Apache-2.0
"""Followed clusters as rows of meshapi: sessions and rejected records. Reads, never writes."""

from __future__ import annotations

from agent.mesh.rejections import Rejections
from agent.tables import AgentDB
from meshapi.peer import RejectedRecords, RemoteCluster
from meshkit.clock import Clock
from meshmodel.names import ClusterName
from meshpeer.followed import FollowedCluster
from meshpeer.status import remote_cluster


def cluster_row(state: FollowedCluster, rejections: Rejections, clock: Clock) -> RemoteCluster:
    """One followed cluster, or the own cluster's store, which is followed in the same way."""
    return remote_cluster(state, clock.monotonic(), rejected=rejections.counts(state.name))


def lost_node_problems(db: AgentDB) -> list[str]:
    """One sentence for each node of a peer whose pods get no new connections from here."""
    rows = sorted(db.lost_nodes.rows(), key=lambda row: (row.cluster, row.ip))
    return [f"peer {row.cluster}: node {row.ip} gets no new connections from this node: {row.reason}" for row in rows]


def rejected_rows(rejections: Rejections, cluster: ClusterName) -> dict[str, RejectedRecords]:
    """What was not believed of a cluster, by reason."""
    samples = rejections.samples(cluster)
    counts = rejections.counts(cluster)
    return {reason: RejectedRecords(total=total, sample=samples[reason]) for reason, total in counts.items()}
