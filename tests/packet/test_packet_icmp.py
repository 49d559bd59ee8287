# SPDX-License-Identifier: Apache-2.0
"""Flows of ICMP, packet by packet: a verdict on one type opens no other, and only the reply answers a query."""

from __future__ import annotations

import pytest

from agent.datapath.layout import Direction, EndpointFlag, PolicyKey
from tests.packet.packet_bytes import ICMP, Packet, icmp_error
from tests.packet.packet_node import ENDPOINT_ID, PASS, POD, SHOT, WORLD, PacketNode

pytestmark = pytest.mark.root
WORLD_ID = 2
ECHO, ECHO_REPLY = 8, 0
QUERIES = {ECHO: ECHO_REPLY, 13: 14, 15: 16, 17: 18}
TYPES = (ECHO_REPLY, 4, 5, ECHO, 9, 10, 13, 14, 15, 16, 17, 18, 40, 255)
IDS = (0, 7, 0x80, 0x0800, 0x8000, 0xFFFF)


def to_pod(kind: int, identification: int = 0) -> Packet:
    return Packet(WORLD, POD, ICMP, kind << 8, identification)


def from_pod(kind: int, identification: int = 0) -> Packet:
    return Packet(POD, WORLD, ICMP, kind << 8, identification)


@pytest.mark.parametrize("allowed", TYPES)
def test_a_type_that_is_let_in_opens_no_other(node: PacketNode, allowed: int) -> None:
    node.endpoint(EndpointFlag.ENFORCE_INGRESS)
    node.policy(PolicyKey(ENDPOINT_ID, Direction.INGRESS, WORLD_ID, ICMP, allowed, 16))
    assert all(node.receive(to_pod(allowed, i)).verdict == PASS for i in IDS)
    passed = {(kind, i) for kind in TYPES for i in IDS if node.receive(to_pod(kind, i)).verdict != SHOT}
    assert passed == {(allowed, i) for i in IDS}


@pytest.mark.parametrize("sent", TYPES)
@pytest.mark.parametrize("identification", IDS)
def test_only_the_reply_to_what_a_pod_asked_comes_in(node: PacketNode, sent: int, identification: int) -> None:
    node.endpoint(EndpointFlag.ENFORCE_INGRESS)
    assert node.send(from_pod(sent, identification)).verdict == PASS
    passed = {(kind, i) for kind in TYPES for i in IDS if node.receive(to_pod(kind, i)).verdict != SHOT}
    assert passed == ({(QUERIES[sent], identification)} if sent in QUERIES else set())


@pytest.mark.parametrize("query", QUERIES)
def test_a_pod_that_may_be_asked_may_answer_and_not_ask(node: PacketNode, query: int) -> None:
    node.endpoint(EndpointFlag.ENFORCE_EGRESS)
    assert node.receive(to_pod(query, 7)).verdict == PASS
    assert node.send(from_pod(QUERIES[query], 7)).verdict == PASS
    assert node.send(from_pod(query, 7)).verdict == SHOT


@pytest.mark.parametrize("identification", IDS)
def test_an_error_about_a_ping_comes_in_and_one_about_no_ping_does_not(node: PacketNode, identification: int) -> None:
    node.endpoint(EndpointFlag.ENFORCE_INGRESS)
    ping = from_pod(ECHO, identification)
    assert node.receive(icmp_error(WORLD, ping)).verdict == SHOT
    assert node.send(ping).verdict == PASS
    assert node.receive(icmp_error(WORLD, ping)).verdict == PASS
    assert node.receive(icmp_error(WORLD, from_pod(ECHO, identification ^ 1))).verdict == SHOT
