# SPDX-License-Identifier: Apache-2.0
"""What must not get through: spoofed, truncated, malformed, fragmented without a head, and lying tunnels."""

from __future__ import annotations

import random
import struct
from dataclasses import replace

import pytest

from agent.datapath.flow_layout import EventType
from agent.datapath.layout import EndpointFlag
from agent.datapath.reasons import Reason
from tests.packet.packet_bytes import ICMP, SCTP, TCP, UDP, Packet, icmp_error, read_quote
from tests.packet.packet_node import (
    NEIGHBOUR,
    PASS,
    POD,
    REDIRECT,
    REMOTE_ID,
    REMOTE_POD,
    SHOT,
    VIP,
    WORLD,
    PacketNode,
)

pytestmark = pytest.mark.root
ETHERNET = Packet(POD, REMOTE_POD).frame()[:14]


BROKEN = {
    "header length below five words": lambda p: p[:14] + b"\x44" + p[15:],
    "IP version 6 in an IPv4 frame": lambda p: p[:14] + b"\x65" + p[15:],
    "header length beyond the packet": lambda p: p[:14] + b"\x4f" + p[15:34],
    "total length below the header": lambda p: p[:16] + b"\x00\x13" + p[18:],
    "total length beyond the packet": lambda p: p[:16] + b"\x0f\xff" + p[18:],
    "cut inside the ports": lambda p: p[:16] + b"\x00\x16" + p[18:36],
    "cut before the flags": lambda p: p[:16] + b"\x00\x1e" + p[18:44],
    "TCP header length below five words": lambda p: p[:46] + b"\x40" + p[47:],
}


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN)
def test_a_broken_packet_is_dropped_as_invalid(node: PacketNode, damage) -> None:  # type: ignore[no-untyped-def]
    frame = damage(Packet(POD, REMOTE_POD).frame())
    assert node.send(frame).drop is Reason.INVALID_PACKET


@pytest.mark.parametrize(("protocol", "needed"), [(TCP, 14), (UDP, 4), (SCTP, 8), (ICMP, 8)])
def test_what_a_frame_has_behind_the_end_of_its_packet_are_no_ports(
    node: PacketNode, protocol: int, needed: int
) -> None:
    """The receiver cuts it off: a first fragment could show ports or flags there, and have others in the second."""
    frame = Packet(POD, REMOTE_POD, protocol, fragment=0x2000).frame()
    for length in range(20, 20 + needed):
        assert node.send(frame[:16] + struct.pack("!H", length) + frame[18:]).drop is Reason.INVALID_PACKET, length
    assert node.send(frame[:16] + struct.pack("!H", 20 + needed) + frame[18:]).verdict != SHOT


def test_random_bytes_behind_an_ethernet_header_never_pass(node: PacketNode) -> None:
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    for _ in range(300):
        frame = ETHERNET + rng.randbytes(rng.randrange(20, 120))
        assert node.send(frame).verdict == SHOT, f"seed {seed}: {frame.hex()}"


def test_other_link_protocols_do_not_pass(node: PacketNode) -> None:
    assert node.send(ETHERNET[:12] + b"\x88\x47" + bytes(40)).drop is Reason.UNSUPPORTED_L2


def test_ipv6_passes_only_where_nothing_is_enforced(node: PacketNode) -> None:
    frame = ETHERNET[:12] + b"\x86\xdd" + b"\x60" + bytes(7) + bytes(range(32)) + bytes(20)
    assert node.send(frame).verdict == PASS
    node.endpoint(flags=EndpointFlag.ENFORCE_INGRESS)
    assert node.send(frame).verdict == PASS
    node.endpoint(flags=EndpointFlag.ENFORCE_EGRESS)
    out = node.send(frame)
    assert out.drop is Reason.UNSUPPORTED_L3
    assert out.event(EventType.DROP).source == "1:203:405:607:809:a0b:c0d:e0f"


# overlay ------------------------------------------------------------------------------------------------------------


