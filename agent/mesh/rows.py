# SPDX-License-Identifier: Apache-2.0
"""Followed clusters as rows of meshapi: sessions and rejected records. Reads, never writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from agent.mesh.networks import ClaimRefusal
from agent.mesh.probe import HeardNode, ProbeAnswer
from agent.mesh.rejections import Rejections
from agent.tables import AgentDB, Node
from meshapi.peer import RejectedRecords, RemoteCluster
from meshapi.probe import PathState, ProbeRow
from meshkit.clock import Clock
from meshmodel.names import ClusterName
from meshpeer.followed import FollowedCluster
from meshpeer.status import remote_cluster

MAX_NAMED: Final = 3
ROUNDS_BEFORE_SILENT: Final = 10
_PATHS: Final = {
    ProbeAnswer.WHOLE: PathState.WHOLE,
    ProbeAnswer.SMALL_ONLY: PathState.SMALL_ONLY,
    ProbeAnswer.AGENT_ONLY: PathState.NO_ANSWER,
    ProbeAnswer.NONE: PathState.NO_ANSWER,
}


def cluster_row(
    state: FollowedCluster, rejections: Rejections, clock: Clock, refused: Sequence[str] = ()
) -> RemoteCluster:
    """One followed cluster, or the own cluster's store, which is followed in the same way.

    `refused`: what refused_of_nodes says of it.
    """
    row = remote_cluster(state, clock.monotonic(), rejected=rejections.counts(state.name))
    row.warnings.extend(refused)
    return row


def refused_of_nodes(cluster: ClusterName, refused: Mapping[str, Sequence[ClaimRefusal]]) -> list[str]:
    """What is refused of a cluster's nodes now: by its list, or because others have all addresses of a node."""
    if not refused:
        return []
    unlisted = {
        node: networks for node, why in refused.items() if (networks := [str(r.block) for r in why if r.is_unlisted])
    }
    taken = sorted((node, why[0].reason) for node, why in refused.items() if node not in unlisted)
    found = [unlisted_warning(cluster, unlisted)] if unlisted else []
    if taken:
        named = "; ".join(f"node {node}: {reason}" for node, reason in taken[:MAX_NAMED])
        more = f"; and {len(taken) - MAX_NAMED} more" if len(taken) > MAX_NAMED else ""
        found.append(f"announces nodes at addresses that others have, and their pods are not reached: {named}{more}")
    return found


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


def silent_node_problems(heard: Iterable[HeardNode]) -> list[str]:
    """One sentence for each peer with nodes that never answered a probe: they are not judged, so somebody has to."""
    silent: dict[ClusterName, list[str]] = {}
    for node in heard:
        if node.reached_ago_s is None and not node.is_lost and node.failures >= ROUNDS_BEFORE_SILENT:
            silent.setdefault(node.cluster, []).append(node.ip)
    return [
        f"peer {cluster}: {', '.join(ips[:MAX_NAMED])}{f' and {len(ips) - MAX_NAMED} more nodes' if ips[MAX_NAMED:] else ''} "
        "never answered a probe, neither through the overlay nor by TCP: requests to their pods may be lost"
        for cluster, ips in sorted(silent.items())
    ]


def probe_rows(db: AgentDB, heard: Iterable[HeardNode], sessions: Mapping[ClusterName, str]) -> list[ProbeRow]:
    """Every node of every peer, by cluster and name; one that no round has asked yet says so."""
    known = {(node.cluster, node.ip): node for node in heard}
    nodes = sorted((n for n in db.nodes.rows() if n.cluster in sessions), key=lambda n: (n.cluster, n.name))
    return [_probe_row(n, known.get((n.cluster, n.internal_ip)), sessions[n.cluster]) for n in nodes]


def _probe_row(node: Node, heard: HeardNode | None, session: str) -> ProbeRow:
    row = ProbeRow(
        cluster=node.cluster, node=node.name, address=node.internal_ip, path=PathState.NOT_ASKED, session=session
    )
    if heard is None:
        return row
    return msgspec.structs.replace(
        row,
        path=_PATHS[heard.reply.answer],
        way="overlay" if heard.reply.is_overlay else "tcp",
        rtt_s=heard.reply.rtt_s,
        reached_ago_s=heard.reached_ago_s,
        lost=heard.is_lost,
    )


def rejected_rows(rejections: Rejections, cluster: ClusterName) -> dict[str, RejectedRecords]:
    """What was not believed of a cluster, by reason."""
    samples = rejections.samples(cluster)
    counts = rejections.counts(cluster)
    return {reason: RejectedRecords(total=total, sample=samples[reason]) for reason, total in counts.items()}
