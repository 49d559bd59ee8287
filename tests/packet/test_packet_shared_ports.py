# SPDX-License-Identifier: Apache-2.0
"""One pod, one of its ports, and two ways to the same backend: the connection that is open keeps its packets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.datapath.reasons import Reason
from tests.packet.packet_bytes import ACK, RST, SCTP, SYN, TCP, UDP, Packet
from tests.packet.packet_node import NEIGHBOUR, PASS, POD, REDIRECT, REMOTE_POD, VIP, PacketNode

pytestmark = pytest.mark.root
LOCAL, REMOTE = (1, NEIGHBOUR, 8080), (2, REMOTE_POD, 9090)
OTHER_VIP = "172.20.1.8"


def second_frontend(node: PacketNode) -> None:
    """OTHER_VIP leads where VIP leads."""
    entries = [(key._replace(address=OTHER_VIP), value) for key, value in node.maps.services.items()]
    node.maps.services.update(sorted(entries, key=lambda entry: -entry[0].slot))


def connect(node: PacketNode, address: str, protocol: int = TCP, port: int = 80) -> Packet:
    """An established connection of POD; its last packet as the backend gets it."""
    out = node.send(Packet(POD, address, protocol, destination_port=port))
    node.overlay(replace(out.packet.reverse, ttl=64, flags=SYN | ACK))
    last = node.send(Packet(POD, address, protocol, destination_port=port, flags=ACK)).packet
    assert last.destination == REMOTE_POD
    return last


def answered_from(node: PacketNode, sent: Packet) -> tuple[str, int]:
    """Who the pod takes the backend's next packet for."""
    back = node.overlay(replace(sent.reverse, ttl=64, flags=ACK))
    assert back.verdict == REDIRECT
    return back.packet.source, back.packet.source_port


@pytest.mark.parametrize("protocol", [TCP, SCTP])
def test_a_second_frontend_of_the_only_backend_is_refused_on_the_ports_of_an_open_connection(
    node: PacketNode, protocol: int
) -> None:
    node.service([REMOTE], protocol)
    second_frontend(node)
    sent = connect(node, VIP, protocol)
    refused = node.send(Packet(POD, OTHER_VIP, protocol))
    assert (refused.answered, refused.packet.source) == (Reason.NAT_FULL, OTHER_VIP)
    assert answered_from(node, sent) == (VIP, 80)
    assert node.send(Packet(POD, VIP, protocol, flags=ACK)).packet.destination == REMOTE_POD


@pytest.mark.parametrize("affinity_s", [0, 100])
def test_a_second_frontend_leads_to_another_backend_on_the_ports_of_an_open_connection(
    node: PacketNode, affinity_s: int
) -> None:
    node.service([REMOTE], affinity_s=affinity_s)
    sent = connect(node, VIP)
    node.service([LOCAL, REMOTE], affinity_s=affinity_s)
    second_frontend(node)
    for _ in range(4):
        other = node.send(Packet(POD, OTHER_VIP))
        assert other.packet.destination == NEIGHBOUR
        answer = node.receive(other.packet.reverse)
        assert (answer.verdict, answer.packet.source) == (PASS, OTHER_VIP)
        node.send(Packet(POD, OTHER_VIP, flags=RST))
    assert answered_from(node, sent) == (VIP, 80)


def test_who_is_spoken_to_directly_is_refused_on_the_ports_of_an_open_connection_through_a_service(
    node: PacketNode,
) -> None:
    node.service([REMOTE])
    sent = connect(node, VIP)
    refused = node.send(Packet(POD, REMOTE_POD, destination_port=REMOTE[2]))
    assert (refused.answered, refused.packet.source) == (Reason.NAT_FULL, REMOTE_POD)
    assert answered_from(node, sent) == (VIP, 80)


def test_a_service_takes_no_open_connection_that_was_made_to_its_backend_directly(node: PacketNode) -> None:
    node.service([REMOTE])
    sent = connect(node, REMOTE_POD, port=REMOTE[2])
    assert node.send(Packet(POD, VIP)).answered == Reason.NAT_FULL
    assert answered_from(node, sent) == REMOTE[1:]


def test_ports_of_a_connection_that_is_over_lead_through_any_frontend(node: PacketNode) -> None:
    node.service([REMOTE])
    second_frontend(node)
    connect(node, VIP)
    node.send(Packet(POD, VIP, flags=RST | ACK))
    assert answered_from(node, connect(node, OTHER_VIP)) == (OTHER_VIP, 80)
    node.send(Packet(POD, OTHER_VIP, flags=RST | ACK))
    assert answered_from(node, connect(node, REMOTE_POD, port=REMOTE[2])) == REMOTE[1:]


def test_datagrams_of_one_socket_to_two_frontends_go_to_two_backends(node: PacketNode) -> None:
    node.service([REMOTE], UDP)
    first = node.send(Packet(POD, VIP, UDP)).packet
    node.overlay(replace(first.reverse, ttl=64))
    node.send(Packet(POD, VIP, UDP))
    node.service([LOCAL, REMOTE], UDP)
    second_frontend(node)
    assert node.send(Packet(POD, OTHER_VIP, UDP)).packet.destination == NEIGHBOUR
    assert node.overlay(replace(first.reverse, ttl=64)).packet.source == VIP