def test_a_packet_of_a_known_peer_is_delivered(node: PacketNode) -> None:
    out = node.overlay(Packet(REMOTE_POD, POD))
    assert out.verdict == REDIRECT
    assert out.event(EventType.TRACE).source_identity == REMOTE_ID


def test_an_unknown_identity_from_the_tunnel_is_never_allowed_by_a_port_rule(node: PacketNode) -> None:
    node.endpoint(flags=EndpointFlag.ENFORCE_INGRESS)
    assert node.overlay(Packet(REMOTE_POD, POD), identity=0).drop is Reason.UNKNOWN_IDENTITY


def test_an_error_for_a_pod_that_is_gone_is_not_answered(node: PacketNode) -> None:
    out = node.overlay(icmp_error(REMOTE_POD, Packet("10.1.1.99", REMOTE_POD, UDP)))
    assert out.drop is Reason.UNROUTABLE


def test_the_program_itself_refuses_a_packet_without_tunnel_metadata(node: PacketNode) -> None:
    out = node._run(node.datapath.program_fd("mesh_from_overlay"), Packet(REMOTE_POD, POD), 0, 0)
    assert out.drop is Reason.NO_TUNNEL_KEY


# fragments ----------------------------------------------------------------------------------------------------------


def _fragments(packet: Packet) -> tuple[Packet, Packet]:
    """The datagram in two: the second starts 16 bytes into the transport header and payload."""
    body = packet.transport()
    first = replace(packet, fragment=0x2000)
    second = replace(packet, fragment=2, payload=body[16:])
    return first, second


def test_later_fragments_follow_the_first_one(node: PacketNode) -> None:
    node.service([(1, REMOTE_POD, 9090)], UDP)
    first, second = _fragments(Packet(POD, VIP, UDP, payload=b"x" * 64, identification=99))
    assert node.send(first).packet.destination == REMOTE_POD
    out = node.send(second)
    assert (out.verdict, out.packet.destination) == (REDIRECT, REMOTE_POD)
    assert out.packet.payload == second.payload


def test_a_fragment_whose_first_was_not_seen_is_dropped(node: PacketNode) -> None:
    _, second = _fragments(Packet(POD, REMOTE_POD, UDP, payload=b"x" * 64, identification=100))
    assert node.send(second).drop is Reason.FIRST_FRAGMENT_MISSING


def test_nobody_says_which_ports_the_fragments_of_another_have(node: PacketNode) -> None:
    """Whoever may not send under an address may not send the first fragment either: by a pod, the overlay, the stack."""
    _, later_of_neighbour = _fragments(Packet(NEIGHBOUR, POD, UDP, payload=b"x" * 64, identification=101))
    first, _ = _fragments(Packet(NEIGHBOUR, POD, UDP, payload=b"x" * 64, identification=101))
    assert node.send(first).drop is Reason.INVALID_SOURCE_IP
    assert node.overlay(first).drop is Reason.FOREIGN_SOURCE
    assert node.receive(later_of_neighbour).drop is Reason.FIRST_FRAGMENT_MISSING
    first, later = _fragments(Packet(REMOTE_POD, POD, UDP, payload=b"x" * 64, identification=102))
    assert node.receive(first).drop is Reason.NOT_BY_TUNNEL
    assert node.overlay(later).drop is Reason.FIRST_FRAGMENT_MISSING
    assert node.overlay(first).verdict == node.overlay(later).verdict == REDIRECT


@pytest.mark.parametrize("protocol", [TCP, UDP])
@pytest.mark.parametrize("destination", [REMOTE_POD, VIP], ids=["pod", "service"])
def test_a_packet_too_big_for_the_overlay_is_answered_with_the_mtu(
    node: PacketNode, protocol: int, destination: str
) -> None:
    node.service([(1, REMOTE_POD, 9090)], protocol)
    out = node.send(Packet(POD, destination, protocol, payload=b"x" * 1440))
    assert out.verdict == REDIRECT
    assert (out.packet.protocol, out.packet.source_port) == (ICMP, 3 << 8 | 4)
    assert (out.packet.source, out.packet.destination) == (destination, POD)
    assert out.event(EventType.DROP).reason == Reason.FRAGMENTATION_NEEDED
    quote = read_quote(out.packet)
    assert (quote.source, quote.destination, quote.source_port) == (POD, destination, 40000)
    assert quote.destination_port == 80


