# SPDX-License-Identifier: Apache-2.0
"""Followed clusters as rows of meshapi: sessions and rejected records. Reads, never writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from agent.mesh.rejections import Rejections
from agent.tables import AgentDB
from meshapi.peer import RejectedRecords, RemoteCluster
from meshkit.clock import Clock
from meshmodel.names import ClusterName
from meshpeer.followed import FollowedCluster
from meshpeer.status import remote_cluster

MAX_NAMED: Final = 3


def cluster_row(
    state: FollowedCluster, rejections: Rejections, clock: Clock, unlisted: Mapping[str, Sequence[str]] | None = None
) -> RemoteCluster:
    """One followed cluster, or the own cluster's store, which is followed in the same way.

    `unlisted`: by node, what only the list in the cluster's connection file refuses.
    """
    row = remote_cluster(state, clock.monotonic(), rejected=rejections.counts(state.name))
    if unlisted:
        row.warnings.append(unlisted_warning(state.name, unlisted))
    return row


def unlisted_warning(cluster: ClusterName, unlisted: Mapping[str, Sequence[str]]) -> str:
    """What a list refuses, and what to run if it should not."""
    all_networks = [f"{network} of node {node}" for node, networks in sorted(unlisted.items()) for network in networks]
    more = f" and {len(all_networks) - MAX_NAMED} more" if len(all_networks) > MAX_NAMED else ""
    return (
        f"announces what its entry does not let it own: {', '.join(all_networks[:MAX_NAMED])}{more}; if that is its "
        f"own: clustermesh connect --destination-context CONTEXT_OF_{cluster.upper()} --peer-networks auto"
    )


def lost_node_problems(db: AgentDB) -> list[str]:
    """One sentence for each node of a peer whose pods get no new connections from here."""
    rows = sorted(db.lost_nodes.rows(), key=lambda row: (row.cluster, row.ip))
    return [f"peer {row.cluster}: node {row.ip} gets no new connections from this node: {row.reason}" for row in rows]


def rejected_rows(rejections: Rejections, cluster: ClusterName) -> dict[str, RejectedRecords]:
    """What was not believed of a cluster, by reason."""
    samples = rejections.samples(cluster)
    counts = rejections.counts(cluster)
    return {reason: RejectedRecords(total=total, sample=samples[reason]) for reason, total in counts.items()}
