# SPDX-License-Identifier: Apache-2.0
"""Pods on real veths: found without their help, heard of when they change, and attached again when they lose programs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.bootstrap import Facts
from agent.core import Core, open_core
from agent.datapath import netlink
from agent.datapath.config import AttachMode
from agent.datapath.layout import AddressKey, Direction, EndpointFlag
from agent.datapath.pod_interfaces import EndpointInterface, LinkSighting, sight
from agent.datapath.rtnetlink import ChangeSocket, LinkChanges
from agent.endpoints.feature import EndpointsFeature
from agent.ipcache.writer import PrefixWriter
from agent.machine import KernelHost
from agent.node_agent import NodeAgent
from agent.policy.feature import PolicyFeature
from agent.settings import AgentSettings
from agent.tables import ClaimOrigin, Identity, Prefix
from meshkit.clock import SystemClock
from meshmodel.identity import UNKNOWN, Reserved
from meshmodel.labels import pod_labels
from meshmodel.names import ClusterId, ClusterName
from meshpolicy import PolicyKind, PolicyRef
from tests.packet.datapath_host import bpffs, build_objects, inside, namespace, run
from tests.support.leftovers import own_name
from tests.support.policy_neighbours import neighbours

pytestmark = pytest.mark.root
NORTH, NORTH_ID = ClusterName("north"), ClusterId(1)
POD, IDENTITY, SILENT_MAC, GATEWAY_MAC = "10.1.0.5", 65_537, "02:00:00:00:00:05", "02:00:00:00:00:01"
OTHER_MAC = "02:00:00:00:00:77"
IN_PORT = EndpointFlag.ENFORCE_INGRESS | EndpointFlag.BRIDGE_PORT
DENY = {
    "kind": "NetworkPolicy",
    "metadata": {"name": "deny", "namespace": "d"},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
}


@pytest.fixture
def node() -> Iterator[str]:
    """A node's namespace with a namespace for a pod beside it; the test runs in the node's."""
    name = own_name("links")
    with namespace(name), namespace(f"{name}-pod"), inside(name):
        yield name


def plug(node: str, ifindex: int = 0, name: str = "lxc1", address: str = POD, mac: str = SILENT_MAC) -> int:
    """A veth to the pod, which answers no ARP, and the route to its address; returns the node-side interface."""
    number = ("index", str(ifindex)) if ifindex else ()
    peer = ("peer", "name", "eth0", "netns", f"{node}-pod", "address", mac)
    run("ip", "link", "add", name, *number, "mtu", "1450", "type", "veth", *peer)
    run("ip", "-n", f"{node}-pod", "link", "set", "eth0", "arp", "off", "up")
    run("ip", "link", "set", name, "up")
    run("ip", "route", "add", f"{address}/32", "dev", name)
    found = netlink.device(name)
    assert found is not None
    return found.ifindex


def test_a_pod_that_answers_no_arp_is_found_with_its_mac(node: str) -> None:
    ifindex = plug(node)
    found = sight([(POD, 0), ("10.1.0.6", 0), ("10.1.0.6", ifindex), ("10.1.0.6", 99_999), ("127.0.0.1", 0)])
    assert isinstance(found[0].interface, EndpointInterface)
    assert (found[0].interface.ifindex, found[0].interface.mac) == (ifindex, SILENT_MAC)
    assert [s.interface for s in found[1:]] == [None] * 4
    assert [s.is_there for s in found[1:]] == [False, True, False, False]
    assert not any(s.error for s in found)


def test_a_route_through_a_gateway_or_over_something_else_is_no_endpoint(node: str) -> None:
    plug(node)
    run("ip", "address", "add", "10.1.1.1/24", "dev", "lxc1")
    run("ip", "route", "add", "10.9.0.0/16", "via", "10.1.1.2")
    run("ip", "link", "add", "br0", "type", "bridge")
    run("ip", "link", "set", "br0", "up")
    run("ip", "route", "add", "10.8.0.1/32", "dev", "br0")
    assert [s.interface for s in sight([("10.9.0.1", 0), ("10.8.0.1", 0), ("10.1.1.1", 0)])] == [None, None, None]


def test_a_veth_that_a_network_is_behind_is_no_pods_interface(node: str) -> None:
    """As the uplink of a node that is a container, whose neighbours are on the network that a record names a pod in."""
    uplink = plug(node, name="uplink0", address="10.6.0.1")
    run("ip", "address", "add", "172.18.0.7/24", "dev", "uplink0")
    run("ip", "route", "add", "10.7.0.0/16", "dev", "uplink0")
    asked = ["172.18.0.2", "10.7.0.1", "10.6.0.1"]
    found = sight([(address, 0) for address in asked])
    assert [s.interface.ifindex if s.interface else 0 for s in found] == [0, 0, uplink]
    run("ip", "route", "add", "default", "dev", "uplink0")
    assert sight([("10.66.0.1", 0)]) == [LinkSighting()]


@pytest.fixture
def bridged(node: str) -> str:
    """The node has a bridge that is its pods' gateway."""
    run("ip", "link", "add", "cni0", "address", GATEWAY_MAC, "type", "bridge")
    run("ip", "address", "add", "10.1.0.1/24", "dev", "cni0")
    run("ip", "link", "set", "cni0", "up")
    return node


