# SPDX-License-Identifier: Apache-2.0
"""SCTP through services, frame by frame: both ends are translated and the CRC32c over the ports stays right."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.datapath.layout import BackendKey, MemberKey, ServiceFlag
from agent.datapath.reasons import Reason
from tests.packet.packet_bytes import ACK, ICMP, SCTP, Packet, crc32c, icmp_error, read_quote
from tests.packet.packet_node import NEIGHBOUR, PASS, POD, REDIRECT, REMOTE_NODE, REMOTE_POD, VIP, WORLD, PacketNode

pytestmark = pytest.mark.root
REMOTE, LOCAL, ITSELF = (2, REMOTE_POD, 9090), (1, NEIGHBOUR, 8080), (3, POD, 8080)


def test_the_checksum_of_the_twin_is_that_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize("length", [0, 1, 5, 100, 255, 1000, 1400])
@pytest.mark.parametrize("backend", [REMOTE, LOCAL], ids=["remote", "own"])
def test_an_association_goes_to_a_backend_and_its_answers_come_from_the_service(
    node: PacketNode, backend: tuple[int, str, int], length: int
) -> None:
    node.service([backend], SCTP)
    asked = Packet(POD, VIP, SCTP, payload=(bytes(range(256)) * 6)[:length])
    out = node.send(asked)
    assert out.verdict == REDIRECT
    assert (out.packet.destination, out.packet.destination_port) == backend[1:]
    assert (out.packet.source_port, out.packet.payload) == (asked.source_port, asked.payload)
    if backend is REMOTE:
        back = node.overlay(replace(out.packet.reverse, ttl=64))
        assert (back.packet.source, back.packet.source_port, back.packet.destination) == (VIP, 80, POD)


def test_a_checksum_that_the_device_makes_is_left_to_it(node: PacketNode) -> None:
    node.service([REMOTE], SCTP)
    out = node.send(Packet(POD, VIP, SCTP, udp_checksum=False))
    assert (out.packet.destination_port, out.packet.udp_checksum) == (9090, False)


def test_a_wrong_checksum_stays_wrong(node: PacketNode) -> None:
    node.service([REMOTE], SCTP)
    frame = bytearray(Packet(POD, VIP, SCTP).frame())
    frame[-1] ^= 1
    body = node.raw(bytes(frame))[34:]
    assert int.from_bytes(body[2:4], "big") == 9090
    assert int.from_bytes(body[8:12], "little") != crc32c(body[:8] + bytes(4) + body[12:])


def test_a_pod_reaches_itself(node: PacketNode) -> None:
    node.service([ITSELF], SCTP)
    out = node.send(Packet(POD, VIP, SCTP))
    assert (out.verdict, out.packet.destination, out.packet.destination_port) == (REDIRECT, POD, 8080)
    back = node.send(out.packet.reverse)
    assert (back.packet.source, back.packet.source_port, back.packet.destination) == (VIP, 80, POD)


def test_an_association_stays_with_its_backend_until_that_is_gone(node: PacketNode) -> None:
    node.service([REMOTE, LOCAL], SCTP)
    chosen = {node.send(Packet(POD, VIP, SCTP, source_port=port)).packet.destination for port in range(1000, 1030)}
    assert chosen == {REMOTE_POD, NEIGHBOUR}
    asked = next(
        packet
        for packet in (Packet(POD, VIP, SCTP, source_port=port) for port in range(1000, 1030))
        if node.send(packet).packet.destination == REMOTE_POD
    )
    node.maps.members.delete([MemberKey(7, 2)])
    node.service([LOCAL], SCTP)
    within = replace(asked, flags=ACK)
    assert {node.send(within).packet.destination for _ in range(4)} == {REMOTE_POD}
    node.maps.backends.delete([BackendKey(2)])
    node.maps.ipcache.delete([k for k, _ in node.maps.ipcache.items() if k.prefix == f"{REMOTE_POD}/32"])
    assert node.send(within).answered is Reason.NO_BACKEND
    assert node.send(asked).packet.destination == NEIGHBOUR, "a new association on its ports goes to another one"


def test_an_association_older_than_the_programs_is_left_to_the_stack(node: PacketNode) -> None:
    node.service([REMOTE], SCTP)
    asked = Packet(POD, VIP, SCTP, flags=ACK)
    out = node.send(asked)
    assert (out.verdict, out.packet) == (PASS, asked)


def test_without_a_backend_it_is_refused(node: PacketNode) -> None:
    node.service([], SCTP)
    out = node.send(Packet(POD, VIP, SCTP))
    assert out.answered is Reason.NO_BACKEND
    assert (out.packet.protocol, out.packet.source) == (ICMP, VIP)


def test_an_error_about_it_names_the_service(node: PacketNode) -> None:
    node.service([REMOTE], SCTP)
    led = node.send(Packet(POD, VIP, SCTP)).packet
    back = node.overlay(icmp_error(REMOTE_NODE, led), identity=6)
    assert back.verdict == REDIRECT
    quoted = read_quote(back.packet)
    assert (quoted.source, quoted.destination, quoted.destination_port) == (POD, VIP, 80)


def test_the_first_fragment_of_one_is_dropped_where_its_port_would_change(node: PacketNode) -> None:
    """Its checksum is over all fragments. Where the port stays, addresses change alone and it passes."""
    first = Packet(POD, VIP, SCTP, fragment=0x2000, payload=bytes(40))
    node.service([REMOTE], SCTP)
    assert node.send(first).drop is Reason.WRITE_ERROR
    node.service([(2, REMOTE_POD, 80)], SCTP)
    assert node.send(replace(first, source_port=40001)).packet.destination == REMOTE_POD


def test_outsiders_are_left_to_the_clusters_proxy(node: PacketNode) -> None:
    node.service([REMOTE], SCTP, reach=int(ServiceFlag.OF_NODE | ServiceFlag.OF_OUTSIDERS))
    assert node.outside(Packet(WORLD, VIP, SCTP)).verdict == PASS
