# SPDX-License-Identifier: Apache-2.0
"""Who may say that a packet is whose: pods about themselves, nodes about their cluster, nobody about anything else."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest

from agent.datapath.flow_layout import EventType
from agent.datapath.reasons import Reason
from tests.packet.packet_bytes import ACK, ICMP, NODE_MAC, POD_MAC, SYN, TCP, UDP, Packet
from tests.packet.packet_node import (
    NEIGHBOUR,
    NODE,
    PASS,
    POD,
    POD_ID,
    REDIRECT,
    REMOTE_ID,
    REMOTE_NODE,
    REMOTE_POD,
    STRANGER,
    VIP,
    WORLD,
    PacketNode,
)

pytestmark = pytest.mark.root
SIBLING_NODE, SIBLING_POD, SIBLING_ID = "192.168.50.12", "10.1.2.7", (1 << 16) + 1002
OTHER_MAC = bytes.fromhex("020000000a02")
VXLAN = Packet(NODE, REMOTE_NODE, UDP, 50000, 8472)


@pytest.fixture(autouse=True)
def known(node: PacketNode) -> None:
    """A second node of our cluster, and the pod networks of all three nodes."""
    node.ipcache(f"{SIBLING_NODE}/32", 6, cluster_id=1)
    node.ipcache(f"{SIBLING_POD}/32", SIBLING_ID, SIBLING_NODE, 1)
    node.ipcache("10.1.1.0/24", 0, cluster_id=1)
    node.ipcache("10.1.2.0/24", 0, SIBLING_NODE, 1)
    node.ipcache("10.2.1.0/24", 0, REMOTE_NODE, 2)


# pods ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [NEIGHBOUR, REMOTE_POD, NODE, VIP, WORLD])
def test_a_pod_speaks_with_its_own_address_only(node: PacketNode, source: str) -> None:
    out = node.send(Packet(source, REMOTE_POD))
    assert out.drop is Reason.INVALID_SOURCE_IP
    assert out.event(EventType.DROP).source == source


@pytest.mark.parametrize("protocol", [b"\x08\x00", b"\x86\xdd", b"\x08\x06"], ids=["IPv4", "IPv6", "ARP"])
def test_a_pod_speaks_with_its_own_mac_only(node: PacketNode, protocol: bytes) -> None:
    frame = NODE_MAC + OTHER_MAC + protocol + Packet(POD, REMOTE_POD).ip()
    assert node.send(frame).drop is Reason.INVALID_SOURCE_MAC


def test_a_pod_whose_mac_is_not_known_yet_is_judged_all_the_same(node: PacketNode) -> None:
    node.endpoint(mac="00:00:00:00:00:00")
    frame = Packet(POD, REMOTE_POD).frame()
    assert node.send(frame[:6] + OTHER_MAC + frame[12:]).verdict == REDIRECT
    assert node.send(Packet(NEIGHBOUR, REMOTE_POD)).drop is Reason.INVALID_SOURCE_IP
    assert node.overlay(Packet(REMOTE_POD, POD)).verdict == PASS, "the stack knows the way"


def _arp(mac: bytes, address: str) -> bytes:
    sender = mac + ipaddress.IPv4Address(address).packed
    return NODE_MAC + POD_MAC + b"\x08\x06" + bytes.fromhex("0001080006040002") + sender + bytes(10)


def test_a_pod_announces_its_own_address_at_its_own_mac_only(node: PacketNode) -> None:
    assert node.send(_arp(POD_MAC, POD)).verdict == PASS
    assert node.send(_arp(POD_MAC, "0.0.0.0")).verdict == PASS, "a probe"
    assert node.send(_arp(POD_MAC, NEIGHBOUR)).drop is Reason.INVALID_SOURCE_IP
    assert node.send(_arp(OTHER_MAC, POD)).drop is Reason.INVALID_SOURCE_MAC
    assert node.send(_arp(POD_MAC, POD)[:30]).drop is Reason.INVALID_PACKET


# the stack ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "packet",
    [
        Packet(REMOTE_POD, POD),
        Packet(REMOTE_POD, POD, flags=ACK),
        Packet(REMOTE_POD, POD, UDP),
        Packet(REMOTE_POD, POD, ICMP, 8 << 8, 7),
        Packet("10.2.1.77", POD, UDP),
        Packet(SIBLING_POD, POD),
        Packet(SIBLING_POD, POD, UDP),
    ],
    ids=["SYN", "ACK", "UDP", "echo", "no pod yet", "own cluster", "own cluster UDP"],
)
def test_an_address_behind_a_tunnel_is_not_believed_without_it(node: PacketNode, packet: Packet) -> None:
    assert node.receive(packet).drop is Reason.NOT_BY_TUNNEL


def test_an_answer_forged_off_the_tunnel_does_not_reach_an_open_connection(node: PacketNode) -> None:
    node.send(Packet(POD, REMOTE_POD, UDP))
    assert node.receive(Packet(REMOTE_POD, POD, UDP, 80, 40000)).drop is Reason.NOT_BY_TUNNEL


def test_a_connection_of_our_cluster_older_than_the_programs_goes_on_by_its_routes(node: PacketNode) -> None:
    assert node.receive(Packet(SIBLING_POD, POD, flags=ACK)).verdict == PASS
    assert node.receive(Packet(SIBLING_POD, POD)).drop is Reason.NOT_BY_TUNNEL, "and opens no other"


def test_addresses_that_are_behind_no_tunnel_come_by_the_stack(node: PacketNode) -> None:
    node.ipcache(f"{SIBLING_POD}/32", SIBLING_ID, cluster_id=1)
    for source in (SIBLING_POD, SIBLING_NODE, REMOTE_NODE, WORLD, NEIGHBOUR):
        assert node.receive(Packet(source, POD, UDP)).verdict == PASS


# the overlay --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identity", "outer", "source", "reason"),
    [
        (REMOTE_ID, STRANGER, REMOTE_POD, Reason.UNKNOWN_SENDER),
        (REMOTE_ID, POD, REMOTE_POD, Reason.UNKNOWN_SENDER),
        (1, REMOTE_NODE, REMOTE_POD, Reason.INVALID_IDENTITY),
        ((1 << 24) + 1, REMOTE_NODE, REMOTE_POD, Reason.INVALID_IDENTITY),
        (7, REMOTE_NODE, REMOTE_POD, Reason.INVALID_IDENTITY),
        (6, REMOTE_NODE, REMOTE_POD, Reason.INVALID_IDENTITY),
        ((3 << 16) + 5, REMOTE_NODE, REMOTE_POD, Reason.INVALID_CLUSTER_ID),
        (POD_ID, REMOTE_NODE, REMOTE_POD, Reason.INVALID_CLUSTER_ID),
        (REMOTE_ID, REMOTE_NODE, NEIGHBOUR, Reason.FOREIGN_SOURCE),
        (REMOTE_ID, REMOTE_NODE, SIBLING_POD, Reason.FOREIGN_SOURCE),
        (REMOTE_ID, REMOTE_NODE, "10.1.1.99", Reason.FOREIGN_SOURCE),
        (REMOTE_ID, REMOTE_NODE, "10.1.2.99", Reason.FOREIGN_SOURCE),
        (REMOTE_ID, REMOTE_NODE, NODE, Reason.FOREIGN_SOURCE),
        (6, REMOTE_NODE, NODE, Reason.FOREIGN_SOURCE),
        (6, REMOTE_NODE, SIBLING_NODE, Reason.FOREIGN_SOURCE),
        (REMOTE_ID, REMOTE_NODE, VIP, Reason.FOREIGN_SOURCE),
        (2, REMOTE_NODE, WORLD, Reason.FOREIGN_SOURCE),
        (SIBLING_ID, SIBLING_NODE, NEIGHBOUR, Reason.FOREIGN_SOURCE),
        (SIBLING_ID, SIBLING_NODE, REMOTE_POD, Reason.FOREIGN_SOURCE),
        (6, SIBLING_NODE, NODE, Reason.FOREIGN_SOURCE),
    ],
    ids=[
        "stranger", "a pod as node", "host", "too large", "our kube-apiserver", "a pod as node by identity",
        "third cluster", "our cluster", "our own pod", "another node's pod of our cluster", "unused address of ours",
        "unused address of another node of ours", "our node", "our node as node", "another node of ours", "service",
        "public address", "own cluster: a pod of this node", "own cluster: a peer's pod", "own cluster: this node",
    ],
)  # fmt: skip
def test_a_node_is_believed_only_about_its_own_cluster(
    node: PacketNode, identity: int, outer: str, source: str, reason: Reason
) -> None:
    assert node.overlay(Packet(source, POD), identity, outer).drop is reason


@pytest.mark.parametrize("identity", [0, 2, 8])
def test_reserved_identities_that_are_no_place_may_come_from_any_node(node: PacketNode, identity: int) -> None:
    assert node.overlay(Packet(REMOTE_POD, POD), identity).verdict == REDIRECT


@pytest.mark.parametrize(
    ("identity", "outer", "source"),
    [
        (REMOTE_ID, REMOTE_NODE, "10.2.1.77"),
        (6, REMOTE_NODE, REMOTE_NODE),
        (SIBLING_ID, SIBLING_NODE, SIBLING_POD),
        (7, SIBLING_NODE, SIBLING_NODE),
    ],
    ids=["pod whose record has not come", "the node itself", "pod of our cluster", "our kube-apiserver"],
)
def test_a_node_speaks_for_itself_and_the_pods_of_its_cluster(
    node: PacketNode, identity: int, outer: str, source: str
) -> None:
    assert node.overlay(Packet(source, POD), identity, outer).verdict == REDIRECT


# towards other nodes ------------------------------------------------------------------------------------------------


def test_pods_may_not_speak_vxlan_to_nodes(node: PacketNode) -> None:
    assert node.send(Packet(POD, REMOTE_NODE, UDP, destination_port=8472)).drop is Reason.ENCAPSULATION_PROHIBITED
    assert node.send(Packet(POD, REMOTE_NODE, UDP, destination_port=8473)).verdict == PASS


def test_pods_may_not_take_the_overlays_port_of_their_node(node: PacketNode) -> None:
    """Rules that give what leaves the node's address keep its port, and give back to the pod what comes there."""
    for target in (REMOTE_NODE, SIBLING_NODE, WORLD, NODE):
        out = node.send(Packet(POD, target, UDP, 8472, 40000))
        assert out.drop is Reason.ENCAPSULATION_PROHIBITED
        assert node.send(Packet(POD, target, UDP, 8473, 40000)).verdict == PASS
        assert node.send(Packet(POD, target, TCP, 8472, 40000)).verdict == PASS
    assert node.send(Packet(POD, NEIGHBOUR, UDP, 8472, 40000)).verdict == REDIRECT, "nobody translates it"
    assert node.send(Packet(POD, REMOTE_POD, UDP, 8472, 40000)).verdict == REDIRECT


