# SPDX-License-Identifier: Apache-2.0
"""Flows of ICMP, packet by packet: a verdict on one type opens no other, and only the reply answers a query."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.datapath.layout import Direction, EndpointFlag, PolicyKey
from agent.datapath.reasons import Reason
from tests.packet.packet_bytes import ICMP, UDP, Packet, icmp_error
from tests.packet.packet_node import (
    ENDPOINT_ID,
    NEIGHBOUR,
    NODE,
    PASS,
    POD,
    REDIRECT,
    REMOTE_NODE,
    REMOTE_POD,
    SHOT,
    VIP,
    WORLD,
    PacketNode,
)

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


# whose errors -------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(node: PacketNode) -> Packet:
    """A question of REMOTE_POD that reached POD, which may send nothing that answers no question."""
    question = Packet(REMOTE_POD, POD, UDP, destination_port=9)
    assert node.overlay(question).verdict == REDIRECT
    node.endpoint(EndpointFlag.ENFORCE_EGRESS, revision=2)
    return question


@pytest.mark.parametrize("to", [WORLD, NEIGHBOUR, NODE, REMOTE_NODE, VIP])
def test_a_pod_sends_errors_to_nobody_but_the_sender_of_what_they_quote(
    node: PacketNode, asked: Packet, to: str
) -> None:
    node.service([(2, REMOTE_POD, 9090)], UDP)
    assert node.send(icmp_error(POD, asked)).verdict == REDIRECT
    assert node.send(replace(icmp_error(POD, asked), destination=to)).drop is Reason.UNRELATED_ICMP_ERROR


def test_a_pod_sends_no_error_about_what_came_to_another_pod(node: PacketNode) -> None:
    question = Packet(REMOTE_POD, NEIGHBOUR, UDP, destination_port=9)
    node.overlay(question)
    assert node.send(icmp_error(POD, question)).drop is Reason.UNRELATED_ICMP_ERROR
    own = Packet(POD, REMOTE_POD, UDP)
    node.send(own)
    assert node.send(icmp_error(POD, own.reverse)).verdict == REDIRECT
    assert node.send(replace(icmp_error(POD, own), destination=REMOTE_POD)).drop is Reason.UNRELATED_ICMP_ERROR


def test_a_pod_sends_no_error_about_what_a_service_sent_to_another_pod(node: PacketNode) -> None:
    node.service([(2, REMOTE_POD, 9090)], UDP)
    node.send(Packet(POD, VIP, UDP))
    assert node.send(icmp_error(POD, Packet(VIP, POD, UDP, 80, 40000))).verdict == REDIRECT
    flows = [(key._replace(source=NEIGHBOUR), value) for key, value in node.maps.conntrack_opening.items()]
    node.maps.conntrack_opening.update(flows)
    assert node.send(icmp_error(POD, Packet(VIP, NEIGHBOUR, UDP, 80, 40000))).drop is Reason.UNRELATED_ICMP_ERROR


@pytest.mark.parametrize("flags", [0, EndpointFlag.ENFORCE_INGRESS], ids=["open", "enforced"])
def test_an_error_about_what_another_pod_sent_does_not_come_in(node: PacketNode, flags: int) -> None:
    node.endpoint(flags)
    of_neighbour = Packet(NEIGHBOUR, REMOTE_POD, UDP, 9, 40000)
    node.overlay(of_neighbour.reverse)
    assert node.overlay(icmp_error(REMOTE_POD, of_neighbour)).verdict == REDIRECT
    assert (
        node.overlay(replace(icmp_error(REMOTE_POD, of_neighbour), destination=POD)).drop is Reason.UNRELATED_ICMP_ERROR
    )
