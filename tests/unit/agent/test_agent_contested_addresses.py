# SPDX-License-Identifier: Apache-2.0
"""Several peers that claim one address which none of them may have."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent_mesh_kit import Mesh, PeerStore

from agent.tables import Node, NodeAddress
from meshkit.clock import ManualClock
from meshmodel.names import ClusterName


@pytest.mark.timeout(30)
async def test_two_peers_that_want_what_is_ours_are_refused_once_each(tmp_path: Path) -> None:
    """What one could not have was given back all the same, and so judged again for the other: the agent did nothing else."""
    clock = ManualClock()
    mesh = Mesh(tmp_path, clock)
    ours = Node(mesh.db.own, mesh.db.own_id, "n1", (NodeAddress("InternalIP", "172.18.0.2"),), ("10.1.0.0/24",))
    mesh.runner.know_own_node(ours)
    async with mesh.running():
        for number, name in enumerate(("east", "south"), 2):
            store = PeerStore(name, number, clock)
            await store.config()
            await store.node(ip=f"172.18.{number}.5", cidr=f"10.{number}.0.0/24")
            await store.identity(number << 16 | 7)
            await store.ip("10.1.0.9", number << 16 | 7, f"172.18.{number}.5")
            await store.service("10.1.0.9")
            await store.canaries()
            mesh.add(store)
        await mesh.until(lambda: all(mesh.state(name).is_ready for name in ("east", "south")), 30)
        counts = [mesh.runner.rejections.counts(ClusterName(name)) for name in ("east", "south")]
        assert counts == [{"address-outside": 2}] * 2
        assert mesh.backends() == []
