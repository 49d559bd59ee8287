# SPDX-License-Identifier: Apache-2.0
"""Identities as rows of meshapi. Reads, never writes."""

from __future__ import annotations

from agent.tables import AgentDB
from meshapi.agent import IdentityRow


def identity_rows(db: AgentDB, label: str = "") -> list[IdentityRow]:
    """Identities of every cluster by number; `label` keeps those with a label that contains it."""
    rows = sorted(db.identities.rows(), key=lambda i: i.id)
    found = [IdentityRow(row.id, row.cluster, [f"{x.source}:{x.key}={x.value}" for x in row.labels]) for row in rows]
    return [row for row in found if label in " ".join(row.labels)]
