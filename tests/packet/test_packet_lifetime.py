# SPDX-License-Identifier: Apache-2.0
"""How long a connection is remembered: its two entries live and end together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.datapath.config import Lifetimes
from agent.datapath.flow_layout import ConntrackKey, ConntrackKind, ConntrackValue
from agent.datapath.layout import TICK_NS
from agent.datapath.reasons import Reason
from tests.packet.packet_bytes import ACK, FIN, RST, SYN, TCP, UDP, Packet
from tests.packet.packet_node import NEIGHBOUR, POD, REDIRECT, REMOTE_POD, VIP, PacketNode
from tests.support.connections import connections

pytestmark = pytest.mark.root
LIFE = Lifetimes()
CLIENT = ConntrackKey(POD, REMOTE_POD, 40000, 9090, TCP, ConntrackKind.EGRESS)
SERVICE = ConntrackKey(POD, VIP, 40000, 80, TCP, ConntrackKind.SERVICE)


def _ticks(seconds: int) -> int:
    return -(-seconds * 10**9 // TICK_NS)


def _entry(node: PacketNode, key: ConntrackKey) -> ConntrackValue:
    (value,) = [value for found, value in connections(node.maps) if found == key and value.lifetime]
    return value


def _life_s(node: PacketNode, key: ConntrackKey) -> int:
    """Seconds the entry was given by a packet that came just now, at most one tick off."""
    node.send(Packet(POD, "192.0.2.1", UDP, source_port=9, destination_port=9))
    now = _entry(node, ConntrackKey(POD, "192.0.2.1", 9, 9, UDP, ConntrackKind.EGRESS)).lifetime - _ticks(LIFE.other_s)
    return round((_entry(node, key).lifetime - now) * TICK_NS / 10**9)


def _pass_time(node: PacketNode, seconds: int) -> None:
    """Every connection was last seen that much earlier."""
    for values in (node.maps.conntrack_tcp, node.maps.conntrack_other, node.maps.conntrack_opening):
        aged = [(k, v._replace(lifetime=max(0, v.lifetime - _ticks(seconds)))) for k, v in values.items()]
        values.update(aged)


def _open(node: PacketNode, protocol: int = TCP) -> Packet:
    """An established connection through the service; returns the backend's last packet."""
    node.service([(1, REMOTE_POD, 9090)], protocol)
    out = node.send(Packet(POD, VIP, protocol))
    answer = replace(out.packet.reverse, ttl=64)
    assert node.overlay(answer).verdict == REDIRECT
    for _ in range(2):  # a SERVICE entry learns of the connection's state with the next packet
        node.send(Packet(POD, VIP, protocol, flags=ACK))
    return replace(answer, flags=ACK)


def test_both_entries_of_an_established_connection_live_six_hours(node: PacketNode) -> None:
    _open(node)
    assert _life_s(node, CLIENT) == pytest.approx(LIFE.established_s, abs=3)
    assert _life_s(node, SERVICE) == pytest.approx(LIFE.established_s, abs=3)
    assert LIFE.established_s >= 6 * 3600


@pytest.mark.parametrize("silent_s", [LIFE.opening_s + 5, LIFE.established_s - 5])
def test_an_established_connection_through_a_service_survives_silence(node: PacketNode, silent_s: int) -> None:
    answer = _open(node)
    _pass_time(node, silent_s)
    assert node.send(Packet(POD, VIP, flags=ACK)).packet.destination == REMOTE_POD
    assert node.overlay(answer).packet.source == VIP


def test_replies_alone_keep_the_translation_of_the_client(node: PacketNode) -> None:
    answer = _open(node, UDP)
    for _ in range(3):
        _pass_time(node, LIFE.other_s - 5)
        assert node.overlay(answer).packet.source == VIP
    node.service([(2, NEIGHBOUR, 8080)], UDP)
    assert node.send(Packet(POD, VIP, UDP)).packet.destination == REMOTE_POD


def test_a_half_open_connection_is_forgotten(node: PacketNode) -> None:
    node.service([(1, REMOTE_POD, 9090)])
    node.send(Packet(POD, VIP))
    assert _life_s(node, CLIENT) == pytest.approx(LIFE.opening_s, abs=3)
    _pass_time(node, LIFE.opening_s + 5)
    node.service([(2, NEIGHBOUR, 8080)])
    assert node.send(Packet(POD, VIP)).packet.destination == NEIGHBOUR


