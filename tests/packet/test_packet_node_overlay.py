# SPDX-License-Identifier: Apache-2.0
"""The node's own connections to pods of other clusters, packet by packet: out by the overlay, and their answers back in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.datapath.flow_layout import ConntrackKey, ConntrackKind
from agent.datapath.layout import Direction, EndpointFlag, EndpointValue, IfindexKey
from agent.datapath.reasons import Reason
from tests.packet.packet_bytes import ACK, ICMP, SYN, TCP, UDP, Packet
from tests.packet.packet_node import (
    NODE,
    PASS,
    POD,
    REDIRECT,
    REMOTE_NODE,
    REMOTE_POD,
    SHOT,
    STRANGER,
    WORLD,
    PacketNode,
)

pytestmark = pytest.mark.root
NODE_ID = 6
OWN_NEIGHBOUR_NODE_POD = "10.1.2.10"


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_the_nodes_connection_to_a_pod_of_another_cluster_takes_the_overlay_and_its_answer_comes_in(
    node: PacketNode, protocol: int
) -> None:
    packet = Packet(NODE, REMOTE_POD, protocol)
    before = node.metric(Reason.TO_OVERLAY, Direction.EGRESS)
    out = node.leave(packet)
    assert (out.verdict, out.packet) == (REDIRECT, packet)
    assert node.metric(Reason.TO_OVERLAY, Direction.EGRESS) == before + 1
    answer = replace(packet.reverse, flags=SYN | ACK if protocol == TCP else SYN)
    back = node.overlay(answer)
    assert (back.verdict, back.packet) == (REDIRECT, answer)
    key = ConntrackKey(NODE, REMOTE_POD, 40000, 80, protocol, ConntrackKind.EGRESS)
    entry = node.maps.conntrack_opening.get(key)
    assert entry is not None
    assert entry.packets == 2


@pytest.mark.parametrize(
    "packet",
    [Packet(REMOTE_POD, NODE), Packet(REMOTE_POD, NODE, flags=SYN | ACK), Packet(REMOTE_POD, NODE, UDP)],
    ids=["syn", "answer to nothing", "udp"],
)
def test_nothing_that_the_node_did_not_ask_for_comes_in_by_the_overlay(node: PacketNode, packet: Packet) -> None:
    assert node.overlay(packet).drop is Reason.UNROUTABLE


def test_a_pod_that_was_asked_opens_no_connection_of_its_own_on_these_ports(node: PacketNode) -> None:
    node.leave(Packet(NODE, REMOTE_POD))
    assert node.overlay(replace(Packet(NODE, REMOTE_POD).reverse, flags=SYN)).drop is Reason.UNROUTABLE


@pytest.mark.parametrize(
    "packet",
    [
        Packet(NODE, WORLD),
        Packet(NODE, REMOTE_NODE),
        Packet(NODE, POD),
        Packet(NODE, OWN_NEIGHBOUR_NODE_POD),
        Packet(STRANGER, REMOTE_POD),
        Packet(NODE, REMOTE_POD, flags=SYN | ACK),
        Packet(NODE, REMOTE_POD, ICMP, 0),
    ],
    ids=["world", "node", "own pod", "own cluster", "no address of the node", "tcp answer", "icmp answer"],
)
def test_what_is_no_connection_of_the_node_to_another_cluster_goes_on_as_it_is(
    node: PacketNode, packet: Packet
) -> None:
    node.ipcache(f"{OWN_NEIGHBOUR_NODE_POD}/32", (1 << 16) + 9, "192.168.50.12", 1)
    out = node.leave(packet)
    assert (out.verdict, out.packet) == (PASS, packet)


def test_a_packet_that_does_not_fit_the_overlay_is_answered_to_the_stack_that_sent_it(node: PacketNode) -> None:
    frame = Packet(NODE, REMOTE_POD, UDP, payload=bytes(1440))
    out = node.leave(frame)
    assert out.answered is Reason.FRAGMENTATION_NEEDED
    assert (out.packet.source, out.packet.destination, out.packet.protocol) == (REMOTE_POD, NODE, ICMP)
    assert out.packet.source_port == 3 << 8 | 4
    fits = node.leave(replace(frame, fragment=0))
    assert fits.verdict == REDIRECT
    assert fits.packet.destination == REMOTE_POD


def test_an_icmp_error_about_the_nodes_own_packet_comes_in_and_any_other_does_not(node: PacketNode) -> None:
    asked = Packet(NODE, REMOTE_POD, UDP)
    node.leave(asked)
    quote = asked.frame()[14 : 14 + 36]
    error = Packet(REMOTE_NODE, NODE, ICMP, 3 << 8 | 1, 0, payload=quote)
    assert node.overlay(error, NODE_ID).verdict == REDIRECT
    other = replace(asked, source_port=40001).frame()[14 : 14 + 36]
    assert node.overlay(replace(error, payload=other), NODE_ID).drop is Reason.UNRELATED_ICMP_ERROR


def test_host_policies_judge_the_node_before_its_packet_takes_the_overlay(node: PacketNode) -> None:
    nobody = "00:00:00:00:00:00"
    closed = EndpointValue(0, 0, EndpointFlag.ENFORCE_EGRESS, 1, 1, nobody, nobody, "0.0.0.0")
    node.maps.node.update([(IfindexKey(0), closed)])
    out = node.leave(Packet(NODE, REMOTE_POD))
    assert (out.verdict, out.drop) == (SHOT, Reason.POLICY_DENIED)


def test_a_pods_answer_to_a_node_goes_back_the_way_the_question_came(node: PacketNode) -> None:
    asked = Packet(REMOTE_NODE, POD)
    assert node.overlay(asked, NODE_ID).verdict == REDIRECT
    answer = node.send(asked.reverse)
    assert (answer.verdict, answer.packet.destination) == (REDIRECT, REMOTE_NODE)
    assert node.receive(replace(asked, source_port=40001)).verdict == PASS
    assert node.send(replace(asked.reverse, destination_port=40001)).verdict == PASS


def test_the_udp_answer_follows_the_way_of_the_last_question(node: PacketNode) -> None:
    asked = Packet(REMOTE_NODE, POD, UDP)
    node.receive(asked)
    assert node.send(asked.reverse).verdict == PASS
    node.overlay(asked, NODE_ID)
    assert node.send(asked.reverse).verdict == REDIRECT


def test_a_pods_icmp_error_about_a_nodes_packet_goes_back_by_the_overlay(node: PacketNode) -> None:
    asked = Packet(REMOTE_NODE, POD, UDP)
    node.overlay(asked, NODE_ID)
    error = Packet(POD, REMOTE_NODE, ICMP, 3 << 8 | 3, 0, payload=asked.frame()[14 : 14 + 36])
    assert node.send(error).verdict == REDIRECT


def test_a_later_fragment_of_the_nodes_datagram_takes_the_overlay_too(node: PacketNode) -> None:
    first = Packet(NODE, REMOTE_POD, UDP, payload=bytes(64), fragment=0x2000, identification=77)
    assert node.leave(first).verdict == REDIRECT
    assert node.leave(replace(first, fragment=9)).verdict == REDIRECT
    assert node.leave(replace(first, fragment=9, identification=78)).drop is Reason.FIRST_FRAGMENT_MISSING
