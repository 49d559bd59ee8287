# SPDX-License-Identifier: Apache-2.0
"""A pod that calls a node port of its own node, packet by packet."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.datapath.layout import BackendKey, EndpointFlag, EndpointValue, IfindexKey, ServiceFlag
from agent.datapath.reasons import Reason
from tests.packet.packet_bytes import ACK, RST, SYN, TCP, UDP, Packet
from tests.packet.packet_node import NEIGHBOUR, NODE, PASS, POD, REDIRECT, REMOTE_NODE, REMOTE_POD, PacketNode

pytestmark = pytest.mark.root
EVERYWHERE, OF_NODE = "0.0.0.0", int(ServiceFlag.OF_NODE)
REMOTE, LOCAL, ITSELF = (2, REMOTE_POD, 9090), (1, NEIGHBOUR, 8080), (3, POD, 8080)


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_it_is_led_to_a_backend_of_any_cluster_and_answered_by_the_node(node: PacketNode, protocol: int) -> None:
    node.service([REMOTE], protocol, address=EVERYWHERE, reach=OF_NODE)
    asked = Packet(POD, NODE, protocol)
    out = node.send(asked)
    assert (out.verdict, out.packet.source, out.packet.destination) == (REDIRECT, POD, REMOTE_POD)
    back = node.overlay(replace(out.packet.reverse, ttl=64, flags=SYN | ACK if protocol == TCP else SYN))
    assert (back.packet.source, back.packet.source_port, back.packet.destination) == (NODE, 80, POD)
    assert node.send(replace(asked, flags=ACK)).packet.destination == REMOTE_POD


def test_a_retry_of_the_first_packet_goes_where_it_went(node: PacketNode) -> None:
    node.service([REMOTE, LOCAL], address=EVERYWHERE, reach=OF_NODE)
    for port in range(1000, 1020):
        assert len({node.send(Packet(POD, NODE, source_port=port)).packet.destination for _ in range(5)}) == 1


def test_a_pod_reaches_itself_by_a_node_port(node: PacketNode) -> None:
    node.service([ITSELF], address=EVERYWHERE, reach=OF_NODE)
    out = node.send(Packet(POD, NODE))
    assert (out.verdict, out.packet.destination, out.packet.destination_port) == (REDIRECT, POD, 8080)
    assert out.packet.source != POD
    back = node.send(out.packet.reverse)
    assert (back.packet.source, back.packet.source_port, back.packet.destination) == (NODE, 80, POD)


def test_without_a_backend_it_is_refused(node: PacketNode) -> None:
    node.service([], address=EVERYWHERE, reach=OF_NODE)
    out = node.send(Packet(POD, NODE))
    assert out.answered is Reason.NO_BACKEND
    assert out.packet.flags & RST
    assert out.packet.source == NODE


def test_a_backend_that_is_gone_ends_the_connection(node: PacketNode) -> None:
    node.service([REMOTE], address=EVERYWHERE, reach=OF_NODE)
    node.send(Packet(POD, NODE))
    node.maps.backends.delete([BackendKey(2)])
    node.maps.ipcache.delete([k for k, _ in node.maps.ipcache.items() if k.prefix == f"{REMOTE_POD}/32"])
    assert node.send(Packet(POD, NODE, flags=ACK)).answered is Reason.NO_BACKEND


def test_datagrams_whose_backend_is_gone_go_on_to_another_one_at_once(node: PacketNode) -> None:
    node.service([REMOTE], UDP, address=EVERYWHERE, reach=OF_NODE)
    asked = Packet(POD, NODE, UDP)
    assert node.send(asked).packet.destination == REMOTE_POD
    node.service([LOCAL], UDP, address=EVERYWHERE, reach=OF_NODE)
    node.maps.backends.delete([BackendKey(2)])
    node.maps.ipcache.delete([k for k, _ in node.maps.ipcache.items() if k.prefix == f"{REMOTE_POD}/32"])
    assert node.send(asked).packet.destination == NEIGHBOUR


@pytest.mark.parametrize(
    "packet",
    [Packet(POD, NODE, destination_port=81), Packet(POD, REMOTE_NODE), Packet(POD, NODE, flags=ACK)],
    ids=["another port", "another node", "midstream"],
)
def test_anything_else_is_left_to_the_stack(node: PacketNode, packet: Packet) -> None:
    node.service([REMOTE], address=EVERYWHERE, reach=OF_NODE)
    out = node.send(packet)
    assert (out.verdict, out.packet) == (PASS, packet)


def test_a_node_port_that_is_not_ours_and_one_of_a_judged_node_are_left_to_the_stack(node: PacketNode) -> None:
    node.service([REMOTE], address=EVERYWHERE)
    assert node.send(Packet(POD, NODE)).verdict == PASS
    node.service([REMOTE], address=EVERYWHERE, reach=OF_NODE)
    nobody = "00:00:00:00:00:00"
    judged = EndpointValue(0, 0, EndpointFlag.ENFORCE_EGRESS, 1, 1, nobody, nobody, "0.0.0.0")
    node.maps.node.update([(IfindexKey(0), judged)])
    assert node.send(Packet(POD, NODE, source_port=1000)).verdict == PASS