def plug_port(node: str, name: str = "lxc1", ifindex: int = 0, address: str = POD) -> int:
    """A port of the bridge to the pod, which answers no ARP; its address is set last. Returns the port."""
    number = ("index", str(ifindex)) if ifindex else ()
    peer = ("peer", "name", f"p{name}", "netns", f"{node}-pod", "address", SILENT_MAC)
    run("ip", "link", "add", name, *number, "type", "veth", *peer)
    run("ip", "link", "set", name, "master", "cni0", "up")
    run("ip", "-n", f"{node}-pod", "link", "set", f"p{name}", "arp", "off", "up")
    if address:
        run("ip", "-n", f"{node}-pod", "address", "add", f"{address}/24", "dev", f"p{name}")
    return port(name)


def port(name: str) -> int:
    found = netlink.device(name)
    assert found is not None
    return found.ifindex


def test_a_silent_pod_behind_a_bridge_is_found_on_its_port(bridged: str) -> None:
    first = plug_port(bridged)
    run("ip", "link", "add", "other", "type", "vxlan", "id", "9", "dstport", "4789")
    run("ip", "link", "set", "other", "master", "cni0", "up")
    bridge = port("cni0")
    found = sight([(POD, 0), ("10.1.0.6", 0), ("10.1.0.6", first), ("10.1.0.1", 0)])
    assert found[0] == LinkSighting(EndpointInterface(first, SILENT_MAC, GATEWAY_MAC, bridge), bridge=bridge)
    assert found[1] == LinkSighting(bridge=bridge)
    assert found[2] == LinkSighting(is_there=True, bridge=bridge)
    assert found[3] == LinkSighting()


def test_an_address_on_two_ports_is_where_it_was_known_else_where_it_is_the_first_one(bridged: str) -> None:
    other = plug_port(bridged, "lxc1", address="10.1.0.6")
    run("ip", "-n", f"{bridged}-pod", "address", "add", f"{POD}/24", "dev", "plxc1")
    assert [s.interface.ifindex for s in sight([(POD, 0)]) if s.interface] == [other], "two addresses of a pod"
    own = plug_port(bridged, "lxc2")
    found = sight([(POD, 0), (POD, own), (POD, other), (POD, 99_999)])
    assert [s.interface.ifindex for s in found if s.interface] == [own, own, other, own]


def test_a_bridges_tables_are_believed_only_of_a_port_whose_other_end_has_no_address(bridged: str) -> None:
    """A machine in the pod's namespace may have the address."""
    own = plug_port(bridged, address="")
    run("ip", "neigh", "add", POD, "lladdr", "02:00:00:00:00:77", "dev", "cni0")
    run("bridge", "fdb", "add", "02:00:00:00:00:77", "dev", "lxc1", "master", "static")
    found = sight([(POD, 0)])[0].interface
    assert found == EndpointInterface(own, "02:00:00:00:00:77", GATEWAY_MAC, port("cni0"))
    run("ip", "-n", f"{bridged}-pod", "address", "add", "10.1.0.6/24", "dev", "plxc1")
    assert sight([(POD, 0)])[0].interface is None


def test_changes_of_a_bridges_ports_name_the_bridge(bridged: str) -> None:
    heard = ChangeSocket()
    try:
        own, bridge = plug_port(bridged), port("cni0")
        assert bridge in heard.drain().bridges
        run("ip", "link", "set", "lxc1", "nomaster")
        changes = heard.drain()
        assert (own in changes.links, bridge in changes.bridges) == (True, True)
    finally:
        heard.close()


def test_interfaces_and_routes_that_come_and_go_are_heard_of(node: str) -> None:
    heard = ChangeSocket()
    try:
        ifindex = plug(node)
        changes = heard.drain()
        assert ifindex in changes.links
        assert f"{POD}/32" in changes.routes
        run("ip", "route", "del", f"{POD}/32")
        assert heard.drain().routes == {f"{POD}/32"}
        run("ip", "link", "del", "lxc1")
        assert ifindex in heard.drain().gone
        assert heard.drain() == LinkChanges()
    finally:
        heard.close()


