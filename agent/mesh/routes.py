# SPDX-License-Identifier: Apache-2.0
"""REST paths of followed clusters, and what is wrong with them. Reads, never writes."""

from __future__ import annotations

from agent.mesh.rows import cluster_row, lost_node_problems, rejected_rows
from agent.mesh.runner import MeshRunner
from agent.tables import AgentDB
from meshapi.peer import RejectedRecords, RemoteCluster
from meshkit.clock import Clock
from meshkit.rest import NotAnswered, Rest
from meshmodel.names import ClusterName


def add_cluster_routes(rest: Rest, runner: MeshRunner, clock: Clock) -> None:
    @rest.get("/v1/clusters", list[RemoteCluster], tag="clusters")
    async def clusters() -> list[RemoteCluster]:
        """Every configured peer."""
        return peer_rows(runner, clock)

    @rest.get("/v1/clusters/{name}", RemoteCluster, tag="clusters", errors={404: "no such cluster is configured"})
    async def cluster(name: str) -> RemoteCluster:
        """One peer, or the own cluster's store under the own name."""
        member = runner.members.get(ClusterName(name))
        if member is None:
            raise NotAnswered(404, f"no cluster {name} is configured")
        return cluster_row(member.state, runner.rejections, clock)

    @rest.get("/v1/clusters/{name}/rejected", dict[str, RejectedRecords], tag="clusters")
    async def rejected(name: str) -> dict[str, RejectedRecords]:
        """Rejected records by reason, with the last sample of each."""
        return rejected_rows(runner.rejections, ClusterName(name))


def peer_rows(runner: MeshRunner, clock: Clock) -> list[RemoteCluster]:
    """Every configured peer."""
    return [cluster_row(state, runner.rejections, clock) for state in runner.states()]


def mesh_problems(runner: MeshRunner, db: AgentDB, clock: Clock) -> list[str]:
    """Configurations and records that are refused, stores that are away, nodes that are not reached."""
    found = [f"peer configuration {name}: {reason}" for name, reason in sorted(runner.refused.items())]
    found += lost_node_problems(db)
    for state in runner.states():
        warnings = cluster_row(state, runner.rejections, clock).warnings
        found += [f"peer {state.name}: {warning}" for warning in warnings]
        rejected = runner.rejections.counts(state.name)
        found += [f"peer {state.name}: {total} records rejected ({reason})" for reason, total in rejected.items()]
    own = runner.members.get(db.own)
    if own is not None and not (row := cluster_row(own.state, runner.rejections, clock)).ready:
        found.append(f"own store: {row.reason or row.status}")
    return found