def test_a_service_whose_backend_is_a_nodes_tunnel_port_leads_nowhere(node: PacketNode) -> None:
    node.service([(1, REMOTE_NODE, 8472)], UDP)
    assert node.send(Packet(POD, VIP, UDP)).drop is Reason.ENCAPSULATION_PROHIBITED


@pytest.mark.parametrize("target", [REMOTE_NODE, SIBLING_NODE], ids=["peer", "own cluster"])
def test_only_our_own_encapsulation_leaves_the_node(node: PacketNode, target: str) -> None:
    forged = replace(VXLAN, destination=target)
    out = node.leave(forged)
    assert out.drop is Reason.ENCAPSULATION_PROHIBITED
    assert (out.event(EventType.DROP).source, out.event(EventType.DROP).destination) == (NODE, target)
    assert node.leave(replace(forged, fragment=0x2000)).drop is Reason.ENCAPSULATION_PROHIBITED
    assert node.leave(forged, mark=0x0F00).verdict == PASS
    assert node.leave(forged, mark=0x0400).drop is Reason.ENCAPSULATION_PROHIBITED, "a part of the mark"


def test_everything_else_leaves_the_node(node: PacketNode) -> None:
    for packet in (
        replace(VXLAN, destination_port=8473),
        replace(VXLAN, destination=STRANGER),
        replace(VXLAN, protocol=TCP, flags=SYN),
        replace(VXLAN, fragment=2),
    ):
        assert node.leave(packet).verdict == PASS


def test_what_comes_to_the_node_for_another_port_is_never_taken_for_the_overlays(node: PacketNode) -> None:
    """Nor what comes for an address that is not known as the node's: other nodes let anybody send there."""
    arrived = Packet(REMOTE_NODE, NODE, UDP, 50000, 30073)
    unknown = Packet(REMOTE_NODE, "10.1.1.1", UDP, 50000, 8472)
    for foreign in (arrived, replace(arrived, fragment=0x2000), unknown, replace(unknown, fragment=0x2000)):
        priority = node.arrive(foreign)
        out = node._run(node.datapath.program_fd("mesh_from_overlay"), Packet(REMOTE_POD, POD), 0, priority)
        assert out.drop is Reason.ENCAPSULATION_PROHIBITED
        assert (out.event(EventType.DROP).source, out.event(EventType.DROP).destination) == (REMOTE_POD, POD)
    overlays = replace(arrived, destination_port=8472)
    node.ipcache("192.168.50.111/32", 1, cluster_id=1)
    for other in (
        overlays,
        replace(overlays, destination="192.168.50.111"),
        replace(overlays, fragment=0x2000),
        replace(arrived, fragment=2),
        replace(arrived, protocol=TCP),
    ):
        assert node.arrive(other) == 0
