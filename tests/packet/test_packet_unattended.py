# SPDX-License-Identifier: Apache-2.0
"""Without an agent for long, new connections are left to the node's stack; open ones and policy stay as they are."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from agent.datapath.flow_layout import ConntrackKey, ConntrackKind, HeartbeatKey, HeartbeatValue
from agent.datapath.layout import EndpointFlag, PolicyKey
from agent.datapath.reasons import Reason
from tests.packet.packet_bytes import ACK, FIN, RST, SYN, TCP, UDP, Packet
from tests.packet.packet_node import (
    ENDPOINT_ID,
    NEIGHBOUR,
    PASS,
    POD,
    REDIRECT,
    REMOTE_POD,
    UNATTENDED_AFTER_S,
    VIP,
    PacketNode,
)

pytestmark = pytest.mark.root
REMOTE = (2, REMOTE_POD, 9090)


def _last_beat(node: PacketNode, ago_s: float) -> None:
    beaten_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - int(ago_s * 10**9)
    node.maps.heartbeat.update([(HeartbeatKey(), HeartbeatValue(max(0, beaten_ns)))])


@pytest.fixture
def unattended(node: PacketNode) -> PacketNode:
    _last_beat(node, UNATTENDED_AFTER_S + 3)
    return node


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_a_new_connection_to_a_service_is_left_to_the_stack(unattended: PacketNode, protocol: int) -> None:
    before = unattended.metric(Reason.FLOW_UNATTENDED, 0)
    unattended.service([REMOTE], protocol)
    for flags in (2, ACK):
        out = unattended.send(Packet(POD, VIP, protocol, flags=flags))
        assert (out.verdict, out.packet.destination) == (PASS, VIP)
    assert unattended.metric(Reason.FLOW_UNATTENDED, 0) == before + 1


def test_a_service_without_backends_is_not_refused(unattended: PacketNode) -> None:
    unattended.service([])
    assert unattended.send(Packet(POD, VIP)).verdict == PASS


def test_an_answer_of_the_stacks_translation_reaches_the_pod(unattended: PacketNode) -> None:
    unattended.service([REMOTE])
    unattended.send(Packet(POD, VIP))
    unattended.endpoint(flags=EndpointFlag.ENFORCE_INGRESS, revision=2)
    assert unattended.receive(Packet(VIP, POD, source_port=80, destination_port=40000, flags=18)).verdict == PASS


def test_a_new_connection_to_a_pod_of_this_node_takes_the_cnis_way(unattended: PacketNode) -> None:
    out = unattended.send(Packet(POD, NEIGHBOUR))
    assert (out.verdict, out.packet.ttl) == (PASS, 64)


def test_a_pod_of_another_cluster_has_no_other_way(unattended: PacketNode) -> None:
    assert unattended.send(Packet(POD, REMOTE_POD)).verdict == REDIRECT


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_open_connections_go_on(node: PacketNode, protocol: int) -> None:
    node.service([REMOTE], protocol)
    node.send(Packet(POD, VIP, protocol))
    node.send(Packet(POD, NEIGHBOUR, protocol))
    _last_beat(node, UNATTENDED_AFTER_S + 3)
    assert node.send(Packet(POD, VIP, protocol, flags=ACK)).packet.destination == REMOTE_POD
    assert node.send(Packet(POD, NEIGHBOUR, protocol, flags=ACK)).verdict == REDIRECT


@pytest.mark.parametrize("last", [RST, FIN], ids=["over", "forgotten"])
def test_ports_that_led_to_a_backend_are_the_stacks_when_it_opens_a_connection_on_them(
    node: PacketNode, last: int
) -> None:
    node.service([REMOTE])
    answer = replace(node.send(Packet(POD, VIP)).packet.reverse, ttl=64)
    node.overlay(answer)
    node.send(Packet(POD, VIP, flags=ACK))
    node.overlay(replace(answer, flags=last | ACK))
    node.send(Packet(POD, VIP, flags=last | ACK))
    if last == FIN:
        node.maps.conntrack_tcp.delete([ConntrackKey(POD, REMOTE_POD, 40000, 9090, TCP, ConntrackKind.EGRESS)])
    _last_beat(node, UNATTENDED_AFTER_S + 3)
    for flags in (SYN, ACK):
        out = node.send(Packet(POD, VIP, flags=flags))
        assert (out.verdict, out.packet.destination) == (PASS, VIP)


def test_a_pod_whose_egress_is_judged_goes_on_with_what_is_known(unattended: PacketNode) -> None:
    """Left to the stack it would be judged by the service's address, which no rule names."""
    unattended.service([REMOTE])
    unattended.endpoint(flags=EndpointFlag.ENFORCE_EGRESS)
    assert unattended.send(Packet(POD, VIP)).drop is Reason.POLICY_DENIED
    unattended.policy(PolicyKey(ENDPOINT_ID, 0, (2 << 16) + 5))
    assert unattended.send(Packet(POD, VIP)).packet.destination == REMOTE_POD


def test_ingress_is_judged_as_ever(unattended: PacketNode) -> None:
    unattended.endpoint(flags=EndpointFlag.ENFORCE_INGRESS)
    assert unattended.receive(Packet(NEIGHBOUR, POD)).drop is Reason.POLICY_DENIED
    assert unattended.overlay(Packet(REMOTE_POD, POD)).drop is Reason.POLICY_DENIED


@pytest.mark.parametrize("ago_s", [0, UNATTENDED_AFTER_S - 3], ids=["now", "late"])
def test_a_beat_in_time_keeps_everything_as_it_is(node: PacketNode, ago_s: int) -> None:
    _last_beat(node, ago_s)
    node.service([REMOTE])
    assert node.send(Packet(POD, VIP)).packet.destination == REMOTE_POD


def test_the_next_beat_takes_new_connections_back(unattended: PacketNode) -> None:
    unattended.service([REMOTE])
    unattended.send(Packet(POD, VIP))
    _last_beat(unattended, 0)
    assert unattended.send(Packet(POD, VIP, flags=ACK)).packet.destination == VIP, "the stack has this one"
    assert unattended.send(Packet(POD, VIP, source_port=40001)).packet.destination == REMOTE_POD


def test_maps_nobody_ever_attended_to_are_used(node: PacketNode) -> None:
    """An agent that has just opened the maps has not beaten yet."""
    assert not list(node.maps.heartbeat.items())
    node.service([REMOTE])
    assert node.send(Packet(POD, VIP)).packet.destination == REMOTE_POD
