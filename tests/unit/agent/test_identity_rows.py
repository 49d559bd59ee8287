# SPDX-License-Identifier: Apache-2.0
"""Identities as the agent shows them: each says where it is from."""

from __future__ import annotations

from agent.identity.rows import identity_rows
from agent.tables import AgentDB, Identity
from meshmodel.identity import LOCAL_SCOPE_REMOTE_NODE, Reserved
from meshmodel.labels import Label
from meshmodel.names import ClusterId, ClusterName

NORTH, SOUTH = ClusterName("north"), ClusterName("south")
WEB = (Label("k8s", "app", "web"),)
OF_NODES = LOCAL_SCOPE_REMOTE_NODE + 1


def test_an_identity_says_from_where_it_is_and_a_label_chooses() -> None:
    db = AgentDB(NORTH, ClusterId(1))
    with db.write():
        db.identities.put(Identity(Reserved.HOST, NORTH, ()))
        db.identities.put(Identity(70_000, NORTH, WEB))
        db.identities.put(Identity(131_073, SOUTH, WEB))
        db.identities.put(Identity(OF_NODES, NORTH, ()))
    assert {row.id: (row.cluster, row.source) for row in identity_rows(db)} == {
        Reserved.HOST: ("north", "reserved"),
        70_000: ("north", "local"),
        131_073: ("south", "clustermesh"),
        OF_NODES: ("north", "node"),
    }
    assert [row.id for row in identity_rows(db, "app=web")] == [70_000, 131_073]
