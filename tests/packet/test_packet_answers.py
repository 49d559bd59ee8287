# SPDX-License-Identifier: Apache-2.0
"""Packets that end on this node and whose sender is told: refused services, hops counted out, errors of clients."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from agent.datapath.flow_layout import EventType
from agent.datapath.layout import EndpointFlag
from agent.datapath.reasons import Reason
from tests.packet.packet_bytes import ACK, FIN, ICMP, RST, SYN, TCP, UDP, Packet, icmp_error, read_quote
from tests.packet.packet_node import NEIGHBOUR, NODE, POD, REDIRECT, REMOTE_NODE, REMOTE_POD, VIP, PacketNode

pytestmark = pytest.mark.root
UNREACHABLE, EXCEEDED, NO_HOST = 3 << 8 | 3, 11 << 8, 3 << 8 | 1
REMOTE = (2, REMOTE_POD, 9090)


def _numbers(node: PacketNode, packet: Packet) -> tuple[int, int]:
    """Sequence and acknowledgement number of the answer; packets of Packet have 1 and 1."""
    frame = node.raw(packet)
    sequence, acknowledged = struct.unpack("!II", frame[38:46])
    return sequence, acknowledged


def test_a_service_without_backends_resets_a_tcp_client_at_once(node: PacketNode) -> None:
    node.service([])
    out = node.send(Packet(POD, VIP))
    assert out.answered is Reason.NO_BACKEND
    assert (out.packet.source, out.packet.destination, out.packet.flags) == (VIP, POD, RST | ACK)
    assert (out.packet.source_port, out.packet.destination_port, out.packet.payload) == (80, 40000, b"")
    assert node.metric(Reason.NO_BACKEND, 0) == 1


@pytest.mark.parametrize(
    ("flags", "payload", "numbers"),
    [(SYN, b"", (0, 2)), (SYN, b"early", (0, 7)), (ACK, b"hello", (1, 0)), (FIN | ACK, b"", (1, 0))],
    ids=["SYN", "SYN with data", "data", "FIN"],
)
def test_a_reset_carries_the_numbers_its_receiver_accepts(
    node: PacketNode, flags: int, payload: bytes, numbers: tuple[int, int]
) -> None:
    """RFC 9293 3.10.7.1; a connection that has just lost its backend is refused by the same rule as a SYN."""
    node.service([(3, "198.51.100.7", 7070)])
    if not flags & SYN:
        node.send(Packet(POD, VIP))
    node.service([])
    node.maps.backends.delete([key for key, _ in node.maps.backends.items()])
    assert _numbers(node, Packet(POD, VIP, flags=flags, payload=payload)) == numbers


def test_a_reset_is_never_answered(node: PacketNode) -> None:
    node.service([(3, "198.51.100.7", 7070)])
    node.send(Packet(POD, VIP))
    node.maps.backends.delete([key for key, _ in node.maps.backends.items()])
    assert node.send(Packet(POD, VIP, flags=RST)).drop is Reason.NO_BACKEND


@pytest.mark.parametrize("payload", [b"", b"x" * 900], ids=["empty", "large"])
def test_a_service_without_backends_sends_a_udp_client_port_unreachable(node: PacketNode, payload: bytes) -> None:
    node.service([], UDP)
    out = node.send(Packet(POD, VIP, UDP, payload=payload))
    assert out.answered is Reason.NO_BACKEND
    assert (out.packet.protocol, out.packet.source_port) == (ICMP, UNREACHABLE)
    assert (out.packet.source, out.packet.destination) == (VIP, POD)
    quote = read_quote(out.packet)
    assert (quote.source, quote.destination, quote.source_port, quote.destination_port) == (POD, VIP, 40000, 80)


def test_later_fragments_and_options_get_no_answer(node: PacketNode) -> None:
    node.service([], UDP)
    body = Packet(POD, VIP, UDP, payload=b"x" * 64).transport()
    assert node.send(Packet(POD, VIP, UDP, fragment=0x2000, payload=b"x" * 64)).answered is Reason.NO_BACKEND
    assert node.send(Packet(POD, VIP, UDP, fragment=2, payload=body[16:])).drop is Reason.NO_BACKEND
    assert node.send(Packet(POD, VIP, UDP, ip_options=b"\x01\x01\x01\x00")).drop is Reason.NO_BACKEND


# hops counted out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [TCP, UDP, ICMP])
@pytest.mark.parametrize("target", [NEIGHBOUR, REMOTE_POD], ids=["this node", "another node"])
def test_the_first_hop_of_a_trace_is_this_node(node: PacketNode, protocol: int, target: str) -> None:
    source_port = 8 << 8 if protocol == ICMP else 40000
    out = node.send(Packet(POD, target, protocol, source_port, 80, ttl=1))
    assert out.answered is Reason.TTL_EXCEEDED
    assert (out.packet.protocol, out.packet.source_port) == (ICMP, EXCEEDED)
    assert (out.packet.source, out.packet.destination) == (NODE, POD)
    quote = read_quote(out.packet)
    assert (quote.source, quote.destination, quote.protocol) == (POD, target, protocol)


@pytest.mark.parametrize("backend", [(1, NEIGHBOUR, 8080), REMOTE, (3, POD, 8080)], ids=["local", "remote", "itself"])
def test_a_trace_to_a_service_quotes_what_the_pod_sent(node: PacketNode, backend: tuple[int, str, int]) -> None:
    node.service([backend], UDP)
    out = node.send(Packet(POD, VIP, UDP, ttl=1))
    assert out.answered is Reason.TTL_EXCEEDED
    quote = read_quote(out.packet)
    assert (quote.source, quote.destination, quote.destination_port) == (POD, VIP, 80)


def test_the_second_hop_of_a_trace_is_the_other_node(node: PacketNode) -> None:
    out = node.overlay(Packet(REMOTE_POD, POD, UDP, ttl=1))
    assert out.answered is Reason.TTL_EXCEEDED
    assert (out.packet.source, out.packet.destination, out.packet.source_port) == (NODE, REMOTE_POD, EXCEEDED)
    quote = read_quote(out.packet)
    assert (quote.source, quote.destination) == (REMOTE_POD, POD)


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_who_connects_to_a_pod_that_is_not_attached_here_is_refused_at_once(node: PacketNode, protocol: int) -> None:
    out = node.overlay(Packet(REMOTE_POD, "10.1.1.99", protocol))
    assert out.answered is Reason.UNROUTABLE
    assert (out.packet.source, out.packet.destination, out.packet.source_port) == (NODE, REMOTE_POD, NO_HOST)
    quote = read_quote(out.packet)
    assert (quote.source, quote.destination) == (REMOTE_POD, "10.1.1.99")


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_a_pod_hears_that_another_node_has_no_such_pod(node: PacketNode, protocol: int) -> None:
    node.service([REMOTE], protocol)
    sent = node.send(Packet(POD, VIP, protocol)).packet
    out = node.overlay(icmp_error(REMOTE_NODE, sent, 3, 1), identity=6)
    assert out.verdict == REDIRECT
    assert (out.packet.source, read_quote(out.packet).destination) == (REMOTE_NODE, VIP)


def test_time_exceeded_of_another_node_reaches_the_pod_that_traces(node: PacketNode) -> None:
    node.service([REMOTE], UDP)
    sent = node.send(Packet(POD, VIP, UDP, ttl=2)).packet
    node.endpoint(flags=EndpointFlag.ENFORCE_INGRESS, revision=2)
    out = node.overlay(icmp_error(REMOTE_NODE, sent, 11, 0), identity=6)
    assert out.verdict == REDIRECT
    assert (out.packet.source, read_quote(out.packet).destination) == (REMOTE_NODE, VIP)


def test_an_error_at_the_end_of_its_life_is_not_answered(node: PacketNode) -> None:
    got = Packet(REMOTE_POD, POD, UDP, destination_port=9)
    node.overlay(got)
    assert node.send(replace(icmp_error(POD, got), ttl=1)).drop is Reason.TTL_EXCEEDED


# errors of clients --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [(1, NEIGHBOUR, 8080), REMOTE], ids=["local", "remote"])
def test_a_clients_error_about_a_services_answer_reaches_the_backend(
    node: PacketNode, backend: tuple[int, str, int]
) -> None:
    node.service([backend], UDP)
    asked = node.send(Packet(POD, VIP, UDP)).packet
    late = replace(asked.reverse, ttl=64)
    seen = node.overlay(late).packet if backend == REMOTE else node.receive(late).packet
    assert seen.source == VIP
    out = node.send(icmp_error(POD, seen))
    assert out.verdict == REDIRECT
    assert not [e for e in out.events if e.type == EventType.DROP]
    assert (out.packet.source, out.packet.destination) == (POD, backend[1])
    quote = read_quote(out.packet)
    assert (quote.source, quote.source_port, quote.destination, quote.destination_port) == (*backend[1:], POD, 40000)


def test_an_error_about_a_service_the_client_never_asked_is_dropped(node: PacketNode) -> None:
    node.service([REMOTE], UDP)
    quoted = Packet(VIP, POD, UDP, 80, 40000)
    assert node.send(icmp_error(POD, quoted)).drop is Reason.UNRELATED_ICMP_ERROR
    node.send(Packet(POD, VIP, UDP))
    forged = replace(icmp_error(POD, quoted), destination=NEIGHBOUR)
    assert node.send(forged).drop is Reason.UNRELATED_ICMP_ERROR, "not sent to whom it quotes"
