# SPDX-License-Identifier: Apache-2.0
"""Forged packets on a real underlay: from a stranger beside the nodes, from a node's processes, and through its NAT."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from agent.datapath.flow_layout import DatapathEvent, EventType
from agent.datapath.layout import Direction, EndpointFlag, PolicyKey, PolicyValue
from agent.datapath.reasons import Reason
from tests.integration.datapath.datapath_topology import TCP_PORT, UDP_PORT, Node, Topology, drain_events, exchange
from tests.packet.datapath_host import inside, run
from tests.packet.packet_bytes import UDP, Packet

pytestmark = pytest.mark.root
VXLAN_PORT, NODE_PORT = 8472, 30_072


def _vxlan(identity: int, inner: Packet) -> bytes:
    return b"\x08\0\0\0" + identity.to_bytes(3, "big") + b"\0" + inner.frame()


@contextlib.contextmanager
def _translated(node: Node, port: int, action: str, leaving: str = "masquerade") -> Iterator[None]:
    """What kube-proxy does on the node for a UDP node port whose hand-made EndpointSlice says what the action says."""
    rules = (
        "add table ip forged; add chain ip forged in { type nat hook prerouting priority -100; }; "
        "add chain ip forged out { type nat hook postrouting priority 100; }; "
        f"add rule ip forged in udp dport {port} {action}; add rule ip forged out ct status dnat {leaving}"
    )
    run("ip", "netns", "exec", node.namespace, "nft", rules)
    try:
        yield
    finally:
        run("ip", "netns", "exec", node.namespace, "nft", "delete table ip forged")


def _drops(node: Node, reason: Reason) -> list[DatapathEvent]:
    """Drops with this reason, as soon as there is one. Raises: AssertionError when none comes."""
    seen: list[DatapathEvent] = []
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        seen += [e for e in drain_events(node) if e.type == EventType.DROP]
        if found := [e for e in seen if e.reason == reason]:
            return found
    raise AssertionError(f"no drop for {reason.text}: {seen}")


@pytest.fixture
def stranger(clean: Topology) -> Iterator[Topology]:
    """A host on the underlay that sends whatever it likes; reverse path filters of the nodes are off."""
    address = "192.168.50.99/24"
    run("ip", "-n", clean.underlay, "addr", "add", address, "dev", "br0")
    for node in clean.nodes:
        for device in ("all", "eth0"):
            run("ip", "netns", "exec", node.namespace, "sysctl", "-q", "-w", f"net.ipv4.conf.{device}.rp_filter=0")
        drain_events(node)
    try:
        yield clean
    finally:
        run("ip", "-n", clean.underlay, "addr", "del", address, "dev", "br0")


@pytest.fixture
def crossed(clean: Topology) -> Iterator[Topology]:
    """The first two nodes have a second network card without an address of theirs, by which they reach each other."""
    first, second = clean.nodes[:2]
    there = ("type", "veth", "peer", "name", "wan0", "netns", second.namespace)
    run("ip", "-n", first.namespace, "link", "add", "wan0", *there)
    for node, other in ((first, second), (second, first)):
        run("ip", "-n", node.namespace, "link", "set", "wan0", "up")
        run("ip", "-n", node.namespace, "route", "add", other.address, "dev", "wan0", "src", node.address)
        run("ip", "netns", "exec", node.namespace, "sysctl", "-q", "-w", "net.ipv4.conf.wan0.rp_filter=0")
    try:
        yield clean
    finally:
        run("ip", "-n", first.namespace, "link", "del", "wan0")


def _send_raw(mesh: Topology, packet: Packet, towards: Node) -> None:
    """The stranger sends this IP packet to the node's own MAC, whatever its addresses."""
    run("ip", "netns", "exec", mesh.underlay, "ping", "-c", "1", "-W", "1", towards.address)
    with inside(mesh.underlay), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as made:
        made.sendto(packet.ip(), (packet.destination, 0))


