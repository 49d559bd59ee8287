# SPDX-License-Identifier: Apache-2.0
"""Records whose addresses are claimed by another: refused, accepted later, and given back, through the whole ingest."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from agent_mesh_kit import ECHO, FILE, Mesh, PeerStore

from agent.datapath.memory import memory_maps
from agent.ipcache.writer import PrefixWriter
from agent.loadbalancer.events import ServiceEvents
from agent.loadbalancer.follower import AddressFollower
from agent.loadbalancer.registry import BackendRegistry
from agent.mesh.blocks import block_of
from agent.mesh.held_records import Held
from agent.mesh.ingest import Ingest
from agent.mesh.networks import ClaimRefusal
from agent.mesh.routes import mesh_problems, peer_rows, refused_networks
from agent.mesh.rows import refused_of_nodes
from agent.tables import Address, AgentDB, ClaimOrigin, FrontendKey, Node, NodeAddress, Prefix, Service, ServicePort
from kube.client import KubeClient
from meshapi.peer import PeerState
from meshkit.clock import ManualClock
from meshmodel.keys import Kind
from meshmodel.names import ClusterId, ClusterName, ServiceName
from meshmodel.node import NodeAddress as WireAddress
from tests.support import record_keys

NORTH, SOUTH, EAST = ClusterName("north"), ClusterName("south"), ClusterName("east")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def mesh(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Mesh]:
    """Our own store is read too; a peer is there first."""
    mesh = Mesh(tmp_path, clock)
    mesh.stores["north"] = north = PeerStore("north", 1, clock)
    await north.config()
    await north.canaries()
    await north.beat()
    mesh.runner.expect_own(FILE % b"north")
    async with mesh.running():
        south = PeerStore("south", 2, clock)
        await south.fill()
        mesh.add(south)
        await mesh.until(lambda: mesh.state().is_ready)
        yield mesh


@pytest.mark.parametrize("cidr", ["10.9.0.0/24", "10.8.0.0/15"])
async def test_a_pod_is_ours_when_the_network_around_it_is_not_any_more(mesh: Mesh, cidr: str) -> None:
    """As where somebody deletes the Node object of a node that runs: what the pod has no peer gets, the rest one may."""
    north, south = mesh.stores["north"], mesh.stores["south"]
    await north.node("n9", "172.18.0.9", cidr)
    await north.ip("10.9.0.7", 1 << 16 | 9, "172.18.0.9")
    await mesh.until(lambda: mesh.db.prefixes.get("10.9.0.7/32") is not None)
    await south.service("10.9.0.7", "10.9.0.8", "10.2.0.9")
    await mesh.until(lambda: mesh.backends() == ["10.2.0.9"])
    await north.delete(record_keys.node_key("north", "n9"))
    await mesh.until(lambda: mesh.db.nodes.get((NORTH, "n9")) is None)
    await south.service("10.2.0.9", "10.9.0.8", "10.9.0.7")
    await mesh.until(lambda: mesh.backends() == ["10.2.0.9", "10.9.0.8"])
    await north.delete(record_keys.ip_key("north", "10.9.0.7"))
    await mesh.until(lambda: mesh.backends() == ["10.2.0.9", "10.9.0.7", "10.9.0.8"])


async def test_a_health_address_equal_to_our_pod_moves_no_traffic(mesh: Mesh) -> None:
    """The attack: `IPv4HealthIP`, `CiliumInternalIP` and the like were claims stronger than our pod's own record."""
    north, south = mesh.stores["north"], mesh.stores["south"]
    await north.node("n2", "172.18.0.3", "10.1.0.0/24")
    await north.ip("10.1.0.9", 1 << 16 | 9, "172.18.0.3")
    await mesh.until(lambda: mesh.db.prefixes.get("10.1.0.9/32") is not None)
    evil = (WireAddress("InternalIP", "172.18.0.6"), WireAddress("CiliumInternalIP", "10.1.0.9"))
    await south.node("s2", cidr="10.1.0.0/25", addresses=evil, ipv4_health_ip="10.1.0.9", ipv4_ingress_ip="10.1.0.9")
    await mesh.until(lambda: mesh.db.nodes.get((SOUTH, "s2")) is not None)
    row = mesh.db.prefixes.get("10.1.0.9/32")
    assert row is not None
    assert (row.cluster, row.identity) == ("north", 1 << 16 | 9)
    assert mesh.runner.rejections.counts(SOUTH) == {"foreign-network": 4}