@dataclass
class World:
    """An agent's endpoints and policies on a real node."""

    core: Core
    policy: PolicyFeature
    host: KernelHost

    def pod(self, address: str = POD) -> None:
        with self.core.db.write():
            self.core.db.identities.put(Identity(IDENTITY, NORTH, pod_labels({"app": "p"}, "d", {}, "d", NORTH)))
            self.prefixes.set_pod(
                Prefix(f"{address}/32", IDENTITY, "", NORTH, NORTH_ID, ClaimOrigin.POD, "127.0.0.1", "d", "p")
            )

    def lose_pod(self, address: str = POD) -> None:
        with self.core.db.write():
            self.prefixes.delete_pod(NORTH, f"{address}/32")

    prefixes: PrefixWriter

    def enforced(self) -> dict[str, int]:
        """Interfaces by address of pods whose ingress is enforced and whose interface runs our programs."""
        values = [value for _, value in self.core.maps.endpoints_by_address.items()]
        lost = self.host.unattached([value.ifindex for value in values])
        kept = [v for v in values if v.flags & EndpointFlag.ENFORCE_INGRESS and v.ifindex not in lost]
        return {value.address: value.ifindex for value in kept}

    async def until(self, expected: dict[str, int], within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while (found := self.enforced()) != expected:
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.01)

    async def until_forgotten(self, within_s: float) -> None:
        """Nothing of any pod is left in the maps."""
        deadline = time.monotonic() + within_s
        while left := [*self.core.maps.endpoints_by_address.items(), *self.core.maps.policy.items()]:
            assert time.monotonic() < deadline, left
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(pins: Path, mode: AttachMode) -> AsyncIterator[World]:
    settings = AgentSettings(
        pin_directory=pins, mtu=1450, attach_mode=mode.value, node_ip="127.0.0.1", kubeconfig="none", local_etcd="none"
    )
    facts = Facts(NORTH, NORTH_ID, 255, "n1", "127.0.0.1")
    host = KernelHost(settings, facts)
    host.datapath.open()  # in this thread, which is in the node's namespace
    core = await open_core(settings, facts, None, host, SystemClock())
    prefixes = PrefixWriter(core.db)
    policy = PolicyFeature(core, neighbours(core.db, prefixes))
    policy.compiler.set_document(DENY, PolicyRef(PolicyKind.KUBERNETES, "d", "deny"))
    agent = NodeAgent(core, (policy, EndpointsFeature(core)))

    async def serve() -> None:
        await asyncio.get_running_loop().create_future()

    task = asyncio.ensure_future(agent.run(serve))
    try:
        yield World(core, policy, host, prefixes)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        host.datapath.close()
        host.lock.release()


@pytest.fixture
def pins(node: str, tmp_path: Path) -> Iterator[Path]:
    build_objects()
    with bpffs(tmp_path / "bpf") as directory:
        yield directory / "node"


@pytest.mark.parametrize("mode", [AttachMode.TCX, AttachMode.CLSACT])
async def test_a_silent_pod_is_enforced_and_stays_so_through_all_that_can_happen(
    node: str, pins: Path, mode: AttachMode
) -> None:
    async with running(pins, mode) as world:
        world.pod()
        await asyncio.sleep(0)
        first = plug(node)
        await world.until({POD: first}, 2.0)

        run("ip", "route", "del", f"{POD}/32")  # the route is away for a moment
        run("ip", "route", "add", f"{POD}/32", "dev", "lxc1")
        await world.until({POD: first}, 2.0)

        if mode is AttachMode.TCX:  # somebody takes a program off
            run("bpftool", "link", "detach", "pinned", str(pins / "links" / f"pod_{first}_ingress"))
        else:
            run("tc", "qdisc", "del", "dev", "lxc1", "clsact")
        assert world.enforced() == {}
        await world.until({POD: first}, 1.0)

        run("ip", "link", "del", "lxc1")  # made anew with the same number
        assert plug(node, first) == first
        await world.until({POD: first}, 1.0)

        world.lose_pod()  # the store loses the pod
        await asyncio.sleep(1.0)
        assert world.enforced() == {POD: first}
        kept = world.core.maps.endpoints_by_address.get(AddressKey(POD))
        assert kept is not None
        assert (kept.flags, kept.identity) == (EndpointFlag.ENFORCE_INGRESS, IDENTITY), "judged as before"

        run("ip", "link", "del", "lxc1")
        await world.until_forgotten(1.0)
        world.host.datapath.uninstall()


