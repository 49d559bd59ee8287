# SPDX-License-Identifier: Apache-2.0
"""Addresses that answer some sources only, packet by packet: pods and who comes from outside."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.datapath.flow_layout import HeartbeatKey, HeartbeatValue
from agent.datapath.layout import ServiceFlag
from agent.datapath.reasons import Reason
from agent.datapath.source_range_layout import SourceRangeKey, SourceRangeValue
from tests.packet.packet_bytes import ACK, SYN, TCP, UDP, Packet
from tests.packet.packet_node import NEIGHBOUR, PASS, POD, REDIRECT, REMOTE_POD, VIP, WORLD, PacketNode

pytestmark = pytest.mark.root
REMOTE, LOCAL = (2, REMOTE_POD, 9090), (1, NEIGHBOUR, 8080)
RESTRICTED = int(ServiceFlag.OF_NODE | ServiceFlag.OF_OUTSIDERS | ServiceFlag.SOURCE_RANGES)
SERVICE_ID = 7


def allow(node: PacketNode, *ranges: str, service_id: int = SERVICE_ID) -> None:
    """The service answers these and nobody else."""
    held = node.maps.source_ranges
    held.delete([key for key, _ in held.items()])
    held.update([(SourceRangeKey(service_id, text), SourceRangeValue()) for text in ranges])


@pytest.mark.parametrize("protocol", [TCP, UDP])
@pytest.mark.parametrize(
    ("ranges", "is_led"),
    [
        (("10.1.1.10/32",), True),
        (("10.1.1.11/32", "10.1.0.0/16"), True),
        (("0.0.0.0/0",), True),
        (("10.1.1.11/32", "10.2.0.0/16"), False),
        ((), False),
    ],
    ids=["its address", "its network", "everybody", "others", "nobody"],
)
def test_a_pod_is_led_if_its_address_is_in_a_range(
    node: PacketNode, protocol: int, ranges: tuple[str, ...], is_led: bool
) -> None:
    node.service([REMOTE], protocol, reach=RESTRICTED)
    allow(node, *ranges)
    out = node.send(Packet(POD, VIP, protocol))
    if is_led:
        assert (out.verdict, out.packet.destination) == (REDIRECT, REMOTE_POD)
    else:
        assert out.drop is Reason.NOT_IN_SOURCE_RANGE
        assert out.packet == Packet(POD, VIP, protocol), "nothing is translated"


def test_the_ranges_of_another_frontend_let_nobody_in(node: PacketNode) -> None:
    node.service([REMOTE], reach=RESTRICTED)
    allow(node, "0.0.0.0/0", service_id=SERVICE_ID + 1)
    assert node.send(Packet(POD, VIP)).drop is Reason.NOT_IN_SOURCE_RANGE


@pytest.mark.parametrize("backend", [REMOTE, LOCAL], ids=["remote", "own"])
def test_who_comes_from_outside_is_judged_before_a_backend_is_chosen(
    node: PacketNode, backend: tuple[int, str, int]
) -> None:
    node.service([backend], reach=RESTRICTED)
    allow(node, "198.51.100.0/24")
    assert node.outside(Packet(WORLD, VIP)).drop is Reason.NOT_IN_SOURCE_RANGE
    assert not [*node.nat.entries()], "nothing is remembered of it"
    assert node.outside(Packet("198.51.100.9", VIP)).verdict == (REDIRECT if backend is REMOTE else PASS)


def test_connections_that_are_open_go_on_when_a_range_goes_and_no_new_one_opens_on_their_ports(
    node: PacketNode,
) -> None:
    node.service([REMOTE], reach=RESTRICTED)
    allow(node, "0.0.0.0/0")
    for send, client in ((node.send, POD), (node.outside, WORLD)):
        asked = Packet(client, VIP)
        led = send(asked).packet
        node.overlay(replace(led.reverse, ttl=64, flags=SYN | ACK))
        send(replace(asked, flags=ACK))
        allow(node)
        assert send(replace(asked, flags=ACK)).packet.destination == REMOTE_POD
        assert send(asked).drop is Reason.NOT_IN_SOURCE_RANGE
        assert send(replace(asked, source_port=40001)).drop is Reason.NOT_IN_SOURCE_RANGE
        allow(node, "0.0.0.0/0")


def test_affinity_does_not_let_in_who_was_let_in_before(node: PacketNode) -> None:
    node.service([REMOTE], affinity_s=600, reach=RESTRICTED)
    allow(node, "10.1.0.0/16")
    assert node.send(Packet(POD, VIP)).verdict == REDIRECT
    allow(node, "10.2.0.0/16")
    assert node.send(Packet(POD, VIP, source_port=40001)).drop is Reason.NOT_IN_SOURCE_RANGE


def test_while_no_agent_attends_the_stack_decides(node: PacketNode) -> None:
    node.service([REMOTE], reach=RESTRICTED)
    node.maps.heartbeat.update([(HeartbeatKey(0), HeartbeatValue(1))])
    assert node.send(Packet(POD, VIP)).verdict == PASS
    assert node.outside(Packet(WORLD, VIP)).verdict == PASS
