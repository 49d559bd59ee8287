# SPDX-License-Identifier: Apache-2.0
"""Policy on packets of IPv6, packet by packet: as on those of IPv4, with connections of their own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.datapath.flow_layout import EventType, PolicyMatch
from agent.datapath.layout import Direction, EndpointFlag, PolicyKey
from agent.datapath.reasons import Reason
from tests.packet.packet_bytes import ACK, SCTP, SYN, TCP, UDP, Packet
from tests.packet.packet_bytes6 import ECHO, ECHO_REPLY, ICMPV6, Packet6, fragment6, icmp_error6
from tests.packet.packet_node import (
    ENDPOINT_ID,
    NEIGHBOUR,
    NEIGHBOUR6,
    NEIGHBOUR_ENDPOINT_ID,
    NEIGHBOUR_ID,
    NODE6,
    PASS,
    POD,
    POD6,
    POD_ID,
    REDIRECT,
    REMOTE_ID,
    REMOTE_NODE,
    REMOTE_POD,
    REMOTE_POD6,
    WORLD6,
    PacketNode,
)

pytestmark = pytest.mark.root
OUT, IN = Direction.EGRESS, Direction.INGRESS
BOTH = EndpointFlag.ENFORCE_EGRESS | EndpointFlag.ENFORCE_INGRESS
WORLD_IPV6 = 10


def _allow(node: PacketNode, direction: Direction, identity: int, protocol: int = 0, port: int = 0) -> None:
    node.policy(PolicyKey(ENDPOINT_ID, direction, identity, protocol, port, 16 if port else 0))


@pytest.mark.parametrize("protocol", [TCP, UDP, SCTP])
def test_a_connection_to_a_pod_of_a_peer_goes_through_the_overlay_with_its_answers(
    node6: PacketNode, protocol: int
) -> None:
    node6.endpoint(flags=BOTH)
    request = Packet6(POD6, REMOTE_POD6, protocol)
    assert node6.send(request).drop is Reason.POLICY_DENIED
    _allow(node6, OUT, REMOTE_ID, protocol, 80)
    sent = node6.send(request)
    verdict = sent.event(EventType.POLICY_VERDICT)
    assert (sent.verdict, sent.packet.ttl) == (REDIRECT, 63)
    assert (verdict.match, verdict.source, verdict.destination) == (PolicyMatch.L3_L4, POD6, REMOTE_POD6)
    assert (verdict.source_identity, verdict.destination_identity) == (POD_ID, REMOTE_ID)
    answer = replace(request.reverse, flags=SYN | ACK if protocol == TCP else ACK)
    assert node6.overlay(answer).verdict == REDIRECT
    assert node6.overlay(replace(answer, destination_port=40001)).drop is Reason.POLICY_DENIED
    assert node6.send(replace(request, destination_port=81)).drop is Reason.POLICY_DENIED


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_a_connection_of_a_pod_of_a_peer_is_judged_and_its_answers_go_back_through_the_overlay(
    node6: PacketNode, protocol: int
) -> None:
    node6.endpoint(flags=BOTH)
    request = Packet6(REMOTE_POD6, POD6, protocol)
    assert node6.overlay(request).drop is Reason.POLICY_DENIED
    _allow(node6, IN, REMOTE_ID, protocol, 80)
    got = node6.overlay(request)
    assert (got.verdict, got.packet.ttl) == (REDIRECT, 63)
    assert node6.send(replace(request.reverse, flags=SYN | ACK)).verdict == REDIRECT
    assert node6.send(replace(request.reverse, destination_port=40001, flags=ACK)).drop is Reason.POLICY_DENIED


def test_both_pods_of_one_node_are_judged(node6: PacketNode) -> None:
    node6.endpoint(flags=EndpointFlag.ENFORCE_INGRESS, address=NEIGHBOUR)
    out = node6.send(Packet6(POD6, NEIGHBOUR6))
    event = out.event(EventType.DROP)
    assert out.drop is Reason.POLICY_DENIED
    assert (event.endpoint_id, event.destination_identity) == (NEIGHBOUR_ENDPOINT_ID, NEIGHBOUR_ID)
    node6.policy(PolicyKey(NEIGHBOUR_ENDPOINT_ID, IN, POD_ID))
    assert node6.send(Packet6(POD6, NEIGHBOUR6)).verdict == REDIRECT


def test_the_families_have_connections_of_their_own(node6: PacketNode) -> None:
    """Addresses of one are not taken for those of the other, whose first bytes are the same."""
    twin, other = "a01:10a::", "a02:10a::"  # as 10.1.1.10 and 10.2.1.10 with zeros behind
    node6.send(Packet(POD, REMOTE_POD))
    assert node6.send(Packet6(twin, other)).drop is Reason.INVALID_SOURCE_IP
    node6.endpoint(flags=BOTH)
    assert node6.send(Packet6(POD6, other)).event(EventType.DROP).destination_identity == WORLD_IPV6
    assert node6.overlay(Packet6(other, POD6)).drop is Reason.FOREIGN_SOURCE


def test_what_nobody_announced_is_the_world_of_ipv6(node6: PacketNode) -> None:
    node6.endpoint(flags=EndpointFlag.ENFORCE_EGRESS)
    assert node6.send(Packet6(POD6, WORLD6)).event(EventType.DROP).destination_identity == WORLD_IPV6
    _allow(node6, OUT, WORLD_IPV6)
    assert node6.send(Packet6(POD6, WORLD6)).verdict == PASS


@pytest.mark.parametrize("prefix", ["::/0", "2001:db8:93::/48", f"{WORLD6}/128"])
def test_a_range_names_the_identity(node6: PacketNode, prefix: str) -> None:
    node6.endpoint(flags=EndpointFlag.ENFORCE_EGRESS)
    node6.ipcache("0.0.0.0/0", (1 << 24) + 1)
    node6.ipcache(prefix, (1 << 24) + 2)
    assert node6.send(Packet6(POD6, WORLD6)).event(EventType.DROP).destination_identity == (1 << 24) + 2
    _allow(node6, OUT, (1 << 24) + 2, TCP, 80)
    assert node6.send(Packet6(POD6, WORLD6)).verdict == PASS


def test_an_address_of_unknown_identity_is_never_allowed(node6: PacketNode) -> None:
    node6.endpoint(flags=EndpointFlag.ENFORCE_EGRESS)
    node6.ipcache(f"{REMOTE_POD6}/128", 0, REMOTE_NODE, 2)
    _allow(node6, OUT, 0, TCP, 80)
    assert node6.send(Packet6(POD6, REMOTE_POD6)).drop is Reason.UNKNOWN_IDENTITY


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_a_policy_change_reaches_an_open_connection(node6: PacketNode, protocol: int) -> None:
    _allow(node6, OUT, REMOTE_ID)
    node6.endpoint(flags=EndpointFlag.ENFORCE_EGRESS, revision=1)
    request = Packet6(POD6, REMOTE_POD6, protocol)
    assert node6.send(request).verdict == REDIRECT
    node6.maps.policy.delete([PolicyKey(ENDPOINT_ID, OUT, REMOTE_ID)])
    assert node6.send(replace(request, flags=ACK)).verdict == REDIRECT, "not looked up again"
    node6.endpoint(flags=EndpointFlag.ENFORCE_EGRESS, revision=2)
    assert node6.send(replace(request, flags=ACK)).drop is Reason.POLICY_DENIED


def test_echo_is_judged_by_its_type_and_answered(node6: PacketNode) -> None:
    node6.endpoint(flags=BOTH)
    echo = Packet6(POD6, REMOTE_POD6, ICMPV6, ECHO << 8, 77)
    _allow(node6, OUT, REMOTE_ID, 1, 8)
    assert node6.send(echo).drop is Reason.POLICY_DENIED, "a rule for ICMP says nothing about ICMPv6"
    _allow(node6, OUT, REMOTE_ID, ICMPV6, ECHO)
    assert node6.send(echo).verdict == REDIRECT
    assert node6.overlay(Packet6(REMOTE_POD6, POD6, ICMPV6, ECHO_REPLY << 8, 77)).verdict == REDIRECT
    assert node6.overlay(Packet6(REMOTE_POD6, POD6, ICMPV6, ECHO_REPLY << 8, 78)).drop is Reason.POLICY_DENIED
    assert node6.overlay(Packet6(REMOTE_POD6, POD6, ICMPV6, ECHO << 8, 77)).drop is Reason.POLICY_DENIED


def test_an_error_passes_about_what_the_pod_sent_and_about_nothing_else(node6: PacketNode) -> None:
    node6.endpoint(flags=BOTH)
    _allow(node6, OUT, REMOTE_ID)
    request = Packet6(POD6, REMOTE_POD6, UDP)
    node6.send(request)
    assert node6.overlay(icmp_error6(REMOTE_POD6, request)).verdict == REDIRECT
    assert node6.receive(icmp_error6("fd00:50::1", request, 2, 0)).verdict == PASS
    other = replace(request, source_port=4)
    assert node6.overlay(icmp_error6(REMOTE_POD6, other)).drop is Reason.UNRELATED_ICMP_ERROR


def test_a_proxys_port_is_closed(node6: PacketNode) -> None:
    node6.endpoint(flags=EndpointFlag.ENFORCE_EGRESS)
    node6.policy(PolicyKey(ENDPOINT_ID, OUT, REMOTE_ID, TCP, 80, 16), proxy_port=15001)
    assert node6.send(Packet6(POD6, REMOTE_POD6)).drop is Reason.PROXY_UNSUPPORTED


def test_the_node_reaches_its_pods_and_gets_answers_by_its_stack(node6: PacketNode) -> None:
    node6.endpoint(flags=BOTH)
    probe = Packet6(NODE6, POD6)
    assert node6.receive(probe).drop is Reason.POLICY_DENIED
    _allow(node6, IN, 1)
    assert node6.receive(probe).verdict == PASS
    assert node6.send(replace(probe.reverse, flags=SYN | ACK)).verdict == PASS


def test_who_comes_without_the_overlay_is_not_believed_to_be_a_pod_behind_it(node6: PacketNode) -> None:
    assert node6.receive(Packet6(REMOTE_POD6, POD6)).drop is Reason.NOT_BY_TUNNEL


@pytest.mark.parametrize("source", [NEIGHBOUR6, REMOTE_POD6, NODE6, WORLD6, "::", "::1"])
def test_a_pod_speaks_with_its_own_address_only(node6: PacketNode, source: str) -> None:
    assert node6.send(Packet6(source, REMOTE_POD6)).drop is Reason.INVALID_SOURCE_IP


@pytest.mark.parametrize(
    ("source", "identity", "reason"),
    [
        (POD6, REMOTE_ID, Reason.FOREIGN_SOURCE),
        (WORLD6, REMOTE_ID, Reason.FOREIGN_SOURCE),
        (REMOTE_POD6, POD_ID, Reason.INVALID_CLUSTER_ID),
        (REMOTE_POD6, 1, Reason.INVALID_IDENTITY),
        (REMOTE_POD6, 6, Reason.INVALID_IDENTITY),
    ],
)
def test_a_node_speaks_for_its_own_cluster_only(node6: PacketNode, source: str, identity: int, reason: Reason) -> None:
    assert node6.overlay(Packet6(source, NEIGHBOUR6), identity=identity).drop is reason
    assert node6.overlay(Packet6(REMOTE_POD6, POD6), outer="192.168.50.99").drop is Reason.UNKNOWN_SENDER


def test_a_packet_that_does_not_fit_the_overlay_is_answered_with_what_fits(node6: PacketNode) -> None:
    request = Packet6(POD6, REMOTE_POD6, payload=bytes(1450 - 40 - 20))
    assert node6.send(request).verdict == REDIRECT
    out = node6.send(replace(request, payload=bytes(1450 - 40 - 19)))
    assert out.answered is Reason.FRAGMENTATION_NEEDED
    answer = out.packet
    assert (answer.source, answer.destination, answer.protocol) == (REMOTE_POD6, POD6, ICMPV6)
    assert answer.source_port == 2 << 8
    raw = node6.raw(replace(request, payload=bytes(1450)))
    assert int.from_bytes(raw[14 + 40 + 4 : 14 + 40 + 8], "big") == 1450
    assert raw[14 + 48 : 14 + 48 + 40][8:24] == request.ip()[8:24], "the quoted packet is the pod's"


def test_the_last_hop_is_not_exceeded(node6: PacketNode) -> None:
    assert node6.send(Packet6(POD6, REMOTE_POD6, ttl=1)).drop is Reason.TTL_EXCEEDED


def test_vxlan_of_a_pod_does_not_leave(node6: PacketNode) -> None:
    assert node6.send(Packet6(POD6, WORLD6, UDP, 5, 8472)).drop is Reason.ENCAPSULATION_PROHIBITED


def test_fragments_have_the_ports_of_their_first(node6: PacketNode) -> None:
    node6.endpoint(flags=EndpointFlag.ENFORCE_EGRESS)
    _allow(node6, OUT, REMOTE_ID, UDP, 80)
    first = Packet6(POD6, REMOTE_POD6, UDP, extensions=(fragment6(7, 0, more=True),), payload=bytes(16))
    later = replace(first, extensions=(fragment6(7, 3, more=False),), payload=bytes(8), is_later_fragment=True)
    assert node6.send(later.frame()).drop is Reason.FIRST_FRAGMENT_MISSING
    assert node6.send(first.frame()).verdict == REDIRECT
    assert node6.send(later.frame()).verdict == REDIRECT
    other = replace(first, destination_port=81, extensions=(fragment6(8, 0, more=True),))
    assert node6.send(other.frame()).drop is Reason.POLICY_DENIED
    alone = replace(first, destination_port=81, extensions=(fragment6(9, 0, more=False),))
    assert node6.send(alone.frame()).drop is Reason.POLICY_DENIED, "an atomic fragment says its ports itself"


@pytest.mark.parametrize(
    ("extensions", "reason"),
    [
        (((0, bytes([0, 1, 4, 0, 0, 0, 0])),), None),  # hop-by-hop: padding
        (((60, bytes([1, 1, 12]) + bytes(12)),), None),  # options for the receiver, twice as long
        (((43, bytes([0, 4, 0, 0, 0, 0, 0])),), None),  # a routing header with nothing left to visit
        (((43, bytes([2, 4, 1]) + bytes(4 + 16)),), Reason.INVALID_IPV6_EXTENSION),
        (((60, bytes([0, 1, 4, 0, 0, 0, 0])),) * 6, Reason.INVALID_IPV6_EXTENSION),
        (((60, bytes([255, 1, 4, 0, 0, 0, 0])),), Reason.INVALID_PACKET),  # longer than the packet
    ],
)
def test_ports_are_found_behind_extension_headers_or_the_packet_is_dropped(
    node6: PacketNode, extensions: tuple[tuple[int, bytes], ...], reason: Reason | None
) -> None:
    node6.endpoint(flags=EndpointFlag.ENFORCE_EGRESS)
    _allow(node6, OUT, REMOTE_ID, TCP, 80)
    frame = Packet6(POD6, REMOTE_POD6, extensions=extensions).frame()
    out = node6.send(frame)
    assert out.verdict == REDIRECT if reason is None else out.drop is reason
    if reason is None:
        assert node6.send(Packet6(POD6, REMOTE_POD6, destination_port=81, extensions=extensions).frame()).drop is (
            Reason.POLICY_DENIED
        )