def test_a_packet_that_fits_or_may_be_fragmented_is_sent(node: PacketNode) -> None:
    for packet in (
        Packet(POD, REMOTE_POD, UDP, payload=b"x" * 1422),
        Packet(POD, REMOTE_POD, UDP, payload=b"x" * 1440, fragment=0),
    ):
        out = node.send(packet)
        assert (out.verdict, out.packet.protocol) == (REDIRECT, UDP)


# ICMP errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_an_icmp_error_about_a_service_packet_quotes_what_the_pod_sent(node: PacketNode, protocol: int) -> None:
    node.endpoint(flags=0)
    node.service([(1, REMOTE_POD, 9090)], protocol)
    sent = node.send(Packet(POD, VIP, protocol)).packet
    node.endpoint(flags=EndpointFlag.ENFORCE_INGRESS, revision=2)
    out = node.overlay(icmp_error(REMOTE_POD, sent))
    assert out.verdict == REDIRECT
    quote = read_quote(out.packet)
    assert (quote.destination, quote.destination_port) == (VIP, 80)
    assert (quote.source, quote.source_port) == (POD, 40000)


def test_an_icmp_error_of_a_hairpin_quotes_what_the_pod_sent(node: PacketNode) -> None:
    node.service([(1, POD, 9090)], UDP)
    sent = node.send(Packet(POD, VIP, UDP)).packet
    out = node.send(icmp_error(POD, sent))
    assert (out.verdict, out.packet.destination) == (REDIRECT, POD)
    quote = read_quote(out.packet)
    assert (quote.source, quote.destination, quote.destination_port) == (POD, VIP, 80)


def test_an_icmp_error_about_no_known_connection_is_dropped(node: PacketNode) -> None:
    error = icmp_error(REMOTE_POD, Packet(POD, REMOTE_POD, source_port=1))
    assert node.overlay(error).drop is Reason.UNRELATED_ICMP_ERROR
    error = icmp_error(POD, Packet(REMOTE_POD, POD, source_port=1))
    assert node.send(error).drop is Reason.UNRELATED_ICMP_ERROR


def test_a_pods_icmp_error_about_a_packet_it_got_passes(node: PacketNode) -> None:
    got = Packet(REMOTE_POD, POD, UDP, destination_port=9)
    node.overlay(got)
    node.endpoint(flags=EndpointFlag.ENFORCE_EGRESS, revision=2)
    assert node.send(icmp_error(POD, got)).verdict == REDIRECT


def test_an_icmp_error_in_fragments_is_dropped(node: PacketNode) -> None:
    got = Packet(REMOTE_POD, POD, UDP, destination_port=9)
    node.overlay(got)
    error = icmp_error(POD, got)
    assert node.send(replace(error, fragment=0x2000)).drop is Reason.INVALID_PACKET
    assert node.send(error).verdict == REDIRECT


def test_a_truncated_quote_is_dropped(node: PacketNode) -> None:
    error = replace(icmp_error(REMOTE_POD, Packet(POD, REMOTE_POD)), payload=b"\x45" + bytes(10))
    assert node.overlay(error).drop is Reason.INVALID_PACKET


def test_echo_and_its_reply_are_one_flow(node: PacketNode) -> None:
    node.send(Packet(POD, WORLD, ICMP, 8 << 8, 7))
    node.endpoint(flags=EndpointFlag.ENFORCE_INGRESS, revision=2)
    assert node.receive(Packet(WORLD, POD, ICMP, 0, 7)).verdict == PASS
    assert node.receive(Packet(WORLD, POD, ICMP, 0, 8)).drop is Reason.POLICY_DENIED
