# SPDX-License-Identifier: Apache-2.0
"""Edits of this node's Node object: what is claimed afterwards, and what says that a restart is needed."""

from __future__ import annotations

import pytest

from agent.bootstrap import Facts, OwnNode
from agent.core import Core, open_core
from agent.machine import MemoryHost
from agent.mesh.feature import MeshFeature
from agent.node_agent import make_features
from agent.settings import AgentSettings
from agent.tables import Node, NodeAddress
from kube.reflector import Delete, Synced, Upsert
from meshkit.clock import ManualClock
from meshkit.health import HealthLevel
from meshmodel.names import ClusterId, ClusterName

NORTH, NORTH_ID = ClusterName("north"), ClusterId(1)
IP, CIDR = "172.18.0.2", "10.1.0.0/24"
START = OwnNode("n1", IP, (CIDR,))
ROUTER = NodeAddress("CiliumInternalIP", "10.1.0.99")


async def make(start: OwnNode = START, node_ip: str = IP) -> tuple[Core, MeshFeature]:
    """A node whose own store has told more of it than its Node object says."""
    facts = Facts(NORTH, NORTH_ID, 255, "n1", node_ip, (CIDR,), own_nodes=(start, OwnNode("n2", "172.18.0.3", ())))
    settings = AgentSettings(local_etcd="none", probe_peers=False, node_name="n1")
    core = await open_core(settings, facts, None, MemoryHost(), ManualClock())
    mesh = next(f for f in make_features(core) if isinstance(f, MeshFeature))
    mesh.expect()
    with core.db.write():
        row = core.db.nodes.get((NORTH, "n1"))
        assert row is not None
        core.db.nodes.put(Node(NORTH, NORTH_ID, "n1", (*row.addresses, ROUTER), row.pod_cidrs, health_ip="10.1.0.98"))
    return core, mesh


def row_of(core: Core) -> Node:
    row = core.db.nodes.get((NORTH, "n1"))
    assert row is not None
    return row


async def test_new_pod_networks_are_claimed_and_old_ones_given_up() -> None:
    core, mesh = await make()
    mesh.own_node.take([Upsert("n1", OwnNode("n1", IP, ("10.1.8.0/24", "10.1.9.0/24"))), Synced()])
    assert row_of(core).pod_cidrs == ("10.1.8.0/24", "10.1.9.0/24")
    assert row_of(core).addresses == (NodeAddress("InternalIP", IP), ROUTER)
    assert row_of(core).health_ip == "10.1.0.98"
    assert core.db.prefixes.get(CIDR) is None
    assert core.db.prefixes.get("10.1.8.0/24") is not None
    assert mesh.own_node.problem == ""


async def test_another_address_is_known_at_once_and_asks_for_a_restart_until_it_is_taken_back() -> None:
    core, mesh = await make()
    mesh.own_node.take([Upsert("n1", OwnNode("n1", "172.18.0.9", (CIDR,)))])
    assert row_of(core).addresses == (NodeAddress("InternalIP", "172.18.0.9"), ROUTER)
    assert core.db.prefixes.get(f"{IP}/32") is None
    assert core.db.prefixes.get("172.18.0.9/32") is not None
    (problem,) = [text for text in mesh.problems() if "restart the agent" in text]
    assert "172.18.0.9" in problem
    mesh.check_health(core.health)
    assert core.health.snapshot()["node address"].level is HealthLevel.DEGRADED
    mesh.own_node.take([Upsert("n1", START)])
    mesh.check_health(core.health)
    assert not mesh.problems()
    assert core.health.snapshot()["node address"].level is HealthLevel.OK
    assert row_of(core).addresses == (NodeAddress("InternalIP", IP), ROUTER)


@pytest.mark.parametrize(
    "change",
    [Upsert("n1", START), Upsert("n2", OwnNode("n2", "172.18.0.7", ())), Delete("n1", START), Synced()],
    ids=["same", "another", "deleted", "synced"],
)
async def test_what_is_no_edit_of_this_node_changes_nothing(change: Upsert[OwnNode] | Delete[OwnNode] | Synced) -> None:
    core, mesh = await make()
    before = (row_of(core), core.db.nodes.revision, core.db.prefixes.revision)
    mesh.own_node.take([change])
    assert (row_of(core), core.db.nodes.revision, core.db.prefixes.revision) == before


async def test_an_address_given_by_hand_that_differs_from_the_start_is_no_problem() -> None:
    core, mesh = await make(node_ip="192.168.7.2")
    mesh.own_node.take([Upsert("n1", OwnNode("n1", IP, ("10.1.8.0/24",)))])
    assert mesh.own_node.problem == ""
    assert row_of(core).pod_cidrs == ("10.1.8.0/24",)
