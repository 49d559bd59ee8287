# SPDX-License-Identifier: Apache-2.0
"""Host policies with real stacks: what a node only passes on, also under its own address, goes on while the node is closed."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from agent.datapath.flow_layout import EventType, HeartbeatKey, HeartbeatValue
from agent.datapath.layout import Direction, EndpointFlag, EndpointValue, IfindexKey, PolicyKey, PolicyValue
from agent.datapath.loader import Datapath
from agent.datapath.reasons import Reason
from tests.integration.datapath.datapath_topology import TCP_PORT, Node, Topology, drain_events
from tests.packet.datapath_host import inside, run
from tests.packet.packet_bytes import UDP, Packet

pytestmark = pytest.mark.root
PORT, NODE_PORT, TCP = 9000, 30080, 6
NODES = 6
BOTH = EndpointFlag.ENFORCE_INGRESS | EndpointFlag.ENFORCE_EGRESS
SERVICE = "172.30.0.9"
NOBODY = "00:00:00:00:00:00"
HOST = EndpointValue(0, 0, BOTH, 1, 1, NOBODY, NOBODY, "0.0.0.0")


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
    node.maps.node.update([(IfindexKey(0), HOST)])
    yield node
    node.maps.node.delete([IfindexKey(0)])


def allow(node: Node, direction: Direction, port: int, identity: int = 0, protocol: int = TCP) -> None:
    node.maps.policy.update([(PolicyKey(0, direction, identity, protocol, port, 16), PolicyValue(False, 1))])


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


@contextmanager
def service_of_the_node(clean: Topology, closed: Node, protocol: str) -> Iterator[None]:
    """The stack of the closed node leads SERVICE:80 to PORT of the node, as kube-proxy does."""
    client, elsewhere = clean.nodes[2].namespace, clean.nodes[1].address
    run("ip", "-n", client, "route", "add", SERVICE, "via", closed.address)
    run("ip", "-n", closed.namespace, "route", "add", SERVICE, "via", elsewhere)
    try:
        with translation(
            closed, f"add rule ip host in ip daddr {SERVICE} {protocol} dport 80 dnat to {closed.address}:{PORT}"
        ):
            yield
    finally:
        run("ip", "-n", client, "route", "del", SERVICE)
        run("ip", "-n", closed.namespace, "route", "del", SERVICE)


@pytest.mark.parametrize("who", ["own pod", "outside"])
def test_the_address_of_a_service_does_not_lead_past_the_policies_to_a_process_of_the_node(
    clean: Topology, closed: Node, who: str
) -> None:
    asker = closed.pods[0].namespace if who == "own pod" else clean.nodes[2].namespace
    with serving(closed), service_of_the_node(clean, closed, "tcp"):
        assert not reaches(asker, SERVICE, 80)
        allow(closed, Direction.INGRESS, 80)
        assert not reaches(asker, SERVICE, 80)
        allow(closed, Direction.INGRESS, PORT, closed.pods[0].identity if who == "own pod" else NODES)
        assert reaches(asker, SERVICE, 80)


def tell(namespace: str, kind: int, protocol: int, address: str, port: int, word: bytes) -> socket.socket:
    with inside(namespace):
        made = socket.socket(socket.AF_INET, kind, protocol)
    made.settimeout(0.5)
    made.sendto(word, (address, port))
    return made


@pytest.mark.parametrize("who", ["own pod", "outside"])
def test_a_datagram_that_the_stack_leads_to_a_process_of_the_node_is_judged_as_its_senders(
    clean: Topology, closed: Node, who: str
) -> None:
    """By the port of the process, whichever the service has; the answer comes from the service."""
    pod = closed.pods[0]
    asker, identity, other = (
        (pod.namespace, pod.identity, NODES) if who == "own pod" else (clean.nodes[2].namespace, NODES, pod.identity)
    )
    with inside(closed.namespace):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("", PORT))
    server.settimeout(0.5)
    with server, service_of_the_node(clean, closed, "udp"):
        allow(closed, Direction.INGRESS, 80, protocol=UDP)
        allow(closed, Direction.INGRESS, PORT, other, UDP)
        with tell(asker, socket.SOCK_DGRAM, 0, SERVICE, 80, b"denied"), pytest.raises(TimeoutError):
            server.recv(64)
        allow(closed, Direction.INGRESS, PORT, identity, UDP)
        with tell(asker, socket.SOCK_DGRAM, 0, SERVICE, 80, b"allowed") as client:
            word, sender = server.recvfrom(64)
            assert word == b"allowed"
            server.sendto(b"answer", sender)
            assert client.recvfrom(64) == (b"answer", (SERVICE, 80))
        with tell(closed.namespace, socket.SOCK_DGRAM, 0, closed.address, PORT, b"loopback"):
            assert server.recv(64) == b"loopback"
        closed.maps.policy.delete([PolicyKey(0, Direction.INGRESS, identity, UDP, PORT, 16)])
        closed.maps.node.update([(IfindexKey(0), HOST._replace(policy_revision=2))])
        with tell(asker, socket.SOCK_DGRAM, 0, SERVICE, 80, b"denied"), pytest.raises(TimeoutError):
            server.recv(64)


def test_a_pod_whose_node_has_no_agent_any_more_reaches_what_may_be_the_api_server_and_who_is_outside_does_not(
    clean: Topology, closed: Node
) -> None:
    attended = Datapath(replace(closed.config, unattended_after_s=20))
    with inside(closed.namespace):
        attended.open()
    try:
        with serving(closed), service_of_the_node(clean, closed, "tcp"):
            assert not reaches(closed.pods[0].namespace, SERVICE, 80)
            beaten_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - 60 * 10**9
            closed.maps.heartbeat.update([(HeartbeatKey(), HeartbeatValue(beaten_ns))])
            assert reaches(closed.pods[0].namespace, SERVICE, 80)
            assert not reaches(clean.nodes[2].namespace, SERVICE, 80)
    finally:
        closed.maps.heartbeat.delete([HeartbeatKey()])
        attended.close()
        with inside(closed.namespace):
            closed.datapath.adapt()


def test_ipv6_that_the_stack_leads_to_a_process_of_the_node_is_dropped(clean: Topology, closed: Node) -> None:
    client, service = clean.nodes[2], "fd00:52::9"
    with inside(closed.namespace):
        server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        run("sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=1")
        nft = (
            "add table ip6 host; add chain ip6 host in { type nat hook prerouting priority dstnat; }; "
            f"add rule ip6 host in ip6 daddr {service} udp dport 80 dnat to [fd00:50::1]:{PORT}"
        )
        run("nft", nft)
    server.bind(("::", PORT))
    server.settimeout(1)
    run("ip", "-n", closed.namespace, "addr", "add", "fd00:50::1/64", "dev", "eth0", "nodad")
    run("ip", "-n", client.namespace, "addr", "add", "fd00:50::2/64", "dev", "eth0", "nodad")
    run("ip", "-n", client.namespace, "route", "add", service, "via", "fd00:50::1")
    run("ip", "-n", closed.namespace, "route", "add", service, "via", "fd00:50::2")
    with inside(client.namespace):
        asker = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    try:
        with server, asker:
            drain_events(closed)
            asker.sendto(b"denied", (service, 80))
            with pytest.raises(TimeoutError):
                server.recv(64)
            (dropped,) = [e for e in drain_events(closed) if e.type == EventType.DROP and e.destination == "fd00:50::1"]
            assert dropped.reason == Reason.UNSUPPORTED_L3
            closed.maps.node.delete([IfindexKey(0)])
            asker.sendto(b"open", (service, 80))
            assert server.recv(64) == b"open"
    finally:
        run("ip", "netns", "exec", closed.namespace, "nft", "delete table ip6 host")
        for node in (closed, client):
            run("ip", "-n", node.namespace, "-6", "addr", "flush", "dev", "eth0", "scope", "global")
            run("ip", "-n", node.namespace, "-6", "route", "flush", service)


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
    with serving(closed), service_of_the_node(clean, closed, "tcp"):
        assert not reaches(sibling.namespace, closed.address, PORT)
        with inside(closed.namespace):
            closed.datapath.adapt()
        assert not reaches(sibling.namespace, closed.address, PORT)
        assert not reaches(closed.pods[0].namespace, SERVICE, 80)
        closed.maps.node.delete([IfindexKey(0)])
        assert reaches(sibling.namespace, closed.address, PORT)