@pytest.mark.parametrize("is_pod_outside", [False, True])
async def test_what_a_peer_took_first_is_ours_when_we_claim_it(mesh: Mesh, is_pod_outside: bool) -> None:
    north, south = mesh.stores["north"], mesh.stores["south"]
    await south.node("s2", "172.18.0.6", "10.9.0.0/24", ipv4_health_ip="10.9.0.7")
    await south.ip("10.9.0.7", 2 << 16 | 7, "172.18.0.6")
    await south.ip("10.9.0.8", 2 << 16 | 7, "172.18.0.6")
    await south.service("10.9.0.7", "10.2.0.9")
    await mesh.until(lambda: mesh.backends() == ["10.2.0.9", "10.9.0.7"])
    await mesh.until(lambda: mesh.db.prefixes.get("10.9.0.8/32") is not None)
    if is_pod_outside:
        await north.ip("10.9.0.7", 1 << 16 | 9, "172.18.0.2")
    else:
        await north.node("n9", "172.18.0.9", "10.9.0.0/24")
    await mesh.until(lambda: mesh.backends() == ["10.2.0.9"])
    row = mesh.db.prefixes.get("10.9.0.7/32")
    assert row is None or row.cluster == "north"
    assert (mesh.db.prefixes.get("10.9.0.8/32") is None) != is_pod_outside
    found = mesh.db.nodes.get((SOUTH, "s2"))
    assert found is not None
    assert (found.pod_cidrs, found.health_ip) == ((), "")
    cidr = mesh.db.prefixes.get("10.9.0.0/24")
    assert (cidr.cluster if cidr is not None else None) == (None if is_pod_outside else "north")


async def test_a_slices_backend_that_became_ours_stays_away(mesh: Mesh) -> None:
    north, south = mesh.stores["north"], mesh.stores["south"]
    await south.config(endpoint_slices_export_mode="endpointslices-only")
    await south.slice("10.9.0.7", "10.2.0.9")
    await mesh.until(lambda: mesh.backends() == ["10.2.0.9", "10.9.0.7"], 20)
    await north.node("n9", "172.18.0.9", "10.9.0.0/24")
    await mesh.until(lambda: mesh.backends() == ["10.2.0.9"])
    await south.slice("10.2.0.11", name="echo-2")
    await mesh.until(lambda: mesh.backends() == ["10.2.0.11", "10.2.0.9"])


async def test_a_peers_claim_below_ours_does_not_come_back_when_our_pod_goes(mesh: Mesh) -> None:
    north, south = mesh.stores["north"], mesh.stores["south"]
    await south.ip("10.9.0.7", 2 << 16 | 7)
    await mesh.until(lambda: mesh.db.prefixes.get("10.9.0.7/32") is not None)
    await north.ip("10.9.0.7", 1 << 16 | 9, "172.18.0.2")
    await north.node("n9", "172.18.0.9", "10.9.0.0/24")
    await mesh.until(lambda: mesh.db.nodes.get((NORTH, "n9")) is not None)
    await north.delete(record_keys.ip_key("north", "10.9.0.7"))
    await mesh.until(lambda: mesh.db.prefixes.get("10.9.0.7/32") is None)
    await mesh.pass_s(2)
    assert mesh.db.prefixes.get("10.9.0.7/32") is None


async def test_records_that_are_judged_again_count_as_changes_of_who_caused_it(mesh: Mesh) -> None:
    """A wide network announced again and again makes nobody look at the refused records."""
    south = mesh.stores["south"]
    ingest = mesh.runner.members[SOUTH].consumer
    for number in range(50):
        await south.ip(f"10.5.0.{number}", 7, "172.19.0.1")
    await mesh.until(lambda: len(ingest.held) == 50)
    wide = await record_of(south, "s8", "172.19.0.8", "10.0.0.0/8")
    assert ingest.apply(Kind.NODES, [(b"s8", wide)]) == 1
    assert ingest.apply(Kind.NODES, [(b"s8", None)]) == 1
    host = await record_of(south, "s9", "172.19.0.1", "10.6.0.0/24")
    assert ingest.apply(Kind.NODES, [(b"s9", host)]) == 51


async def record_of(south: PeerStore, name: str, address: str, cidr: str) -> bytes:
    """A node's record, which nobody is told."""
    other = PeerStore(south.name, south.cluster_id, south.clock)
    await other.node(name, address, cidr)
    entry = await other.client.get(record_keys.node_key(south.name, name))
    assert entry is not None
    return entry.value