@pytest.mark.parametrize("forged", ["cluster", "own pod", "our node", "public"])
def test_a_tunnel_packet_is_believed_only_about_its_nodes_cluster(stranger: Topology, forged: str) -> None:
    """The stranger even uses the address of a node of the other cluster."""
    node, liar = stranger.nodes[0], stranger.nodes[3]
    target, friend = node.pods[0], liar.pods[0]
    source, identity, reason = {
        "cluster": (friend.address, (1 << 16) + 77, Reason.INVALID_CLUSTER_ID),
        "own pod": (node.pods[1].address, friend.identity, Reason.FOREIGN_SOURCE),
        "our node": (node.address, friend.identity, Reason.FOREIGN_SOURCE),
        "public": ("198.51.100.9", friend.identity, Reason.FOREIGN_SOURCE),
    }[forged]
    body = _vxlan(identity, Packet(source, target.address, destination_port=TCP_PORT))
    outer = Packet(liar.address, node.address, UDP, 50_000, VXLAN_PORT, payload=body)
    _send_raw(stranger, outer, node)
    assert {e.source for e in _drops(node, reason)} == {source}


@pytest.mark.parametrize("whose", ["other cluster", "other node", "this node"])
def test_plain_packets_with_a_pods_address_are_not_believed(stranger: Topology, whose: str) -> None:
    node = stranger.nodes[0]
    target = node.pods[0]
    source = {"other cluster": stranger.nodes[3], "other node": stranger.nodes[1], "this node": node}[whose].pods[1]
    run("ip", "-n", stranger.underlay, "route", "replace", target.address, "via", node.address)
    try:
        _send_raw(stranger, Packet(source.address, target.address, UDP, 50_000, UDP_PORT), node)
        assert {e.source for e in _drops(node, Reason.NOT_BY_TUNNEL)} == {source.address}
    finally:
        run("ip", "-n", stranger.underlay, "route", "del", target.address)


def test_a_process_of_the_node_cannot_speak_vxlan_to_a_peer(clean: Topology) -> None:
    node, peer = clean.nodes[3], clean.nodes[0]
    drain_events(node)
    drain_events(peer)
    forged = Packet(node.pods[0].address, peer.pods[0].address, destination_port=TCP_PORT)
    with inside(node.namespace), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        with contextlib.suppress(PermissionError):  # before Linux 6.4 it is not told
            made.sendto(_vxlan(node.pods[0].identity, forged), (peer.address, VXLAN_PORT))
    assert {e.destination for e in _drops(node, Reason.ENCAPSULATION_PROHIBITED)} == {peer.address}
    assert not [e for e in drain_events(peer) if e.source == forged.source]


def test_a_pod_cannot_reach_a_peers_tunnel_port_through_its_nodes_translation(clean: Topology) -> None:
    """What kube-proxy does for a UDP NodePort whose hand-made EndpointSlice names a peer's node and port 8472."""
    node, peer, pod = clean.nodes[0], clean.nodes[2], clean.nodes[0].pods[0]
    with _translated(node, NODE_PORT, f"dnat to {peer.address}:{VXLAN_PORT}"), pod.datagram() as made:
        drain_events(node)
        drain_events(peer)
        inner = Packet(clean.nodes[1].pods[0].address, peer.pods[0].address, destination_port=TCP_PORT)
        made.sendto(_vxlan(clean.nodes[1].pods[0].identity, inner), (node.address, NODE_PORT))
        (drop,) = _drops(node, Reason.ENCAPSULATION_PROHIBITED)
        assert (drop.source, drop.destination) == (node.address, peer.address), "as the node itself"
        assert not [e for e in drain_events(peer) if e.source == inner.source]


def test_a_pod_cannot_speak_vxlan_through_the_translation_of_two_nodes(clean: Topology) -> None:
    """The first node sends it on under its own address to a node port of the second, whose backend is its overlay."""
    first, second, pod = clean.nodes[0], clean.nodes[1], clean.nodes[0].pods[0]
    victim, friend = second.pods[0], first.pods[1]
    with (
        _translated(first, NODE_PORT, f"dnat to {second.address}:{NODE_PORT + 1}"),
        _translated(second, NODE_PORT + 1, f"dnat to {second.address}:{VXLAN_PORT}"),
    ):
        drain_events(second)
        inner = Packet(friend.address, victim.address, UDP, destination_port=UDP_PORT)
        with pod.datagram() as made:
            made.sendto(_vxlan(friend.identity, inner), (first.address, NODE_PORT))
        (drop,) = _drops(second, Reason.ENCAPSULATION_PROHIBITED)
        assert (drop.source, drop.destination) == (friend.address, victim.address), "what it said to be"


