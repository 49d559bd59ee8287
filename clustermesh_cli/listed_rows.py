# SPDX-License-Identifier: Apache-2.0
"""The lists of `clustermesh get`: what one cluster knows of the whole mesh, one kind at a time. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

import msgspec

from clustermesh_cli.peer_rows import peer_row
from meshapi.agent import EndpointRow, IdentityRow, NodeRow
from meshapi.apiserver import ApiserverStatus
from meshapi.row import SCHEMA, Row
from meshapi.service import ServiceStatus
from meshapi.shown_times import rfc3339
from meshkit.text import visible_cell
from meshmodel.address import place_of


class ListedKind(StrEnum):
    """What can be listed."""

    CLUSTERS = "clusters"
    PEERS = "peers"
    SERVICES = "services"
    NODES = "nodes"
    IDENTITIES = "identities"
    ENDPOINTS = "endpoints"


class ListedCluster(Row, kw_only=True):
    """A cluster of the mesh: this one (`source` local), or one that it follows. Times are RFC 3339, empty for never."""

    cluster: str
    id: int
    source: str
    state: str
    reason: str = ""
    session_since: str = ""
    age_s: float | None = None
    nodes: int = 0
    services: int = 0
    endpoints: int = 0
    identities: int = 0


class ListedEndpoint(Row, kw_only=True):
    """A pod that a node enforces policy for."""

    node: str
    cluster: str
    pod: str
    address: str
    identity: int


class ListedRows(Row, kw_only=True):
    """One list; `asked` are the nodes whose agents gave it, or the apiserver; `missing` says which gave no part of it."""

    schema: int = SCHEMA
    kind: str
    asked: list[str]
    items: list[Any]
    missing: list[str] = msgspec.field(default_factory=list)


Table = tuple[Sequence[str], Sequence[Sequence[object]]]


def list_clusters(status: ApiserverStatus, *, with_own: bool) -> list[ListedCluster]:
    """This cluster if asked for, then its peers by name, as its programs together see them."""
    own = ListedCluster(
        cluster=status.cluster,
        id=status.cluster_id,
        source="local",
        state="ready" if status.ready else "not ready",
        nodes=len(status.agents),
        services=status.published.get("services", 0),
        endpoints=status.published.get("ip", 0),
        identities=status.published.get("identities", 0),
    )
    seen = [*status.peers, *(peer for agent in status.agents for peer in agent.peers)]
    found = []
    for name in sorted({peer.name for peer in seen}):
        row = peer_row(name, status)
        known = max((peer for peer in seen if peer.name == name), key=lambda peer: peer.num_endpoints)
        found.append(
            ListedCluster(
                cluster=name,
                id=row.id,
                source="clustermesh",
                state=row.state,
                reason=row.reason,
                session_since=rfc3339(row.session_since),
                age_s=row.age_s,
                nodes=known.num_nodes,
                services=known.num_shared_services,
                endpoints=known.num_endpoints,
                identities=known.num_identities,
            )
        )
    return [own, *found] if with_own else found


def list_endpoints(node: str, cluster: str, rows: Iterable[EndpointRow]) -> list[ListedEndpoint]:
    """The pods of one node."""
    return [
        ListedEndpoint(
            node=node, cluster=cluster, pod=f"{row.namespace}/{row.pod}", address=row.address, identity=row.identity
        )
        for row in rows
    ]


def clusters_table(rows: Iterable[ListedCluster]) -> Table:
    head = ("CLUSTER", "ID", "SOURCE", "AGE", "SESSION SINCE", "NODES", "SERVICES", "ENDPOINTS", "IDENTITIES", "STATE")
    return head, [
        (r.cluster, r.id or "-", r.source, _age(r.age_s), r.session_since or "-", r.nodes, r.services, r.endpoints,
         r.identities, f"{r.state}: {r.reason}" if r.reason else r.state)
        for r in rows
    ]  # fmt: skip


def services_table(rows: Iterable[ServiceStatus]) -> Table:
    """One line per candidate backend; CHOSEN says whether new connections go there."""
    found: list[Sequence[object]] = []
    for row in rows:
        for b in row.backends:
            chosen = "yes" if b.chosen else f"no{f' ({b.reason})' if b.reason else ''}"
            found.append((row.name, row.frontend, place_of(b.address, b.port), b.cluster, _age(b.age_s), chosen))
        if not row.backends:
            found.append((row.name, row.frontend, "-", "-", "-", "-"))
    return ("SERVICE", "FRONTEND", "BACKEND", "CLUSTER", "AGE", "CHOSEN"), found


def nodes_table(rows: Iterable[NodeRow]) -> Table:
    return ("NAME", "ADDRESS", "POD NETWORKS", "CLUSTER", "SOURCE"), [
        (row.name, row.address, ",".join(row.pod_cidrs) or "-", row.cluster, row.source) for row in rows
    ]


def identities_table(rows: Iterable[IdentityRow]) -> Table:
    return ("ID", "CLUSTER", "SOURCE", "LABELS"), [
        (row.id, row.cluster, row.source or "-", ",".join(row.labels) or "-") for row in rows
    ]


def endpoints_table(rows: Iterable[ListedEndpoint]) -> Table:
    return ("POD", "ADDRESS", "IDENTITY", "NODE", "CLUSTER"), [
        (row.pod, row.address, row.identity, row.node, row.cluster) for row in rows
    ]


def table_lines(table: Table) -> Iterable[str]:
    """Columns as wide as they must be; the last is not padded."""
    texts = [[visible_cell(cell) for cell in row] for row in (table[0], *table[1])]
    widths = [max(len(row[i]) for row in texts) + 3 for i in range(len(table[0]) - 1)]
    for row in texts:
        yield "".join(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)) + row[-1]


def _age(age_s: float | None) -> str:
    return "-" if age_s is None else f"{age_s:.0f}s"
