# SPDX-License-Identifier: Apache-2.0
"""Identities as rows of meshapi. Reads, never writes."""

from __future__ import annotations

from agent.tables import AgentDB, Identity
from meshapi.agent import IdentityRow
from meshmodel.identity import is_of_nodes, is_reserved


def identity_rows(db: AgentDB, label: str = "") -> list[IdentityRow]:
    """Identities of every cluster by number; `label` keeps those with a label that contains it."""
    rows = [_row(db, identity) for identity in sorted(db.identities.rows(), key=lambda i: i.id)]
    return [row for row in rows if label in " ".join(row.labels)]


def _row(db: AgentDB, identity: Identity) -> IdentityRow:
    labels = [f"{label.source}:{label.key}={label.value}" for label in identity.labels]
    return IdentityRow(identity.id, identity.cluster, labels, _source(db, identity))


def _source(db: AgentDB, identity: Identity) -> str:
    if is_reserved(identity.id):
        return "reserved"
    if is_of_nodes(identity.id):
        return "node"
    return "local" if identity.cluster == db.own else "clustermesh"
