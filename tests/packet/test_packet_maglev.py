# SPDX-License-Identifier: Apache-2.0
"""Which slot a connection of a Maglev service takes, compared with the same sum made by hand, and what it outlives."""

from __future__ import annotations

import socket
import struct

import pytest

from agent.datapath.layout import ServiceAlgorithm
from tests.packet.packet_bytes import ACK, TCP, UDP, Packet
from tests.packet.packet_node import NEIGHBOUR, PASS, POD, REMOTE_POD, VIP, PacketNode

pytestmark = pytest.mark.root
LOCAL, REMOTE = (1, NEIGHBOUR, 8080), (2, REMOTE_POD, 9090)
MAGLEV = ServiceAlgorithm.MAGLEV
PORTS = range(1024, 1224)


def little(text: bytes) -> int:
    return int.from_bytes(text, "little")


def mixed(x: int) -> int:
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ((x ^ x >> shift) * factor) & 0xFFFFFFFF
    return x ^ x >> 16


def slot(client: str, source_port: int, protocol: int, slots: int) -> int:
    """By the definition in lb.h, on a little-endian machine."""
    ports = little(struct.pack(">H", source_port)) << 16 | little(struct.pack(">H", 80))
    x = mixed(mixed(little(socket.inet_aton(client))) ^ little(socket.inet_aton(VIP)))
    return mixed(mixed(x ^ ports) ^ protocol) % slots


def destinations(node: PacketNode, protocol: int) -> list[str]:
    return [node.send(Packet(POD, VIP, protocol, source_port=port)).packet.destination for port in PORTS]


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_addresses_and_ports_decide_the_slot(node: PacketNode, protocol: int) -> None:
    table = [LOCAL, REMOTE, REMOTE, LOCAL, REMOTE, LOCAL, LOCAL]
    node.service(table, protocol, algorithm=MAGLEV)
    expected = [table[slot(POD, port, protocol, len(table))][1] for port in PORTS]
    assert destinations(node, protocol) == expected
    assert min(expected.count(NEIGHBOUR), expected.count(REMOTE_POD)) > 50


def test_a_second_node_chooses_alike(node: PacketNode) -> None:
    node.service([LOCAL, REMOTE, REMOTE, LOCAL], algorithm=MAGLEV)
    first = destinations(node, TCP)
    node.reset()
    node.service([LOCAL, REMOTE, REMOTE, LOCAL], algorithm=MAGLEV)
    assert destinations(node, TCP) == first


def test_a_connection_outlives_the_loss_of_its_slot(node: PacketNode) -> None:
    node.service([LOCAL, LOCAL], algorithm=MAGLEV)
    assert node.send(Packet(POD, VIP)).packet.destination == NEIGHBOUR
    node.service([REMOTE, REMOTE], algorithm=MAGLEV)
    assert node.send(Packet(POD, VIP, flags=ACK)).packet.destination == NEIGHBOUR
    assert node.send(Packet(POD, VIP, source_port=40001)).packet.destination == REMOTE_POD


def test_a_client_that_keeps_its_backend_is_one_for_all_its_ports(node: PacketNode) -> None:
    """Also where nobody remembers it: another node would choose the same."""
    table = [LOCAL, REMOTE, REMOTE, LOCAL, REMOTE]
    node.service(table, affinity_s=60, algorithm=MAGLEV)
    found = set()
    for port in PORTS:
        found.add(node.send(Packet(POD, VIP, source_port=port)).packet.destination)
        node.maps.affinity.delete([key for key, _ in node.maps.affinity.items()])
    assert found == {table[slot(POD, 0, TCP, len(table))][1]}


def test_a_service_without_slots_refuses(node: PacketNode) -> None:
    node.service([], algorithm=MAGLEV)
    assert node.send(Packet(POD, VIP)).verdict != PASS
