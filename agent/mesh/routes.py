# SPDX-License-Identifier: Apache-2.0
"""REST paths of followed clusters, and what is wrong with them. Reads, never writes."""

from __future__ import annotations

from typing import Final

from agent.mesh.probe import Prober
from agent.mesh.rows import cluster_row, lost_node_problems, probe_rows, refused_of_nodes, rejected_rows
from agent.mesh.runner import MeshRunner
from agent.tables import AgentDB
from meshapi.peer import RejectedRecords, RemoteCluster
from meshapi.probe import NodeProbes
from meshkit.clock import Clock
from meshkit.rest import NotAnswered, Rest
from meshmodel.names import ClusterName

NETWORKS_OF_PEERS: Final = "networks of peers"
OWN_STORE: Final = "own store"


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
        return cluster_row(member.state, runner.rejections, clock, _refused_of(runner, member.state.name))

    @rest.get("/v1/clusters/{name}/rejected", dict[str, RejectedRecords], tag="clusters")
    async def rejected(name: str) -> dict[str, RejectedRecords]:
        """Rejected records by reason, with the last sample of each."""
        return rejected_rows(runner.rejections, ClusterName(name))


def add_probe_routes(rest: Rest, db: AgentDB, runner: MeshRunner, prober: Prober | None) -> None:
    """`prober` is None where this node does not probe: then no node was asked."""

    @rest.get("/v1/probes", NodeProbes, tag="clusters")
    async def probes() -> NodeProbes:
        """Whether this node's pods reach the nodes of every peer: through the overlay, small and full-sized."""
        sessions = {state.name: str(state.state) for state in runner.states()}
        return NodeProbes(
            cluster=db.own, node=db.node_name, targets=probe_rows(db, prober.heard() if prober else (), sessions)
        )


def peer_rows(runner: MeshRunner, clock: Clock) -> list[RemoteCluster]:
    """Every configured peer."""
    return [cluster_row(state, runner.rejections, clock, _refused_of(runner, state.name)) for state in runner.states()]


def refused_networks(runner: MeshRunner) -> str:
    """What is refused of peers' nodes, why, and what to do; empty if nothing is."""
    names = sorted(state.name for state in runner.states())
    return "; ".join(f"{name} {refused}" for name in names for refused in _refused_of(runner, name))


def _refused_of(runner: MeshRunner, name: ClusterName) -> list[str]:
    return refused_of_nodes(name, runner.members[name].consumer.refused_nodes)


def own_store_problem(runner: MeshRunner, own: ClusterName, clock: Clock) -> str:
    """Why the own cluster's store is not followed; empty while it is, or where the agent runs without."""
    member = runner.members.get(own)
    if member is None or (member.state.is_ready and not member.state.withdrawn):
        return ""
    row = cluster_row(member.state, runner.rejections, clock)
    since = f", last heard of {row.age_s:.0f} s ago" if row.age_s is not None else ""
    return (
        f"{row.reason or row.status}{since}; what changes in the cluster is not learned, what is known stays in force"
    )


def mesh_problems(runner: MeshRunner, db: AgentDB, clock: Clock) -> list[str]:
    """Configurations and records that are refused, stores that are away, nodes that are not reached."""
    found = [f"peer configuration {name}: {reason}" for name, reason in sorted(runner.refused.items())]
    found += lost_node_problems(db)
    if refused := refused_networks(runner):
        found.append(f"{NETWORKS_OF_PEERS}: {refused}")
    for row in [cluster_row(state, runner.rejections, clock) for state in runner.states()]:
        found += [f"peer {row.name}: {warning}" for warning in row.warnings]
        found += [f"peer {row.name}: {total} records rejected ({why})" for why, total in row.records_rejected.items()]
    if away := own_store_problem(runner, db.own, clock):
        found.append(f"{OWN_STORE}: {away}")
    return found
