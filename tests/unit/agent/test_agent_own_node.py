# SPDX-License-Identifier: Apache-2.0
"""Edits of this node's Node object: what is claimed afterwards, and who is told of another address."""

from __future__ import annotations

import asyncio

import pytest

from agent.bootstrap import Facts, OwnNode
from agent.core import Core, open_core
from agent.ipcache.feature import IpcacheFeature
from agent.machine import MemoryHost
from agent.mesh.feature import MeshFeature
from agent.node_agent import make_features
from agent.nodes.feature import NodesFeature
from agent.settings import AgentSettings
from agent.tables import ClaimOrigin, Node, NodeAddress, Prefix
from kube.reflector import Delete, Synced, Upsert
from meshkit.clock import ManualClock, settle
from meshmodel.identity import Reserved
from meshmodel.names import ClusterId, ClusterName

NORTH, NORTH_ID = ClusterName("north"), ClusterId(1)
IP, CIDR = "172.18.0.2", "10.1.0.0/24"
START = OwnNode("n1", IP, (CIDR,))
ROUTER = NodeAddress("CiliumInternalIP", "10.1.0.99")


async def make(
    start: OwnNode = START, node_ip: str = IP, own_cluster_routing: str = "native"
) -> tuple[Core, MeshFeature]:
    """A node whose own store has told more of it than its Node object says."""
    facts = Facts(NORTH, NORTH_ID, 255, "n1", node_ip, (CIDR,), own_nodes=(start, OwnNode("n2", "172.18.0.3", ())))
    settings = AgentSettings(
        local_etcd="none", probe_peers=False, node_name="n1", own_cluster_routing=own_cluster_routing
    )
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


async def test_a_node_made_again_has_its_pod_networks_until_it_is_given_others() -> None:
    """Without them peers could have the addresses of its pods; of an object that says nothing else new, nothing is new."""
    core, mesh = await make()
    before = (core.db.nodes.revision, core.db.prefixes.revision)
    mesh.own_node.take([Delete("n1", START), Upsert("n1", OwnNode("n1", IP, ()))])
    assert (core.db.nodes.revision, core.db.prefixes.revision) == before
    mesh.own_node.take([Upsert("n1", OwnNode("n1", "172.18.0.9", ()))])
    assert row_of(core).pod_cidrs == (CIDR,)
    mesh.own_node.take([Upsert("n1", OwnNode("n1", "172.18.0.9", ("10.1.8.0/24",)))])
    assert row_of(core).pod_cidrs == ("10.1.8.0/24",)


async def test_another_address_is_followed_and_back_again() -> None:
    core, mesh = await make()
    for address, former in (("172.18.0.9", IP), (IP, "172.18.0.9")):
        rung = core.db.moved.count
        mesh.own_node.take([Upsert("n1", OwnNode("n1", address, (CIDR,)))])
        assert row_of(core).addresses == (NodeAddress("InternalIP", address), ROUTER)
        assert core.db.prefixes.get(f"{former}/32") is None
        here = core.db.prefixes.get(f"{address}/32")
        assert here is not None
        assert here.identity == Reserved.HOST
        assert (core.db.node_address, core.db.moved.count) == (address, rung + 1)
        assert core.db.is_here(address)
        assert core.db.is_here(former)
    assert not mesh.problems()


def own_pod(host: str) -> Prefix:
    return Prefix("10.1.0.7/32", 65_537, "", NORTH, NORTH_ID, ClaimOrigin.POD, host, "default", "p")


async def test_pods_said_to_be_at_the_new_or_the_former_address_are_here_until_another_node_has_that() -> None:
    core, mesh = await make(own_cluster_routing="tunnel")
    writer = next(f for f in make_features(core) if isinstance(f, IpcacheFeature)).writer

    def tunnel() -> str:
        row = core.db.prefixes.get("10.1.0.7/32")
        assert row is not None
        return row.tunnel

    with core.db.write():
        writer.set_pod(own_pod("172.18.0.9"))  # the pod's record is faster than our Node object
    assert tunnel() == "172.18.0.9"
    with core.db.write():
        writer.move_own_node("172.18.0.9")
    assert tunnel() == ""
    with core.db.write():
        writer.set_pod(own_pod(IP))
    assert tunnel() == ""
    with core.db.write():
        writer.set_node(Node(NORTH, NORTH_ID, "n2", (NodeAddress("InternalIP", IP),), ()))
    assert tunnel() == IP
    assert not core.db.is_here(IP)
    assert mesh.name == "mesh"


async def test_programs_and_the_rest_interface_are_told_of_another_address() -> None:
    core, mesh = await make()
    nodes = next(f for f in make_features(core) if isinstance(f, NodesFeature))
    tasks = [asyncio.ensure_future(task) for task in nodes.tasks().values()]
    await settle()
    assert isinstance(core.host, MemoryHost)
    assert core.host.address == ""
    mesh.own_node.take([Upsert("n1", OwnNode("n1", "172.18.0.9", (CIDR,)))])
    await settle()
    assert core.host.address == "172.18.0.9"
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


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


async def test_an_address_given_by_hand_that_the_object_does_not_have_is_kept() -> None:
    core, mesh = await make(node_ip="192.168.7.2")
    mesh.own_node.take([Upsert("n1", OwnNode("n1", "172.18.0.9", ("10.1.8.0/24",)))])
    assert core.db.node_address == "192.168.7.2"
    assert row_of(core).pod_cidrs == ("10.1.8.0/24",)
