# SPDX-License-Identifier: Apache-2.0
"""Policy, packet by packet: precedence, wildcards, unknown identities, and changes that reach open connections."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest

from agent.datapath.flow_layout import EventType, PolicyMatch
from agent.datapath.layout import Direction, EndpointFlag, PolicyKey
from agent.datapath.reasons import Reason
from tests.packet.packet_bytes import ACK, ICMP, SYN, TCP, UDP, Packet
from tests.packet.packet_node import (
    ENDPOINT_ID,
    NEIGHBOUR,
    NEIGHBOUR_ENDPOINT_ID,
    NEIGHBOUR_ID,
    PASS,
    POD,
    POD_ID,
    REDIRECT,
    REMOTE_ID,
    REMOTE_POD,
    SHOT,
    VIP,
    WORLD,
    Outcome,
    PacketNode,
)

pytestmark = pytest.mark.root
OUT, IN = Direction.EGRESS, Direction.INGRESS


class Rule(NamedTuple):
    identity: int
    protocol: int = 0
    port: int = 0
    port_bits: int = 0
    precedence: int = 1
    deny: bool = False


CASES = {
    "nothing allows": ([], 133, PolicyMatch.NONE),
    "identity allows": ([Rule(REMOTE_ID)], 0, PolicyMatch.L3_ONLY),
    "identity and port allow": ([Rule(REMOTE_ID, TCP, 80, 16)], 0, PolicyMatch.L3_L4),
    "identity and protocol allow": ([Rule(REMOTE_ID, TCP)], 0, PolicyMatch.L3_PROTOCOL),
    "anyone may use the port": ([Rule(0, TCP, 80, 16)], 0, PolicyMatch.L4_ONLY),
    "anyone may use the protocol": ([Rule(0, TCP)], 0, PolicyMatch.PROTOCOL_ONLY),
    "anyone may do anything": ([Rule(0)], 0, PolicyMatch.ALL),
    "a port range covers": ([Rule(REMOTE_ID, TCP, 64, 10)], 0, PolicyMatch.L3_L4),
    "a port range ends before": ([Rule(REMOTE_ID, TCP, 64, 12)], 133, PolicyMatch.NONE),
    "another identity": ([Rule(POD_ID)], 133, PolicyMatch.NONE),
    "another protocol": ([Rule(REMOTE_ID, UDP, 80, 16)], 133, PolicyMatch.NONE),
    "deny of the identity beats the wildcard": ([Rule(0, precedence=1), Rule(REMOTE_ID, precedence=255, deny=True)], 181, 1),
    "deny of anyone beats the identity": ([Rule(REMOTE_ID, precedence=1), Rule(0, precedence=255, deny=True)], 181, 4),
    "a higher allow beats a wildcard deny": ([Rule(REMOTE_ID, precedence=999), Rule(0, precedence=255, deny=True)], 0, 1),
    "a higher wildcard beats the identity's deny": ([Rule(REMOTE_ID, precedence=255, deny=True), Rule(0, precedence=999)], 0, 4),
    "the longest port prefix decides": ([Rule(REMOTE_ID, TCP, 0, 0, 1), Rule(REMOTE_ID, TCP, 80, 16, 255, True)], 181, 2),
    "a tie goes to the longer port prefix": ([Rule(REMOTE_ID), Rule(0, TCP, 80, 16)], 0, PolicyMatch.L4_ONLY),
    "a full tie goes to the identity": ([Rule(REMOTE_ID, TCP, 80, 16), Rule(0, TCP, 80, 16)], 0, PolicyMatch.L3_L4),
}  # fmt: skip


def _install(node: PacketNode, direction: Direction, rules: list[Rule], endpoint_id: int = ENDPOINT_ID) -> None:
    for rule in rules:
        key = PolicyKey(endpoint_id, direction, rule.identity, rule.protocol, rule.port, rule.port_bits)
        node.policy(key, rule.precedence, deny=rule.deny)


@pytest.mark.parametrize("direction", [OUT, IN])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_verdict_of_a_new_connection(
    node: PacketNode, direction: Direction, case: tuple[list[Rule], int, PolicyMatch]
) -> None:
    rules, reason, match = case
    node.endpoint(flags=EndpointFlag.ENFORCE_EGRESS | EndpointFlag.ENFORCE_INGRESS)
    _install(node, direction, rules)
    out = node.send(Packet(POD, REMOTE_POD)) if direction == OUT else node.overlay(Packet(REMOTE_POD, POD))
    verdict = out.event(EventType.POLICY_VERDICT)
    assert (verdict.reason, verdict.match, verdict.direction) == (reason, match, direction)
    peers = (POD_ID, REMOTE_ID) if direction == OUT else (REMOTE_ID, POD_ID)
    assert (verdict.source_identity, verdict.destination_identity) == peers
    assert out.verdict == (SHOT if reason else REDIRECT)


@pytest.mark.parametrize("protocol", [2, 4, 41, 47, 50, 51, 112])
def test_a_protocol_without_ports_is_judged_by_its_number(node: PacketNode, protocol: int) -> None:
    """IGMP, IPIP, IPv6, GRE, ESP, AH, VRRP: what opens TCP, or another of them, opens none; bytes are no ports."""
    node.endpoint(flags=EndpointFlag.ENFORCE_EGRESS | EndpointFlag.ENFORCE_INGRESS)
    packet = Packet(POD, REMOTE_POD, protocol)
    _install(node, IN, [Rule(0, protocol, precedence=255, deny=True), Rule(REMOTE_ID)])
    assert node.overlay(Packet(REMOTE_POD, POD, protocol)).drop is Reason.POLICY_DENY_RULE
    _install(node, OUT, [Rule(0, TCP), Rule(REMOTE_ID, UDP), Rule(0, protocol + 1)])
    assert node.send(packet).drop is Reason.POLICY_DENIED
    _install(node, OUT, [Rule(REMOTE_ID, protocol)])
    verdict = node.send(packet).event(EventType.POLICY_VERDICT)
    assert (verdict.reason, verdict.match) == (0, PolicyMatch.L3_PROTOCOL)


def test_a_direction_that_is_not_enforced_is_not_judged(node: PacketNode) -> None:
    node.endpoint(flags=EndpointFlag.ENFORCE_INGRESS)
    out = node.send(Packet(POD, REMOTE_POD))
    assert out.verdict == REDIRECT
    assert [e.type for e in out.events] == [EventType.TRACE]


def test_egress_is_judged_after_translation(node: PacketNode) -> None:
    node.endpoint(flags=EndpointFlag.ENFORCE_EGRESS)
    node.service([(1, REMOTE_POD, 9090)])
    _install(node, OUT, [Rule(REMOTE_ID, TCP, 80, 16)])
    assert node.send(Packet(POD, VIP)).drop is Reason.POLICY_DENIED
    _install(node, OUT, [Rule(REMOTE_ID, TCP, 9090, 16)])
    assert node.send(Packet(POD, VIP)).verdict == REDIRECT


def test_both_pods_of_one_node_are_judged(node: PacketNode) -> None:
    node.endpoint(flags=EndpointFlag.ENFORCE_INGRESS, address=NEIGHBOUR)
    out = node.send(Packet(POD, NEIGHBOUR))
    event = out.event(EventType.DROP)
    assert out.drop is Reason.POLICY_DENIED
    assert (event.endpoint_id, event.direction) == (NEIGHBOUR_ENDPOINT_ID, IN)
    assert (event.source_identity, event.destination_identity) == (POD_ID, NEIGHBOUR_ID)
    _install(node, IN, [Rule(POD_ID)], NEIGHBOUR_ENDPOINT_ID)
    assert node.send(Packet(POD, NEIGHBOUR)).verdict == REDIRECT


def test_an_address_nobody_announced_is_world(node: PacketNode) -> None:
    node.endpoint(flags=EndpointFlag.ENFORCE_EGRESS)
    assert node.send(Packet(POD, WORLD)).event(EventType.DROP).destination_identity == 2
    _install(node, OUT, [Rule(2)])
    assert node.send(Packet(POD, WORLD)).verdict == PASS


def test_the_longest_prefix_names_the_identity(node: PacketNode) -> None:
    node.endpoint(flags=EndpointFlag.ENFORCE_EGRESS)
    node.ipcache("93.184.0.0/16", 1 << 24)
    node.ipcache("93.184.216.0/24", (1 << 24) + 1)
    assert node.send(Packet(POD, WORLD)).event(EventType.DROP).destination_identity == (1 << 24) + 1


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ([], Reason.UNKNOWN_IDENTITY),
        ([Rule(0, TCP, 80, 16)], Reason.UNKNOWN_IDENTITY),
        ([Rule(0, TCP)], Reason.UNKNOWN_IDENTITY),
        ([Rule(0, precedence=255, deny=True)], Reason.POLICY_DENY_RULE),
        ([Rule(0), Rule(0, TCP, 80, 16)], None),
        ([Rule(0)], None),
    ],
    ids=["no rule", "port for anyone", "protocol for anyone", "deny for anyone", "all and port", "all"],
)
def test_a_peer_of_unknown_identity_needs_a_rule_for_all(
    node: PacketNode, rules: list[Rule], reason: Reason | None
) -> None:
    node.endpoint(flags=EndpointFlag.ENFORCE_EGRESS)
    node.ipcache(f"{REMOTE_POD}/32", 0, "192.168.50.21", 2)
    _install(node, OUT, rules)
    out = node.send(Packet(POD, REMOTE_POD))
    assert out.verdict == REDIRECT if reason is None else out.drop is reason


def test_a_peer_of_unknown_identity_passes_where_nothing_is_enforced(node: PacketNode) -> None:
    node.ipcache(f"{REMOTE_POD}/32", 0, "192.168.50.21", 2)
    assert node.send(Packet(POD, REMOTE_POD)).verdict == REDIRECT


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_a_policy_change_reaches_an_open_connection(node: PacketNode, protocol: int) -> None:
    _install(node, OUT, [Rule(REMOTE_ID)])
    node.endpoint(flags=EndpointFlag.ENFORCE_EGRESS, revision=1)
    assert node.send(Packet(POD, REMOTE_POD, protocol)).verdict == REDIRECT
    node.maps.policy.delete([PolicyKey(ENDPOINT_ID, OUT, REMOTE_ID)])
    assert node.send(Packet(POD, REMOTE_POD, protocol, flags=ACK)).verdict == REDIRECT, "not looked up again"
    node.endpoint(flags=EndpointFlag.ENFORCE_EGRESS, revision=2)
    assert node.send(Packet(POD, REMOTE_POD, protocol, flags=ACK)).drop is Reason.POLICY_DENIED
    _install(node, OUT, [Rule(REMOTE_ID)])
    assert node.send(Packet(POD, REMOTE_POD, protocol, flags=ACK)).verdict == REDIRECT


def test_a_changed_identity_reaches_an_open_connection(node: PacketNode) -> None:
    node.endpoint(flags=EndpointFlag.ENFORCE_INGRESS)
    _install(node, IN, [Rule(REMOTE_ID)])
    assert node.overlay(Packet(REMOTE_POD, POD)).verdict == REDIRECT
    assert node.overlay(Packet(REMOTE_POD, POD, flags=ACK), identity=REMOTE_ID + 1).drop is Reason.POLICY_DENIED


def test_replies_are_never_judged(node: PacketNode) -> None:
    node.send(Packet(POD, REMOTE_POD))
    node.overlay(Packet(REMOTE_POD, POD, source_port=5000, destination_port=90))
    node.endpoint(flags=EndpointFlag.ENFORCE_INGRESS | EndpointFlag.ENFORCE_EGRESS, revision=2)
    reply = Packet(REMOTE_POD, POD, source_port=80, destination_port=40000, flags=ACK)
    assert node.overlay(reply).verdict == REDIRECT
    assert node.send(Packet(POD, REMOTE_POD, source_port=90, destination_port=5000, flags=ACK)).verdict == REDIRECT


def test_a_syn_is_no_reply(node: PacketNode) -> None:
    node.send(Packet(POD, REMOTE_POD))
    node.endpoint(flags=EndpointFlag.ENFORCE_INGRESS)
    attempt = Packet(REMOTE_POD, POD, source_port=80, destination_port=40000)
    assert node.overlay(attempt).drop is Reason.POLICY_DENIED


def test_icmp_is_judged_by_its_type(node: PacketNode) -> None:
    node.endpoint(flags=EndpointFlag.ENFORCE_EGRESS)
    echo = Packet(POD, REMOTE_POD, ICMP, 8 << 8, 77)
    _install(node, OUT, [Rule(REMOTE_ID, TCP), Rule(REMOTE_ID, ICMP, 13, 16)])
    assert node.send(echo).drop is Reason.POLICY_DENIED
    _install(node, OUT, [Rule(REMOTE_ID, ICMP, 8, 16)])
    out = node.send(echo)
    assert out.verdict == REDIRECT
    assert (out.event(EventType.TRACE).source_port, out.event(EventType.TRACE).destination_port) == (8, 0)
    assert node.overlay(Packet(REMOTE_POD, POD, ICMP, 0, 77)).verdict == REDIRECT


def test_a_proxy_port_without_a_proxy_is_closed(node: PacketNode) -> None:
    node.endpoint(flags=EndpointFlag.ENFORCE_EGRESS)
    node.policy(PolicyKey(ENDPOINT_ID, OUT, REMOTE_ID, TCP, 80, 16), proxy_port=15001)
    assert node.send(Packet(POD, REMOTE_POD)).drop is Reason.NO_PROXY_SOCKET


def test_packets_from_the_stack_are_judged_by_the_source_address(node: PacketNode) -> None:
    node.endpoint(flags=EndpointFlag.ENFORCE_INGRESS)
    _install(node, IN, [Rule(1)])
    assert node.receive(Packet("192.168.50.11", POD)).verdict == PASS
    assert node.receive(Packet(WORLD, POD)).drop is Reason.POLICY_DENIED


def test_a_local_pod_is_known_by_its_endpoint_even_through_the_stack(node: PacketNode) -> None:
    node.endpoint(flags=EndpointFlag.ENFORCE_INGRESS)
    _install(node, IN, [Rule(NEIGHBOUR_ID)])
    assert node.receive(Packet(NEIGHBOUR, POD)).verdict == PASS


def test_answers_to_packets_from_the_stack_go_back_through_the_stack(node: PacketNode) -> None:
    node.receive(Packet(NEIGHBOUR, POD))
    answer = Packet(POD, NEIGHBOUR, source_port=80, destination_port=40000, flags=ACK)
    assert node.send(answer).verdict == PASS
    node.reset()
    node.overlay(Packet(REMOTE_POD, POD))
    assert node.send(Packet(POD, REMOTE_POD, source_port=80, destination_port=40000, flags=ACK)).verdict == REDIRECT


def test_a_watched_direction_is_not_enforced_and_its_new_connections_have_a_verdict(node: PacketNode) -> None:
    def verdicts(out: Outcome) -> list[tuple[int, int, int, int]]:
        found = [e for e in out.events if e.type == EventType.POLICY_VERDICT]
        return [(e.direction, e.reason, e.match, e.rule_id) for e in found]

    node.endpoint(flags=EndpointFlag.WATCH_EGRESS)
    sent = Packet(POD, REMOTE_POD, flags=SYN)
    first = node.send(sent)
    assert (first.verdict, verdicts(first)) == (REDIRECT, [(Direction.EGRESS, 0, PolicyMatch.NONE, 0)])
    assert not verdicts(node.overlay(replace(sent.reverse, flags=SYN | ACK)))
    assert not verdicts(node.send(replace(sent, flags=ACK)))
    assert not verdicts(node.overlay(Packet(REMOTE_POD, POD, source_port=90, flags=SYN)))
    node.endpoint(flags=EndpointFlag.WATCH_INGRESS, revision=2)
    arriving = node.overlay(Packet(REMOTE_POD, POD, source_port=91, flags=SYN))
    assert verdicts(arriving) == [(Direction.INGRESS, 0, PolicyMatch.NONE, 0)]