def test_a_pod_cannot_speak_vxlan_to_an_address_of_a_node_that_no_record_names(clean: Topology) -> None:
    """The address of its pods' gateway for instance, which other nodes take for no node's and send anything to."""
    first, second, pod = clean.nodes[0], clean.nodes[1], clean.nodes[0].pods[0]
    victim, friend, gateway = second.pods[0], first.pods[1], "10.1.2.1"
    run("ip", "-n", second.namespace, "addr", "add", f"{gateway}/32", "dev", "lo")
    try:
        with _translated(first, NODE_PORT, f"dnat to {gateway}:{VXLAN_PORT}"), pod.datagram() as made:
            drain_events(second)
            inner = Packet(friend.address, victim.address, UDP, destination_port=UDP_PORT)
            made.sendto(_vxlan(friend.identity, inner), (first.address, NODE_PORT))
            (drop,) = _drops(second, Reason.ENCAPSULATION_PROHIBITED)
            assert (drop.source, drop.destination) == (friend.address, victim.address), "what it said to be"
    finally:
        run("ip", "-n", second.namespace, "addr", "del", f"{gateway}/32", "dev", "lo")


@pytest.mark.parametrize("entrance", ["node port", "unknown address", "the node"])
def test_by_another_device_a_pod_cannot_speak_vxlan_either(crossed: Topology, entrance: str) -> None:
    """Under the address of its node, which has no other on the way there."""
    first, second, pod = crossed.nodes[0], crossed.nodes[1], crossed.nodes[0].pods[0]
    victim, friend, gateway = second.pods[0], first.pods[1], "10.1.2.1"
    inner = Packet(friend.address, victim.address, UDP, destination_port=UDP_PORT)
    run("ip", "-n", second.namespace, "addr", "add", f"{gateway}/32", "dev", "lo")
    run("ip", "-n", first.namespace, "route", "add", gateway, "dev", "wan0")
    towards, refusing, seen = {
        "node port": (f"{second.address}:{NODE_PORT + 1}", second, (first.address, second.address)),
        "unknown address": (f"{gateway}:{VXLAN_PORT}", second, (first.address, gateway)),
        "the node": (f"{second.address}:{VXLAN_PORT}", first, (first.address, second.address)),
    }[entrance]
    try:
        with (
            _translated(first, NODE_PORT, f"dnat to {towards}"),
            _translated(second, NODE_PORT + 1, f"dnat to {second.address}:{VXLAN_PORT}"),
            pod.datagram() as made,
        ):
            drain_events(first)
            drain_events(second)
            made.sendto(_vxlan(friend.identity, inner), (first.address, NODE_PORT))
            (drop,) = _drops(refusing, Reason.ENCAPSULATION_PROHIBITED)
            assert (drop.source, drop.destination, drop.destination_port) == (*seen, VXLAN_PORT)
            assert not [e for e in drain_events(second) if e.source == friend.address]
    finally:
        run("ip", "-n", second.namespace, "addr", "del", f"{gateway}/32", "dev", "lo")
        run("ip", "-n", first.namespace, "route", "del", gateway)


def test_the_overlay_goes_over_another_device_too(crossed: Topology) -> None:
    first, second = crossed.nodes[:2]
    assert first.pods[0].ask(second.pods[0].address, TCP_PORT) == f"{second.pods[0].name} {first.pods[0].address}"
    assert second.pods[0].ask(first.pods[1].address, TCP_PORT) == f"{first.pods[1].name} {second.pods[0].address}"


def test_what_the_node_passes_on_has_never_the_address_and_port_of_its_overlay(clean: Topology) -> None:
    """Rules that draw a port for what leaves may draw that one."""
    node, other, pod = clean.nodes[1], clean.nodes[0], clean.nodes[1].pods[0]
    leaving = f"meta l4proto udp snat to {node.address}:{VXLAN_PORT}"
    with _translated(node, NODE_PORT, f"dnat to {other.address}:40000", leaving), pod.datagram() as made:
        drain_events(node)
        made.sendto(b"mine", (node.address, NODE_PORT))
        (drop,) = _drops(node, Reason.ENCAPSULATION_PROHIBITED)
        assert (drop.source, drop.source_port, drop.destination) == (node.address, VXLAN_PORT, other.address)