@pytest.mark.parametrize("number", ["another number", "the same number"])
async def test_an_address_that_another_pod_got_while_no_agent_ran_keeps_no_right_of_the_old_one(
    node: str, pins: Path, number: str
) -> None:
    """The maps and policies of the earlier agent are the old pod's; the new one is closed until a record says whose it is."""
    async with running(pins, AttachMode.TCX) as world:
        world.pod()
        first = plug(node)
        await world.until({POD: first}, 2.0)
    run("ip", "link", "del", "lxc1")
    second = plug(node, first if number == "the same number" else 0, "lxc2", mac=OTHER_MAC)
    async with running(pins, AttachMode.TCX) as world:
        await world.until({POD: second}, 2.0)

        def identity() -> int:
            found = world.core.maps.endpoints_by_address.get(AddressKey(POD))
            assert found is not None
            return found.identity

        deadline = time.monotonic() + 2.0
        while identity() != UNKNOWN:
            assert time.monotonic() < deadline, identity()
            await asyncio.sleep(0.01)
        flags = world.core.maps.endpoints_by_address.get(AddressKey(POD))
        assert flags is not None
        assert flags.flags == EndpointFlag.ENFORCE_INGRESS | EndpointFlag.ENFORCE_EGRESS
        rules = {(key.direction, key.identity) for key, _ in world.core.maps.policy.items()}
        assert rules <= {(Direction.INGRESS, int(Reserved.HOST))}, "nobody but the node is let in, and nothing out"
        world.pod()
        while identity() != IDENTITY:
            assert time.monotonic() < deadline + 2.0, identity()
            await asyncio.sleep(0.01)
        run("ip", "link", "del", "lxc2")
        await world.until_forgotten(1.0)
        world.host.datapath.uninstall()


async def test_a_pod_on_a_port_is_enforced_through_all_that_can_happen(bridged: str, pins: Path) -> None:
    async with running(pins, AttachMode.TCX) as world:
        world.pod()
        await asyncio.sleep(0)
        first = plug_port(bridged)
        await world.until({POD: first}, 2.0)
        kept = world.core.maps.endpoints_by_address.get(AddressKey(POD))
        assert kept is not None
        assert (kept.flags, kept.mac, kept.node_mac) == (IN_PORT, SILENT_MAC, GATEWAY_MAC)

        run("ip", "link", "set", "lxc1", "down")
        run("ip", "link", "set", "lxc1", "name", "veth7", "up")  # renamed
        run("ip", "link", "del", "veth7")  # made anew with the same number
        assert plug_port(bridged, "lxc1", first) == first
        await world.until({POD: first}, 1.0)

        moved = plug_port(bridged, "lxc2", address="")  # the address moves to another port
        run("ip", "-n", f"{bridged}-pod", "address", "del", f"{POD}/24", "dev", "plxc1")
        run("ip", "-n", f"{bridged}-pod", "address", "add", f"{POD}/24", "dev", "plxc2")
        run("ip", "link", "set", "lxc1", "alias", "left")
        await world.until({POD: moved}, 1.0)

        run("ip", "link", "set", "lxc2", "nomaster")  # it is on no bridge for a moment
        await asyncio.sleep(0.5)
        assert world.enforced() == {POD: moved}
        run("ip", "link", "set", "lxc2", "master", "cni0")
        await world.until({POD: moved}, 1.0)

        world.lose_pod()
        run("ip", "link", "del", "lxc2")
        await world.until_forgotten(1.0)
        world.host.datapath.uninstall()


async def test_a_renamed_veth_keeps_its_pod(node: str, pins: Path) -> None:
    async with running(pins, AttachMode.TCX) as world:
        world.pod()
        ifindex = plug(node)
        await world.until({POD: ifindex}, 2.0)
        run("ip", "link", "set", "lxc1", "down")
        run("ip", "link", "set", "lxc1", "name", "renamed", "up")
        run("ip", "route", "replace", f"{POD}/32", "dev", "renamed")
        await asyncio.sleep(0.5)
        assert world.enforced() == {POD: ifindex}
        world.host.datapath.uninstall()


async def test_a_restarted_agent_keeps_a_pod_that_the_store_has_lost(node: str, pins: Path) -> None:
    async with running(pins, AttachMode.TCX) as world:
        world.pod()
        ifindex = plug(node)
        await world.until({POD: ifindex}, 2.0)
    async with running(pins, AttachMode.TCX) as world:
        await asyncio.sleep(1.0)
        assert world.enforced() == {POD: ifindex}
        run("ip", "link", "del", "lxc1")
        await world.until_forgotten(1.0)
        world.host.datapath.uninstall()