async def test_a_service_address_of_ours_is_never_a_peers(mesh: Mesh) -> None:
    south = mesh.stores["south"]
    await south.node("s2", "172.18.0.6", "10.96.5.0/24")
    await mesh.until(lambda: mesh.db.prefixes.get("10.96.5.0/24") is not None)
    row = Service(ServiceName("a", "b"), (Address("10.96.5.9"),), (ServicePort("", 80, "TCP"),))
    with mesh.db.write():
        mesh.lb.set_service(row)
    await mesh.until(lambda: mesh.db.prefixes.get("10.96.5.0/24") is None)
    await south.node("s3", "172.18.0.7", "172.20.1.0/28")
    await mesh.until(lambda: mesh.db.nodes.get((SOUTH, "s3")) is not None)
    assert mesh.db.prefixes.get("172.20.1.0/28") is None
    with mesh.db.write():
        mesh.lb.delete_service(ServiceName("a", "b"))
    await south.node("s2", "172.18.0.6", "10.96.5.0/24", boot_id="again")
    await mesh.until(lambda: mesh.db.prefixes.get("10.96.5.0/24") is not None)


async def test_what_a_peer_had_is_its_again_when_we_give_up_our_claim(mesh: Mesh) -> None:
    """A claim of a minute, by a load balancer's status for example, took a peer's pods away until its session ended."""
    north, south = mesh.stores["north"], mesh.stores["south"]
    await south.ip("10.2.0.9", 2 << 16 | 7, "172.18.0.5")
    await mesh.until(lambda: mesh.db.prefixes.get("10.2.0.9/32") is not None)
    name = ServiceName("a", "b")

    def is_whole() -> bool:
        network, pod = mesh.db.prefixes.get("10.2.0.0/24"), mesh.db.prefixes.get("10.2.0.9/32")
        return {row and row.cluster for row in (network, pod)} == {SOUTH} and mesh.backends() == ["10.2.0.9"]

    await mesh.until(is_whole)
    for _ in range(2):
        await asyncio.gather(south.beat(), north.beat())
        with mesh.db.write():
            mesh.lb.set_service(Service(name, (Address("10.2.0.9", "LoadBalancer"),), (ServicePort("", 80, "TCP"),)))
        await mesh.until(lambda: mesh.backends() == [] and mesh.db.prefixes.get("10.2.0.0/24") is None)
        with mesh.db.write():
            mesh.lb.delete_service(name)
        await mesh.until(is_whole, 65)
    await asyncio.gather(south.beat(), north.beat())
    await north.ip("10.2.0.9", 1 << 16 | 9, "172.18.0.2")
    await mesh.until(lambda: mesh.backends() == [])
    await north.delete(record_keys.ip_key(NORTH, "10.2.0.9"))
    await mesh.until(is_whole, 65)
    assert mesh.attempts == 2


async def test_what_one_peer_gives_up_another_may_have(mesh: Mesh, clock: ManualClock) -> None:
    east = PeerStore("east", 3, clock)
    await east.fill()  # the same node and network as south's
    mesh.add(east)
    await mesh.until(lambda: bool(mesh.runner.rejections.counts(EAST)))
    await mesh.pass_s(5)
    assert mesh.db.nodes.get((EAST, "s1")) is None
    mesh.remove("south")
    await mesh.until(lambda: mesh.db.nodes.get((EAST, "s1")) is not None)
    row = mesh.db.prefixes.get("10.2.0.9/32")
    assert row is not None
    assert row.cluster == "east"
    assert mesh.db.backends.get((ECHO, EAST)) is not None


async def test_pods_are_not_reached_through_what_was_a_node_of_their_cluster_and_is_ours_now(mesh: Mesh) -> None:
    """The record of a node may go before those of its pods: they are reached as before, until its address is another's."""
    north, south, pod = mesh.stores["north"], mesh.stores["south"], "10.2.0.9/32"
    await south.node("s2", "172.18.0.6", "10.2.7.0/24")
    await south.delete(record_keys.node_key("south", "s1"))
    await mesh.until(lambda: mesh.db.nodes.get((SOUTH, "s1")) is None)
    row = mesh.db.prefixes.get(pod)
    assert row is not None
    assert row.tunnel == "172.18.0.5"
    await north.node("n5", "172.18.0.5", "10.5.0.0/24")
    await mesh.until(lambda: mesh.db.prefixes.get(pod) is None)
    await north.delete(record_keys.node_key("north", "n5"))
    await mesh.until(lambda: mesh.db.nodes.get((NORTH, "n5")) is None)
    await south.node("s1", "172.18.0.5", "10.2.0.0/24")
    await mesh.until(lambda: mesh.db.prefixes.get(pod) == row, 65)


