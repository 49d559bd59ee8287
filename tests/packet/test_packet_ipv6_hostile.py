# SPDX-License-Identifier: Apache-2.0
"""Broken and random packets of IPv6: whatever their bytes say, nothing passes that no policy allows."""

from __future__ import annotations

import random
import struct
from dataclasses import replace

import pytest

from agent.datapath.layout import Direction, EndpointFlag, PolicyKey
from agent.datapath.reasons import Reason
from tests.packet.packet_bytes import SCTP, TCP, UDP
from tests.packet.packet_bytes6 import ECHO, ICMPV6, Packet6, discovery, fragment6, icmp_error6
from tests.packet.packet_node import ENDPOINT_ID, NODE6, POD6, REDIRECT, REMOTE_POD6, SHOT, PacketNode

pytestmark = pytest.mark.root
BOTH = EndpointFlag.ENFORCE_EGRESS | EndpointFlag.ENFORCE_INGRESS
OPTIONS = (60, bytes([0, 1, 4, 0, 0, 0, 0]))
PACKETS = {
    "TCP": Packet6(POD6, REMOTE_POD6, TCP),
    "UDP": Packet6(POD6, REMOTE_POD6, UDP),
    "SCTP": Packet6(POD6, REMOTE_POD6, SCTP),
    "echo": Packet6(POD6, REMOTE_POD6, ICMPV6, ECHO << 8, 7),
    "error": icmp_error6(POD6, Packet6(REMOTE_POD6, POD6)),
    "options": Packet6(POD6, REMOTE_POD6, TCP, extensions=(OPTIONS, (0, OPTIONS[1]))),
    "first fragment": Packet6(POD6, REMOTE_POD6, UDP, extensions=(fragment6(7, 0, more=True),)),
    "later fragment": Packet6(
        POD6, REMOTE_POD6, UDP, extensions=(fragment6(7, 3, more=False),), is_later_fragment=True
    ),
}
FIRST_BYTE, SEED = 14, 20261128
SHORTEST = 40  # bytes after the link header, of an IPv6 header, without which the kernel makes no test run


@pytest.mark.parametrize("packet", PACKETS.values(), ids=PACKETS)
def test_a_packet_that_ends_early_is_dropped(node6: PacketNode, packet: Packet6) -> None:
    frame = packet.frame()
    for length in range(FIRST_BYTE + SHORTEST, len(frame)):
        assert node6.send(frame[:length]).drop is Reason.INVALID_PACKET, length


@pytest.mark.parametrize(("protocol", "needed"), [(TCP, 14), (UDP, 4), (SCTP, 8), (ICMPV6, 8)])
def test_what_a_frame_has_behind_the_end_of_its_packet_are_no_ports(
    node6: PacketNode, protocol: int, needed: int
) -> None:
    """The receiver cuts it off: a first fragment could show ports there, and have others in the second."""
    frame = Packet6(POD6, REMOTE_POD6, protocol, extensions=(fragment6(7, 0, more=True), OPTIONS)).frame()
    for length in range(1, 16 + needed):
        assert node6.send(frame[:18] + struct.pack("!H", length) + frame[20:]).drop is Reason.INVALID_PACKET, length
    assert node6.send(frame[:18] + struct.pack("!H", 16 + needed) + frame[20:]).verdict != SHOT


def test_headers_behind_the_end_of_a_packet_lead_to_no_other_fragment(node6: PacketNode) -> None:
    """The receiver cuts them off, and reads on in the next fragment: there another port could stand."""
    node6.endpoint(flags=EndpointFlag.ENFORCE_EGRESS)
    node6.policy(PolicyKey(ENDPOINT_ID, Direction.EGRESS, 0, UDP, 80, 16))
    first = Packet6(POD6, REMOTE_POD6, UDP, destination_port=80, extensions=(fragment6(7, 0, more=True),))
    assert node6.send(first).verdict == REDIRECT
    later = fragment6(7, 3, more=False)
    for extensions in ((OPTIONS, OPTIONS, later), (OPTIONS, later)):
        frame = replace(first, extensions=(fragment6(8, 0, more=True), *extensions), is_later_fragment=True).frame()
        assert node6.send(frame[:18] + struct.pack("!H", 16) + frame[20:]).drop is Reason.INVALID_PACKET
    nested = replace(first, extensions=(fragment6(8, 0, more=True), later), is_later_fragment=True)
    assert node6.send(nested).drop is Reason.INVALID_IPV6_EXTENSION, "a fragment within a fragment"


def test_an_icmp_error_in_fragments_is_dropped(node6: PacketNode) -> None:
    got = Packet6(REMOTE_POD6, POD6, UDP)
    node6.overlay(got)
    error = icmp_error6(POD6, got)
    assert node6.send(replace(error, extensions=(fragment6(7, 0, more=True),))).drop is Reason.INVALID_PACKET
    assert node6.send(error).verdict == REDIRECT


@pytest.mark.parametrize("packet", PACKETS.values(), ids=PACKETS)
def test_no_changed_packet_passes_where_nothing_is_allowed(node6: PacketNode, packet: Packet6) -> None:
    """The type of ICMPv6 stays: discovery is what may pass."""
    node6.endpoint(flags=BOTH)
    chance, frame = random.Random(SEED), packet.frame()
    for _ in range(300):
        changed = bytearray(frame)
        for _ in range(chance.randint(1, 4)):
            changed[chance.randrange(FIRST_BYTE, len(frame))] = chance.randrange(256)
        if changed[20] == ICMPV6 and not changed[54] < 130:
            continue
        assert node6.send(bytes(changed)).verdict == SHOT, f"seed {SEED}: {changed.hex()}"
        assert node6.receive(bytes(changed)).verdict == SHOT, f"seed {SEED}: {changed.hex()}"


def test_no_changed_discovery_passes_with_another_source_or_target(node6: PacketNode) -> None:
    chance, frame = random.Random(SEED), discovery(POD6, NODE6, 136, POD6, option=2).frame()
    addresses = [*range(22, 38), *range(62, 78)]
    for _ in range(300):
        changed = bytearray(frame)
        place = chance.choice(addresses)
        changed[place] ^= chance.randrange(1, 256)
        assert node6.send(bytes(changed)).verdict == SHOT, f"seed {SEED}: {changed.hex()}"