def test_a_server_that_was_never_acknowledged_keeps_only_a_half_open_connection(node: PacketNode) -> None:
    """A SYN flood is answered by the pod: its SYN-ACK alone establishes nothing."""
    key = ConntrackKey(REMOTE_POD, POD, 40000, 80, TCP, ConntrackKind.INGRESS)
    syn = Packet(REMOTE_POD, POD)
    node.overlay(syn)
    node.send(replace(syn.reverse, flags=SYN | ACK))
    assert _life_s(node, key) == pytest.approx(LIFE.opening_s, abs=3)
    node.overlay(replace(syn, flags=ACK))
    assert _life_s(node, key) == pytest.approx(LIFE.established_s, abs=3)


@pytest.mark.parametrize("who", ["client", "backend"])
def test_a_reset_of_either_side_ends_both_entries(node: PacketNode, who: str) -> None:
    answer = _open(node)
    if who == "client":
        node.send(Packet(POD, VIP, flags=RST))
    else:
        node.overlay(replace(answer, flags=RST | ACK))
    assert _life_s(node, CLIENT) == pytest.approx(LIFE.closing_s, abs=3)
    node.service([(2, NEIGHBOUR, 8080)])
    assert node.send(Packet(POD, VIP)).packet.destination == NEIGHBOUR


def _closed_by_the_server(node: PacketNode, source_port: int) -> None:
    """Its last packet is the server's, so the SERVICE entry never hears that it is over; forgotten a while later."""
    out = node.send(Packet(POD, VIP, source_port=source_port))
    answer = replace(out.packet.reverse, ttl=64)
    node.overlay(answer)
    node.send(Packet(POD, VIP, source_port=source_port, flags=ACK))
    node.overlay(replace(answer, flags=FIN | ACK))
    node.send(Packet(POD, VIP, source_port=source_port, flags=FIN | ACK))
    node.overlay(replace(answer, flags=ACK))


def test_ports_of_a_connection_that_ended_are_free_for_any_backend(node: PacketNode) -> None:
    ports = range(40000, 40032)
    node.service([(1, REMOTE_POD, 9090)])
    for port in ports:
        _closed_by_the_server(node, port)
    _pass_time(node, LIFE.closing_s + 5)
    node.service([(1, REMOTE_POD, 9090), (2, NEIGHBOUR, 8080)])
    chosen = {node.send(Packet(POD, VIP, source_port=port)).packet.destination for port in ports}
    assert chosen == {REMOTE_POD, NEIGHBOUR}


def test_a_connection_both_sides_finished_ends_both_entries(node: PacketNode) -> None:
    answer = _open(node)
    node.send(Packet(POD, VIP, flags=FIN | ACK))
    node.send(Packet(POD, VIP, flags=ACK))
    assert _life_s(node, SERVICE) == pytest.approx(LIFE.established_s, abs=3), "the other side may still send"
    node.overlay(replace(answer, flags=FIN | ACK))
    node.send(Packet(POD, VIP, flags=ACK))
    node.send(Packet(POD, VIP, flags=ACK))
    assert _life_s(node, CLIENT) == pytest.approx(LIFE.closing_s, abs=3)
    assert _life_s(node, SERVICE) == pytest.approx(LIFE.closing_s, abs=3)


def test_a_hairpin_connection_survives_silence(node: PacketNode) -> None:
    node.service([(1, POD, 8080)])
    out = node.send(Packet(POD, VIP))
    node.send(replace(out.packet.reverse, ttl=64, flags=SYN | ACK))
    node.send(Packet(POD, VIP, flags=ACK))
    _pass_time(node, LIFE.opening_s + 5)
    assert node.send(Packet(POD, VIP, flags=ACK)).packet.destination == POD


def test_an_evicted_connection_entry_leaves_the_translation(node: PacketNode) -> None:
    _open(node)
    node.maps.conntrack_tcp.delete([CLIENT])
    assert node.send(Packet(POD, VIP, flags=ACK)).packet.destination == REMOTE_POD


def test_a_udp_flow_is_forgotten_after_its_lifetime(node: PacketNode) -> None:
    _open(node, UDP)
    _pass_time(node, LIFE.other_s + 5)
    node.service([], UDP)
    assert node.send(Packet(POD, VIP, UDP)).answered is Reason.NO_BACKEND