async def test_a_changed_list_in_the_connection_file_is_followed(mesh: Mesh, tmp_path: Path) -> None:
    (tmp_path / "south").write_bytes(FILE % b"south" + b"networks: [10.3.0.0/16]\n")
    mesh.changed.set()
    await mesh.until(lambda: mesh.backends() == [], 10)
    assert mesh.db.prefixes.get("10.2.0.0/24") is None
    (tmp_path / "south").write_bytes(FILE % b"south" + b"networks: nonsense\n")
    mesh.changed.set()
    await mesh.until(lambda: mesh.state().state is PeerState.REFUSED, 10)
    assert "networks is no list" in mesh.state().reason
    (tmp_path / "south").write_bytes(FILE % b"south" + b"networks: [10.2.0.0/16]\n")
    mesh.changed.set()
    await mesh.until(lambda: mesh.backends() == ["10.2.0.9"], 10)


def test_of_claims_on_one_prefix_the_own_clusters_is_the_row_whatever_its_kind() -> None:
    db = AgentDB(NORTH, ClusterId(1), "n1", "172.18.0.2")
    writer = PrefixWriter(db)
    pod = Prefix("10.1.0.9/32", 1 << 16 | 9, "", NORTH, ClusterId(1), ClaimOrigin.POD, host="172.18.0.3")
    theirs = Prefix("10.2.0.9/32", 2 << 16 | 9, "", SOUTH, ClusterId(2), ClaimOrigin.POD, host="172.18.0.5")
    with db.write():
        writer.set_node(Node(SOUTH, ClusterId(2), "s1", (NodeAddress("InternalIP", "10.1.0.9"),), ()))
        writer.set_pod(pod)
        writer.set_pod(theirs)
        writer.set_policy_prefixes({"10.2.0.9/32": (1 << 24) + 1})
    found = [db.prefixes.get(prefix) for prefix in ("10.1.0.9/32", "10.2.0.9/32")]
    assert [(row.cluster, row.identity) for row in found if row is not None] == [
        (NORTH, 1 << 16 | 9),
        (SOUTH, 2 << 16 | 9),
    ]


