# SPDX-License-Identifier: Apache-2.0
"""Host policies with real stacks: what a node only passes on, also under its own address, goes on while the node is closed."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agent.datapath.layout import Direction, EndpointFlag, EndpointValue, IfindexKey, PolicyKey, PolicyValue
from tests.integration.datapath.datapath_topology import TCP_PORT, Node, Topology
from tests.packet.datapath_host import inside, run
from tests.packet.packet_bytes import UDP, Packet

pytestmark = pytest.mark.root
PORT, NODE_PORT, TCP = 9000, 30080, 6
NODES = 6
BOTH = EndpointFlag.ENFORCE_INGRESS | EndpointFlag.ENFORCE_EGRESS
SERVICE = "172.30.0.9"
NOBODY = "00:00:00:00:00:00"


@contextmanager
def serving(node: Node) -> Iterator[socket.socket]:
    """A process of the node listens on PORT."""
    with inside(node.namespace):
        made = socket.create_server(("", PORT))
    made.settimeout(2)
    with made:
        yield made


def reaches(namespace: str, address: str, port: int) -> bool:
    """Whether a process of the namespace gets a connection; what is denied times out."""
    try:
        with inside(namespace), socket.create_connection((address, port), 0.5):
            return True
    except TimeoutError:
        return False


@contextmanager
def translation(node: Node, rules: str) -> Iterator[None]:
    chains = (
        "add table ip host; add chain ip host out { type nat hook postrouting priority srcnat; }; "
        "add chain ip host in { type nat hook prerouting priority dstnat; }; "
    )
    run("ip", "netns", "exec", node.namespace, "nft", chains + rules)
    try:
        yield
    finally:
        run("ip", "netns", "exec", node.namespace, "nft", "delete table ip host")


@pytest.fixture
def closed(clean: Topology) -> Iterator[Node]:
    """The first node, whose host policies allow nothing."""
    node = clean.nodes[0]
    value = EndpointValue(0, 0, BOTH, 1, 1, NOBODY, NOBODY, "0.0.0.0")
    node.maps.node.update([(IfindexKey(0), value)])
    yield node
    node.maps.node.delete([IfindexKey(0)])


def allow(node: Node, direction: Direction, port: int, identity: int = 0) -> None:
    node.maps.policy.update([(PolicyKey(0, direction, identity, TCP, port, 16), PolicyValue(False, 1))])


def test_a_closed_node_is_reached_by_nobody_and_reaches_nobody_but_what_is_allowed(
    clean: Topology, closed: Node
) -> None:
    sibling, own = clean.nodes[1], closed.pods[0]
    with serving(closed), serving(sibling):
        assert not reaches(sibling.namespace, closed.address, PORT)
        assert not reaches(closed.namespace, sibling.address, PORT)
        assert not reaches(own.namespace, closed.address, PORT)
        assert reaches(closed.namespace, closed.address, PORT)  # loopback
        allow(closed, Direction.INGRESS, PORT, NODES)
        assert reaches(sibling.namespace, closed.address, PORT)
        assert not reaches(own.namespace, closed.address, PORT)
        allow(closed, Direction.INGRESS, PORT, own.identity)
        assert reaches(own.namespace, closed.address, PORT)
        allow(closed, Direction.EGRESS, PORT, NODES)
        assert reaches(closed.namespace, sibling.address, PORT)


def test_pods_of_a_closed_node_talk_to_pods_and_are_probed_by_their_node(clean: Topology, closed: Node) -> None:
    here, there = closed.pods[0], clean.nodes[2].pods[0]
    assert here.ask(there.address, TCP_PORT).split() == [there.name, here.address]
    assert there.ask(here.address, TCP_PORT).split() == [here.name, there.address]
    assert here.ask(closed.pods[1].address, TCP_PORT).split()[0] == closed.pods[1].name
    assert reaches(closed.namespace, here.address, TCP_PORT)


def test_a_pod_goes_out_under_the_address_of_its_closed_node_and_gets_its_answers(
    clean: Topology, closed: Node
) -> None:
    sibling = clean.nodes[1]
    with serving(sibling) as server, translation(closed, f"add rule ip host out ip daddr {sibling.address} masquerade"):
        assert reaches(closed.pods[0].namespace, sibling.address, PORT)
        connection, (address, _) = server.accept()
        connection.close()
        assert address == closed.address
        assert not reaches(closed.namespace, sibling.address, PORT)


@pytest.mark.parametrize("where", ["own pod", "a pod of the sibling"])
def test_a_node_port_is_judged_where_it_comes_in_and_goes_on_wherever_it_leads(
    clean: Topology, closed: Node, where: str
) -> None:
    pod = closed.pods[0] if where == "own pod" else clean.nodes[1].pods[0]
    rules = (
        f"add rule ip host in tcp dport {NODE_PORT} dnat to {pod.address}:{TCP_PORT}; "
        f"add rule ip host out tcp dport {TCP_PORT} masquerade"
    )
    client = clean.nodes[2]
    with translation(closed, rules):
        assert not reaches(client.namespace, closed.address, NODE_PORT)
        allow(closed, Direction.INGRESS, NODE_PORT)
        assert reaches(client.namespace, closed.address, NODE_PORT)


@pytest.mark.parametrize("who", ["own pod", "outside"])
def test_the_address_of_a_service_does_not_lead_past_the_policies_to_a_process_of_the_node(
    clean: Topology, closed: Node, who: str
) -> None:
    client, elsewhere = clean.nodes[2].namespace, clean.nodes[1].address
    asker = closed.pods[0].namespace if who == "own pod" else client
    rules = f"add rule ip host in ip daddr {SERVICE} tcp dport 80 dnat to {closed.address}:{PORT}"
    closed.maps.policy.update([(PolicyKey(0, Direction.EGRESS, 0, 0, 0, 0), PolicyValue(False, 1))])
    run("ip", "-n", client, "route", "add", SERVICE, "via", closed.address)
    run("ip", "-n", closed.namespace, "route", "add", SERVICE, "via", elsewhere)
    try:
        with serving(closed), translation(closed, rules):
            assert not reaches(asker, SERVICE, 80)
            allow(closed, Direction.INGRESS, 80)
            assert reaches(asker, SERVICE, 80)
    finally:
        run("ip", "-n", client, "route", "del", SERVICE)
        run("ip", "-n", closed.namespace, "route", "del", SERVICE)


@pytest.mark.parametrize("tags", ["", "81000000", "8100000081000000", "88a8000081000000", "810000008100000081000000"])
def test_tags_of_vlan_0_do_not_lead_past_the_programs(clean: Topology, closed: Node, tags: str) -> None:
    client = clean.nodes[2]
    with inside(closed.namespace):
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("", PORT))
        made.settimeout(0.5)
    packet = Packet(client.address, closed.address, UDP, 40000, PORT).frame()[12:]
    with made, inside(client.namespace), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
        link.bind(("eth0", 0))
        link.send(b"\xff" * 6 + link.getsockname()[4] + bytes.fromhex(tags) + packet)
        with pytest.raises(TimeoutError):
            made.recv(64)
        closed.maps.node.delete([IfindexKey(0)])
        link.send(b"\xff" * 6 + link.getsockname()[4] + bytes.fromhex(tags) + packet)
        assert made.recv(64)


def test_programs_that_are_loaded_anew_go_on_judging(clean: Topology, closed: Node) -> None:
    sibling = clean.nodes[1]
    with serving(closed):
        assert not reaches(sibling.namespace, closed.address, PORT)
        with inside(closed.namespace):
            closed.datapath.adapt()
        assert not reaches(sibling.namespace, closed.address, PORT)
        closed.maps.node.delete([IfindexKey(0)])
        assert reaches(sibling.namespace, closed.address, PORT)
