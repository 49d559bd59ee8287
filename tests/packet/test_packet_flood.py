# SPDX-License-Identifier: Apache-2.0
"""Flows that nobody answers evict each other, never one that was established."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from agent.datapath.flow_layout import ConntrackKey, ConntrackKind
from agent.datapath.maps import Map
from agent.datapath.reasons import Reason
from tests.packet.packet_bytes import ACK, FIN, ICMP, RST, SYN, TCP, UDP, Packet, checksum
from tests.packet.packet_node import NEIGHBOUR, POD, REDIRECT, REMOTE_POD, VIP, PacketNode

pytestmark = pytest.mark.root
TABLE = 4096
CLIENT = ConntrackKey(POD, REMOTE_POD, 40000, 9090, TCP, ConntrackKind.EGRESS)
SERVICE = ConntrackKey(POD, VIP, 40000, 80, TCP, ConntrackKind.SERVICE)


def _kept(node: PacketNode, protocol: int = TCP) -> Map:  # type: ignore[type-arg]
    return node.maps.conntrack_tcp if protocol == TCP else node.maps.conntrack_other


def _alive(entries: Map) -> set[ConntrackKey]:  # type: ignore[type-arg]
    """Keys of entries within their lifetime: a flow that moved on leaves one behind that is not."""
    return {key for key, value in entries.items() if value.lifetime}


def _establish(node: PacketNode, protocol: int = TCP) -> Packet:
    """A connection through the service after its handshake (UDP: question, answer, question); returns the answer."""
    node.service([(1, REMOTE_POD, 9090)], protocol)
    out = node.send(Packet(POD, VIP, protocol))
    answer = replace(out.packet.reverse, ttl=64)
    assert node.overlay(answer).verdict == REDIRECT
    assert node.send(Packet(POD, VIP, protocol, flags=ACK)).verdict == REDIRECT
    return replace(answer, flags=ACK)


def _flood(node: PacketNode, count: int) -> None:
    """That many SYNs of POD that nobody answers, each with other ports."""
    frame = bytearray(Packet(POD, REMOTE_POD, TCP, 1024, 1).frame())
    for n in range(count):
        frame[34:38] = struct.pack("!HH", 1024 + n % 60000, 1 + n // 60000)
        frame[50:52] = bytes(2)
        pseudo = bytes(frame[26:34]) + struct.pack("!BBH", 0, TCP, len(frame) - 34)
        frame[50:52] = struct.pack("!H", checksum(pseudo + bytes(frame[34:])))
        node.push(bytes(frame))


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_established_connections_survive_a_flood_of_ten_times_the_table(node: PacketNode, protocol: int) -> None:
    answer = _establish(node, protocol)
    _flood(node, 10 * TABLE)
    node.service([(2, NEIGHBOUR, 8080)], protocol)
    assert node.overlay(answer).packet.source == VIP
    assert node.send(Packet(POD, VIP, protocol, flags=ACK)).packet.destination == REMOTE_POD
    assert node.maps.conntrack_opening.info().count <= TABLE
    assert node.metric(Reason.FLOW_OPENED, 0) >= 10 * TABLE


def test_a_handshake_moves_both_entries_out_of_the_floods_way(node: PacketNode) -> None:
    node.service([(1, REMOTE_POD, 9090)])
    before = node.metric(Reason.FLOW_ESTABLISHED, 0)
    out = node.send(Packet(POD, VIP))
    assert _alive(node.maps.conntrack_opening) == {CLIENT, SERVICE}
    node.overlay(replace(out.packet.reverse, ttl=64))
    assert not list(node.maps.conntrack_tcp.items())
    node.send(Packet(POD, VIP, flags=ACK))
    assert {key for key, _ in node.maps.conntrack_tcp.items()} == {CLIENT, SERVICE}
    assert not _alive(node.maps.conntrack_opening)
    assert node.metric(Reason.FLOW_ESTABLISHED, 0) == before + 1


def test_the_servers_side_is_established_by_the_clients_acknowledgement_only(node: PacketNode) -> None:
    syn = Packet(REMOTE_POD, POD)
    node.overlay(syn)
    node.send(replace(syn.reverse, flags=SYN | ACK))
    assert not list(node.maps.conntrack_tcp.items()), "a flooded server answers every SYN"
    node.overlay(replace(syn, flags=ACK))
    assert [key.kind for key, _ in node.maps.conntrack_tcp.items()] == [ConntrackKind.INGRESS]


@pytest.mark.parametrize("flags", [RST, RST | ACK], ids=["RST", "RST and ACK"])
def test_a_refused_connection_is_never_established(node: PacketNode, flags: int) -> None:
    out = node.send(Packet(POD, REMOTE_POD))
    node.overlay(replace(out.packet.reverse, ttl=64, flags=flags))
    node.send(Packet(POD, REMOTE_POD, flags=ACK))
    assert not list(node.maps.conntrack_tcp.items())


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (Packet(POD, REMOTE_POD, UDP), Packet(REMOTE_POD, POD, UDP, 80, 40000)),
        (Packet(POD, REMOTE_POD, ICMP, 8 << 8, 7), Packet(REMOTE_POD, POD, ICMP, 0, 7)),
    ],
    ids=["UDP", "ICMP"],
)
def test_one_question_with_one_answer_establishes_nothing(node: PacketNode, question: Packet, answer: Packet) -> None:
    node.send(question)
    node.overlay(answer)
    assert not list(node.maps.conntrack_other.items())
    node.send(question)
    assert [key.kind for key, _ in node.maps.conntrack_other.items()] == [ConntrackKind.EGRESS]


@pytest.mark.parametrize("who", ["client", "server", "client resets"])
def test_a_connection_that_is_over_leaves_its_place_to_open_ones(node: PacketNode, who: str) -> None:
    answer = _establish(node)
    if who == "client resets":
        node.send(Packet(POD, VIP, flags=RST))
    else:
        both = (
            lambda: node.send(Packet(POD, VIP, flags=FIN | ACK)),
            lambda: node.overlay(replace(answer, flags=FIN | ACK)),
        )
        for finish in both if who == "client" else reversed(both):
            assert {key for key, _ in node.maps.conntrack_tcp.items()} == {CLIENT, SERVICE}, "one side may still send"
            finish()
        if who == "client":
            node.send(Packet(POD, VIP, flags=ACK))
    assert not list(node.maps.conntrack_tcp.items())
    assert node.overlay(replace(answer, flags=FIN | ACK)).packet.source == VIP, "it may not have heard the last one"
    assert node.send(Packet(POD, VIP, flags=ACK)).packet.destination == REMOTE_POD
    assert not list(node.maps.conntrack_tcp.items()), "and stays over"


def test_the_servers_side_of_a_connection_that_is_over_leaves_its_place_too(node: PacketNode) -> None:
    syn = Packet(REMOTE_POD, POD)
    node.overlay(syn)
    node.send(replace(syn.reverse, flags=SYN | ACK))
    node.overlay(replace(syn, flags=ACK))
    node.overlay(replace(syn, flags=FIN | ACK))
    node.send(replace(syn.reverse, flags=FIN | ACK))
    assert list(node.maps.conntrack_tcp.items())
    node.overlay(replace(syn, flags=ACK))
    assert not list(node.maps.conntrack_tcp.items())


def test_the_ports_of_an_established_connection_that_ended_open_another_one(node: PacketNode) -> None:
    answer = _establish(node)
    node.send(Packet(POD, VIP, flags=RST))
    node.service([(2, REMOTE_POD, 9090)])
    assert node.send(Packet(POD, VIP)).packet.destination == REMOTE_POD
    assert node.overlay(replace(answer, flags=SYN | ACK)).packet.source == VIP
    node.send(Packet(POD, VIP, flags=ACK))
    assert {key for key, _ in node.maps.conntrack_tcp.items()} == {CLIENT, SERVICE}
    assert not _alive(node.maps.conntrack_opening)


def test_a_new_connection_on_the_ports_of_a_forgotten_one_is_found(node: PacketNode) -> None:
    _establish(node)
    node.maps.conntrack_tcp.update([(k, v._replace(lifetime=0)) for k, v in node.maps.conntrack_tcp.items()])
    node.service([(2, NEIGHBOUR, 8080)])
    assert node.send(Packet(POD, VIP)).packet.destination == NEIGHBOUR
    assert node.send(Packet(POD, VIP, flags=ACK)).packet.destination == NEIGHBOUR


def test_the_entries_of_an_established_connection_lie_where_its_protocol_says(node: PacketNode) -> None:
    for protocol in (TCP, UDP):
        node.reset()
        _establish(node, protocol)
        assert len(list(_kept(node, protocol).items())) == 2
        assert not _alive(node.maps.conntrack_opening)