async def test_a_node_event_judges_no_record_it_does_not_touch(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 refused records must not make every node event expensive."""
    south = mesh.stores["south"]
    for number in range(200):
        await south.ip(f"10.5.{number}.1", 2 << 16 | 7, f"172.19.0.{number}")
    ingest = mesh.runner.members[SOUTH].consumer
    await mesh.until(lambda: len(ingest.held) == 200)
    judged: list[str] = []
    real = Ingest._set_ip
    monkeypatch.setattr(Ingest, "_set_ip", lambda s, key, row: judged.append(key) or real(s, key, row))
    await south.node("s2", "172.19.0.7", "10.5.7.0/24")
    await mesh.until(lambda: mesh.db.prefixes.get("10.5.7.1/32") is not None)
    assert judged == ["10.5.7.1"]
    assert len(ingest.held) == 199


async def test_refused_records_that_found_no_room_are_told_again_when_there_is(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer whose nodes come late: more records wait for them than may wait."""
    monkeypatch.setattr(Held.__init__, "__defaults__", (20, 1 << 20))
    mesh = Mesh(tmp_path, clock)
    south = PeerStore("south", 2, clock)
    await south.config()
    await south.beat()
    for number in range(1, 101):
        await south.ip(f"10.2.0.{number}", 2 << 16 | 7, "172.18.0.5")
    await south.canaries()
    async with mesh.running():
        mesh.add(south)
        await mesh.until(lambda: mesh.state().is_ready, 10)
        truncated = mesh.state().truncated["waiting"]
        assert (truncated.total, truncated.first[0][:8]) == (80, "ip/10.2.")
        await south.node()
        await mesh.until(lambda: len(mesh.db.prefixes) >= 20)
        await mesh.until(lambda: mesh.db.prefixes.get("10.2.0.100/32") is not None, 70)
        assert not mesh.state().truncated
        assert mesh.attempts == 1


@pytest.mark.parametrize("order", list(itertools.permutations(("peer", "balancer", "list"))), ids="-".join)
async def test_a_balancers_address_never_takes_what_a_list_lets_a_peer_own(
    mesh: Mesh, clock: ManualClock, order: tuple[str, ...]
) -> None:
    """`status.loadBalancer` is a field that others than Kubernetes may write: a person's list decides, not who was first."""
    follower = AddressFollower(mesh.db, mesh.lb, (BackendRegistry(memory_maps().backends),))
    south, name = mesh.stores["south"], ServiceName("tenant", "b")

    async def step(what: str) -> None:
        await asyncio.gather(south.beat(), mesh.stores["north"].beat())
        match what:
            case "peer":
                await south.node("s2", "172.18.0.6", "10.9.0.0/24")
                await south.ip("10.9.0.7", 2 << 16 | 7, "172.18.0.6")
                await south.service("10.2.0.9", "10.9.0.7")
            case "balancer":
                with mesh.db.write():
                    mesh.lb.set_service(
                        Service(name, (Address("10.9.0.7", "LoadBalancer"),), (ServicePort("", 80, "TCP"),))
                    )
            case _:
                (mesh.directory / "south").write_bytes(FILE % b"south" + b"networks: [10.2.0.0/16, 10.9.0.0/16]\n")
                mesh.changed.set()
        await mesh.pass_s(5, 0.05)
        follower.step()

    for what in order:
        await step(what)

    def is_the_peers() -> bool:
        follower.step()
        network, pod = mesh.db.prefixes.get("10.9.0.0/24"), mesh.db.prefixes.get("10.9.0.7/32")
        return {row and row.cluster for row in (network, pod)} == {SOUTH}

    await mesh.until(lambda: is_the_peers() and mesh.backends() == ["10.2.0.9", "10.9.0.7"], 65)
    assert mesh.db.frontends.get(FrontendKey("10.9.0.7", 80, "TCP")) is None
    assert mesh.db.backends.get((name, SOUTH)) is None


@pytest.mark.runbook("peer-node-taken")
async def test_a_node_at_the_address_of_our_balancer_is_named_with_the_service_until_it_is_free(
    mesh: Mesh, clock: ManualClock
) -> None:
    """None of its pods is reached: that must not look like any rejected record.

    The Service's owner is not told that the node has the address: it has it for a moment only.
    """
    south, name = mesh.stores["south"], ServiceName("tenant", "b")
    follower = AddressFollower(mesh.db, mesh.lb, (BackendRegistry(memory_maps().backends),))
    events = ServiceEvents(mesh.db, KubeClient.__new__(KubeClient), clock)
    await south.node("s2", "172.18.0.6", "10.9.0.0/24")
    await mesh.until(lambda: mesh.db.nodes.get((SOUTH, "s2")) is not None)
    assert refused_networks(mesh.runner) == ""
    service = Service(name, (Address("172.18.0.6", "LoadBalancer"),), (ServicePort("", 80, "TCP"),))
    with mesh.db.write():
        mesh.lb.set_service(service)
    assert mesh.db.service_problems.get(name) is not None
    assert not events.take()
    await mesh.until(lambda: mesh.db.nodes.get((SOUTH, "s2")) is None)
    follower.step()
    assert not events.take() + events.take()
    assert mesh.db.service_problems.get(name) is None
    assert mesh.db.frontends.get(FrontendKey("172.18.0.6", 80, "TCP")) is not None
    why = "InternalIP 172.18.0.6 belongs to cluster north (load balancer of Service tenant/b)"
    said = f"announces nodes at addresses that others have, and their pods are not reached: node s2: {why}"
    assert refused_networks(mesh.runner) == f"south {said}"
    assert [row.warnings for row in peer_rows(mesh.runner, clock) if row.name == SOUTH] == [[said]]
    assert f"networks of peers: south {said}" in mesh_problems(mesh.runner, mesh.db, clock)
    with mesh.db.write():
        mesh.lb.delete_service(name)
    await mesh.until(lambda: mesh.db.nodes.get((SOUTH, "s2")) is not None, 65)
    assert refused_networks(mesh.runner) == ""


@pytest.mark.parametrize(("count", "more"), [(1, 0), (3, 0), (4, 1), (9, 6)])
def test_of_many_nodes_at_addresses_of_others_three_are_named(count: int, more: int) -> None:
    taken = ClaimRefusal("InternalIP 1.2.3.4/32 belongs to cluster north (1.2.3.4/32)", block_of("1.2.3.4"))
    (said,) = refused_of_nodes(SOUTH, {f"s{n}": (taken,) for n in range(count)})
    assert said.count("belongs to") == min(count, 3)
    assert said.endswith(f"; and {more} more") == bool(more)