def test_no_process_of_the_node_sends_from_the_address_and_port_of_its_overlay(clean: Topology) -> None:
    """What proxies send in a pod's name from a port they drew gets the node's address as what pods send does."""
    node, other = clean.nodes[1], clean.nodes[0]
    drain_events(node)
    drawn = Packet(node.address, other.address, UDP, VXLAN_PORT, 40_000)
    with inside(node.namespace), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as made:
        with contextlib.suppress(PermissionError):
            made.sendto(drawn.ip(), (other.address, 0))
    (drop,) = _drops(node, Reason.ENCAPSULATION_PROHIBITED)
    assert (drop.source, drop.source_port, drop.destination) == (node.address, VXLAN_PORT, other.address)


@pytest.mark.parametrize("is_known", [True, False], ids=["known", "not known yet"])
def test_a_pod_cannot_take_what_comes_to_the_overlay_of_its_node(clean: Topology, *, is_known: bool) -> None:
    """CNI plugins give what pods send out the node's address; they keep its port, and what comes there is an answer."""
    first, second = clean.nodes[0], clean.nodes[1]
    client, (victim, thief) = first.pods[0], second.pods
    rules = (
        "add table ip forged; add chain ip forged out { type nat hook postrouting priority 100; }; "
        f"add rule ip forged out oifname eth0 ip saddr {second.pod_network} ip daddr {first.address} masquerade"
    )
    run("ip", "netns", "exec", second.namespace, "nft", rules)
    if not is_known:
        with inside(second.namespace):
            second.datapath.detach(thief.ifindex)
    try:
        with thief.datagram(0) as made, client.datagram() as asking:
            made.bind(("", VXLAN_PORT))
            for port in range(32_768, 61_000):  # from any of them a node may send to another's overlay
                made.sendto(b"mine", (first.address, port))
            asking.sendto(b"?", (victim.address, UDP_PORT))
            assert asking.recv(100).decode() == f"{victim.name} {client.address}"
            with pytest.raises(BlockingIOError):
                made.recv(100)
    finally:
        with inside(second.namespace):
            second.datapath.attach(thief.ifindex)
        run("ip", "netns", "exec", second.namespace, "nft", "delete table ip forged")


def test_the_node_is_who_made_a_packet_and_not_whom_it_translated(clean: Topology) -> None:
    """A node port with a hand-made EndpointSlice, for which kube-proxy gives every sender the node's own address."""
    node = clean.nodes[0]
    victim, pod = node.pods
    host, world = 1, 2

    def let_in(identity: int, revision: int) -> None:
        node.maps.policy.delete([key for key, _ in node.maps.policy.items()])
        node.maps.policy.update(
            [(PolicyKey(victim.endpoint_id, Direction.INGRESS, identity), PolicyValue(False, 1, 1))]
        )
        node.endpoint(victim, EndpointFlag.ENFORCE_INGRESS, revision)

    rules = (
        "add table ip forged; add chain ip forged in { type nat hook prerouting priority -100; }; "
        "add chain ip forged out { type nat hook postrouting priority 100; }; "
        f"add rule ip forged in tcp dport {NODE_PORT} dnat to {victim.address}:{TCP_PORT}; "
        f"add rule ip forged out ip daddr {victim.address} tcp dport {TCP_PORT} masquerade"
    )
    run("ip", "netns", "exec", node.namespace, "nft", rules)
    try:
        let_in(host, 2)
        drain_events(node)
        assert pod.is_refused(node.address, NODE_PORT)
        assert {(e.source, e.source_identity) for e in _drops(node, Reason.POLICY_DENIED)} == {(node.address, world)}
        with inside(node.namespace), socket.create_connection((victim.address, TCP_PORT), 2) as made:
            assert exchange(made) == f"{victim.name} {node.address}"
        let_in(world, 3)
        assert pod.ask(node.address, NODE_PORT) == f"{victim.name} {node.address}"
    finally:
        run("ip", "netns", "exec", node.namespace, "nft", "delete table ip forged")
