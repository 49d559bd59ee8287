# SPDX-License-Identifier: Apache-2.0
"""Which packets take the overlay: those to peers always, those inside the own cluster only where every node runs an agent."""

from __future__ import annotations

import pytest

from agent.ipcache.writer import PrefixWriter
from agent.tables import AgentDB, ClaimOrigin, Prefix
from meshmodel.names import ClusterId, ClusterName


@pytest.mark.parametrize(
    ("cluster", "host", "tunnels_own", "tunnel"),
    [
        ("north", "172.18.0.3", False, ""),
        ("north", "172.18.0.3", True, "172.18.0.3"),
        ("north", "172.18.0.2", True, ""),
        ("south", "172.18.0.6", False, "172.18.0.6"),
        ("south", "172.18.0.6", True, "172.18.0.6"),
    ],
    ids=["own-native", "own-tunnel", "this-node", "peer-native", "peer-tunnel"],
)
def test_a_pod_is_reached_through_the_overlay_or_by_its_cni(
    cluster: str, host: str, tunnels_own: bool, tunnel: str
) -> None:
    db = AgentDB(ClusterName("north"), ClusterId(1), "n1", "172.18.0.2")
    writer = PrefixWriter(db, tunnels_own_cluster=tunnels_own)
    row = Prefix("10.1.0.9/32", 65_537, "", ClusterName(cluster), ClusterId(1), ClaimOrigin.POD, host, "default", "p")
    with db.write():
        writer.set_pod(row)
    written = db.prefixes.get("10.1.0.9/32")
    assert written is not None
    assert written.tunnel == tunnel
