# SPDX-License-Identifier: Apache-2.0
"""Nodes as rows of meshapi. Reads, never writes."""

from __future__ import annotations

from agent.tables import AgentDB, Node
from meshapi.agent import NodeAddressRow, NodeRow


def node_rows(db: AgentDB, cluster: str = "") -> list[NodeRow]:
    """Nodes of every cluster, or of one."""
    rows = sorted(db.nodes.rows(), key=lambda n: (n.cluster, n.name))
    return [_node(db, row) for row in rows if not cluster or row.cluster == cluster]


def _node(db: AgentDB, row: Node) -> NodeRow:
    is_here = row.cluster == db.own and row.name == db.node_name
    return NodeRow(
        name=f"{row.cluster}/{row.name}",
        cluster=row.cluster,
        cluster_id=row.cluster_id,
        address=row.internal_ip,
        addresses=[NodeAddressRow(a.kind, a.ip) for a in row.addresses],
        pod_cidrs=list(row.pod_cidrs),
        source="local" if is_here else "custom-resource" if row.cluster == db.own else "clustermesh",
    )
