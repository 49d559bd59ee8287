# SPDX-License-Identifier: Apache-2.0
"""Host policies, packet by packet: what comes to the node and what it sends, by way of the underlay and of its pods."""

from __future__ import annotations

import struct
import time
from dataclasses import replace

import pytest

from agent.datapath.flow_layout import EventType, HeartbeatKey, HeartbeatValue
from agent.datapath.layout import Direction, EndpointFlag, EndpointValue, IfindexKey, PolicyKey
from agent.datapath.reasons import Reason
from tests.packet.datapath_host import run
from tests.packet.packet_bytes import ACK, FIN, ICMP, NODE_MAC, POD_MAC, RST, SYN, TCP, UDP, Packet
from tests.packet.packet_node import (
    NODE,
    PASS,
    POD,
    REMOTE_NODE,
    REMOTE_POD,
    SHOT,
    UNATTENDED_AFTER_S,
    VIP,
    WORLD,
    Outcome,
    PacketNode,
)

pytestmark = pytest.mark.root
OUT, IN = Direction.EGRESS, Direction.INGRESS
HOST_ID, WORLD_ID, NODE_ID = 1, 2, 6
SECOND = "172.31.0.1"
"""An address of the node that no record lists."""
GUARD = 0xFFFFFF << 8 | 1
BOTH = EndpointFlag.ENFORCE_INGRESS | EndpointFlag.ENFORCE_EGRESS
NOBODY = "00:00:00:00:00:00"


@pytest.fixture(scope="module", autouse=True)
def _routes(packet_node: PacketNode) -> None:
    """The node has two addresses."""
    run("ip", "address", "add", f"{NODE}/32", "dev", "lo")
    run("ip", "address", "add", f"{SECOND}/32", "dev", "lo")


def judge(node: PacketNode, flags: int = BOTH, revision: int = 1) -> None:
    """Host policies select the node."""
    value = EndpointValue(0, 0, flags, HOST_ID, revision, NOBODY, NOBODY, "0.0.0.0")
    node.maps.node.update([(IfindexKey(0), value)])


def allow(
    node: PacketNode, direction: Direction, identity: int, protocol: int = 0, port: int = 0, level: int = 1
) -> None:
    node.policy(PolicyKey(0, direction, identity, protocol, port, 16 if port else 0), level)


def arrive(node: PacketNode, packet: Packet | bytes) -> Outcome:
    return node._run(node.datapath.program_fd("mesh_from_underlay"), packet, 0, 0)


def test_without_host_policies_everything_passes(node: PacketNode) -> None:
    for packet in (Packet(WORLD, NODE), Packet(WORLD, SECOND, UDP), Packet(REMOTE_POD, NODE, ICMP, 8 << 8)):
        assert arrive(node, packet).verdict == PASS
        assert node.leave(packet.reverse).verdict == PASS
    assert node.send(Packet(POD, NODE)).verdict == PASS
    assert not dict(node.maps.conntrack_opening.items()).keys() - {
        key for key, _ in node.maps.conntrack_opening.items() if key.source == POD
    }


@pytest.mark.parametrize("address", [NODE, SECOND, "255.255.255.255", "224.0.0.18"])
@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_what_comes_to_any_address_of_the_node_is_judged(node: PacketNode, address: str, protocol: int) -> None:
    judge(node)
    assert arrive(node, Packet(WORLD, address, protocol)).drop == Reason.POLICY_DENIED
    allow(node, IN, WORLD_ID, protocol, 80)
    out = arrive(node, Packet(WORLD, address, protocol))
    assert out.verdict == PASS
    seen = out.event(EventType.POLICY_VERDICT)
    assert (seen.endpoint_id, seen.source_identity, seen.destination_identity) == (0, WORLD_ID, HOST_ID)
    assert arrive(node, Packet(WORLD, address, protocol, destination_port=81)).drop == Reason.POLICY_DENIED


def test_what_is_only_passed_on_is_not_judged(node: PacketNode) -> None:
    judge(node)
    for destination in (POD, REMOTE_POD, WORLD):
        assert arrive(node, Packet(REMOTE_NODE, destination)).verdict == PASS
    later = Packet(REMOTE_NODE, REMOTE_POD, UDP, fragment=0x2001)
    assert arrive(node, later).verdict == PASS


def test_who_sends_is_whoever_has_the_address_and_never_the_node_itself(node: PacketNode) -> None:
    judge(node)
    allow(node, IN, NODE_ID)
    assert arrive(node, Packet(REMOTE_NODE, NODE)).verdict == PASS
    assert arrive(node, Packet(REMOTE_POD, NODE)).drop == Reason.POLICY_DENIED
    allow(node, IN, HOST_ID)
    assert arrive(node, Packet(NODE, NODE)).drop == Reason.POLICY_DENIED
    assert arrive(node, Packet(POD, NODE)).drop == Reason.POLICY_DENIED


def test_answers_to_what_the_node_asked_come_in_and_go_out(node: PacketNode) -> None:
    judge(node)
    allow(node, OUT, WORLD_ID, TCP, 443)
    allow(node, IN, NODE_ID, UDP, 53)
    assert arrive(node, Packet(WORLD, NODE, TCP, 443, 40000, ACK)).drop == Reason.POLICY_DENIED
    request = Packet(NODE, WORLD, TCP, 40000, 443)
    assert node.leave(request).verdict == PASS
    assert arrive(node, request.reverse).verdict == PASS
    query = Packet(REMOTE_NODE, NODE, UDP, 40000, 53)
    assert node.leave(query.reverse).drop == Reason.POLICY_DENIED
    assert arrive(node, query).verdict == PASS
    assert node.leave(query.reverse).verdict == PASS
    assert node.leave(replace(query.reverse, source_port=54)).drop == Reason.POLICY_DENIED


def test_a_connection_that_the_stack_led_to_the_node_is_judged_when_the_node_accepts_it(node: PacketNode) -> None:
    """It came for the address of a Service, which is passed on for all the programs know."""
    judge(node)
    allow(node, OUT, 0)
    accepted = Packet(VIP, WORLD, TCP, 80, 40000, SYN | ACK)
    assert node.leave(accepted).drop == Reason.POLICY_DENIED
    node.maps.policy.delete([key for key, _ in node.maps.policy.items()])
    allow(node, IN, WORLD_ID, TCP, 80)
    out = node.leave(accepted)
    assert out.verdict == PASS
    seen = out.event(EventType.POLICY_VERDICT)
    assert (seen.direction, seen.source_identity, seen.destination_identity) == (IN, WORLD_ID, HOST_ID)
    assert node.leave(replace(accepted, flags=ACK)).verdict == PASS
    assert node.leave(replace(accepted, source_port=81, flags=SYN | ACK)).drop == Reason.POLICY_DENIED
    assert node.leave(Packet(NODE, WORLD)).drop == Reason.POLICY_DENIED


def test_a_ping_and_its_answer(node: PacketNode) -> None:
    judge(node)
    allow(node, IN, WORLD_ID, ICMP, 8)
    assert arrive(node, Packet(WORLD, NODE, ICMP, 8 << 8, 7)).verdict == PASS
    assert node.leave(Packet(NODE, WORLD, ICMP, 0, 7)).verdict == PASS
    assert node.leave(Packet(NODE, WORLD, ICMP, 8 << 8, 8)).drop == Reason.POLICY_DENIED


@pytest.mark.parametrize("tag", ["81000000", "88a80000"])
def test_what_the_stack_would_take_out_of_vlan_0_after_the_programs_is_dropped(node: PacketNode, tag: str) -> None:
    frame = Packet(WORLD, NODE).frame()
    tagged = frame[:12] + bytes.fromhex(tag) + frame[12:]
    assert arrive(node, tagged).verdict == PASS
    judge(node)
    allow(node, IN, 0)
    assert arrive(node, tagged).drop == Reason.UNSUPPORTED_L2


def test_open_connections_are_judged_again_when_policies_change(node: PacketNode) -> None:
    judge(node)
    allow(node, IN, WORLD_ID, TCP, 80)
    first = Packet(WORLD, NODE)
    assert arrive(node, first).verdict == PASS
    node.maps.policy.delete([key for key, _ in node.maps.policy.items()])
    assert arrive(node, replace(first, flags=ACK)).verdict == PASS
    judge(node, revision=2)
    assert arrive(node, replace(first, flags=ACK)).drop == Reason.POLICY_DENIED


def test_a_direction_that_is_not_enforced_is_open_and_its_answers_come_back(node: PacketNode) -> None:
    judge(node, EndpointFlag.ENFORCE_INGRESS)
    request = Packet(NODE, WORLD, TCP, 40000, 443)
    assert node.leave(request).verdict == PASS
    assert arrive(node, request.reverse).verdict == PASS


@pytest.mark.parametrize("kind", [3, 11, 12])
def test_icmp_errors_and_the_overlay_always_pass(node: PacketNode, kind: int) -> None:
    judge(node)
    quoted = Packet(NODE, WORLD, UDP, 40000, 53).ip()[:28]
    assert arrive(node, Packet(WORLD, NODE, ICMP, kind << 8, payload=quoted)).verdict == PASS
    assert node.leave(Packet(NODE, WORLD, ICMP, kind << 8, payload=quoted)).verdict == PASS
    assert arrive(node, Packet(REMOTE_NODE, NODE, UDP, 50000, 8472)).verdict == PASS
    assert node.leave(Packet(NODE, REMOTE_NODE, UDP, 50000, 8472), mark=0x0F00).verdict == PASS
    assert not dict(node.maps.conntrack_opening.items())


def test_fragments_have_the_ports_of_the_first(node: PacketNode) -> None:
    judge(node)
    allow(node, IN, WORLD_ID, UDP, 53)
    for port, verdict in ((53, PASS), (54, SHOT)):
        first = Packet(WORLD, NODE, UDP, 40000, port, identification=port, fragment=0x2000)
        assert arrive(node, first).verdict == verdict
        assert arrive(node, replace(first, fragment=3)).verdict == verdict
    lost = Packet(WORLD, NODE, UDP, identification=9, fragment=3)
    assert arrive(node, lost).drop == Reason.FIRST_FRAGMENT_MISSING
    overlay = Packet(REMOTE_NODE, NODE, UDP, 50000, 8472, identification=10, fragment=0x2000)
    assert arrive(node, overlay).verdict == PASS
    assert arrive(node, replace(overlay, fragment=3)).verdict == PASS


@pytest.mark.parametrize("flags", [ACK, ACK | FIN, ACK | RST])
def test_connections_of_the_guard_that_are_older_than_the_policies_go_on(node: PacketNode, flags: int) -> None:
    judge(node)
    allow(node, OUT, NODE_ID, TCP, 6443, GUARD)
    allow(node, IN, 0, TCP, 32379, GUARD)
    allow(node, OUT, WORLD_ID, TCP, 443)
    assert arrive(node, Packet(REMOTE_NODE, NODE, TCP, 6443, 40000, flags)).verdict == PASS
    assert node.leave(Packet(NODE, WORLD, TCP, 32379, 40000, flags)).verdict == PASS
    assert arrive(node, Packet(REMOTE_NODE, NODE, TCP, 6443, 40000, SYN)).drop == Reason.POLICY_DENIED
    assert arrive(node, Packet(WORLD, NODE, TCP, 443, 40000, flags)).drop == Reason.POLICY_DENIED  # not of the guard


def test_a_pod_reaches_its_node_as_the_nodes_policies_say(node: PacketNode) -> None:
    judge(node)
    allow(node, IN, WORLD_ID)
    out = node.send(Packet(POD, NODE))
    assert out.drop == Reason.POLICY_DENIED
    assert node.send(Packet(POD, SECOND, UDP)).drop == Reason.POLICY_DENIED
    assert node.send(Packet(POD, WORLD)).verdict == PASS
    identity = out.event(EventType.DROP).source_identity
    allow(node, IN, identity, TCP, 80)
    request = Packet(POD, NODE)
    assert node.send(request).verdict == PASS
    assert node.receive(request.reverse).verdict == PASS


def test_a_node_always_reaches_its_pods_and_their_answers_come_in(node: PacketNode) -> None:
    judge(node)
    probe = Packet(NODE, POD, TCP, 40000, 8080)
    assert node.send(probe.reverse).drop == Reason.POLICY_DENIED
    assert node.receive(probe).verdict == PASS
    assert node.send(probe.reverse).verdict == PASS
    assert node.send(Packet(POD, NODE, TCP, 8080, 40001, ACK)).drop == Reason.POLICY_DENIED


def test_without_an_agent_for_long_the_node_gets_out_and_stays_closed(node: PacketNode) -> None:
    judge(node)
    request = Packet(NODE, WORLD, TCP, 40000, 443)
    assert node.leave(request).drop == Reason.POLICY_DENIED
    _beat(node, UNATTENDED_AFTER_S + 3)
    assert node.leave(request).verdict == PASS
    assert arrive(node, request.reverse).verdict == PASS
    assert arrive(node, Packet(WORLD, NODE)).drop == Reason.POLICY_DENIED
    _beat(node, 0)
    assert node.leave(replace(request, flags=ACK)).drop == Reason.POLICY_DENIED


def _beat(node: PacketNode, ago_s: float) -> None:
    beaten_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - int(ago_s * 10**9)
    node.maps.heartbeat.update([(HeartbeatKey(), HeartbeatValue(max(0, beaten_ns)))])


def ipv6(next_header: int, head: bytes, destination: str) -> bytes:
    addresses = bytes.fromhex("fd000000000000000000000000000009") + bytes.fromhex(destination)
    return (
        NODE_MAC + POD_MAC + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(head), next_header, 64) + addresses + head
    )


ALL_NODES = "ff020000000000000000000000000001"
LOOPBACK = "00000000000000000000000000000001"


@pytest.mark.parametrize(
    ("next_header", "head", "verdict"),
    [
        (58, bytes([135, 0, 0, 0, 0, 0, 0, 0]), PASS),  # neighbour solicitation
        (58, bytes([2, 0, 0, 0, 0, 0, 0, 0]), PASS),  # packet too big
        (58, bytes([128, 0, 0, 0, 0, 0, 0, 0]), SHOT),  # echo
        (0, bytes([58, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0, 0, 0, 0, 0]), PASS),  # MLDv2 report behind a router alert
        (0, bytes([58, 0, 5, 2, 0, 0, 1, 0, 130, 0, 0, 0, 0, 0, 0, 0]), PASS),  # MLD query
        (0, bytes([58, 0, 5, 2, 0, 0, 1, 0, 128, 0, 0, 0, 0, 0, 0, 0]), SHOT),  # echo
        (0, bytes([58, 1, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0, 0, 0, 0, 0]), SHOT),  # two options' room
        (0, bytes([58]), SHOT),
        (17, struct.pack("!HHHH", 547, 546, 8, 0), PASS),  # DHCPv6
        (17, struct.pack("!HHHH", 5353, 5353, 8, 0), SHOT),
        (6, bytes(20), SHOT),
    ],
)
def test_of_ipv6_to_and_from_the_node_only_what_keeps_the_link_up_passes(
    node: PacketNode, next_header: int, head: bytes, verdict: int
) -> None:
    frame = ipv6(next_header, head, ALL_NODES)
    assert arrive(node, frame).verdict == PASS
    judge(node)
    assert arrive(node, frame).verdict == verdict
    assert arrive(node, ipv6(next_header, head, LOOPBACK)).verdict == verdict
    assert node._run(node.datapath.program_fd("mesh_to_underlay"), frame, 0, 0).verdict == verdict
    assert node.send(frame).verdict == verdict


@pytest.mark.parametrize("length", [20, 21, 27, 33])
def test_what_ends_within_its_header_is_dropped(node: PacketNode, length: int) -> None:
    judge(node)
    allow(node, IN, 0)
    assert arrive(node, Packet(WORLD, NODE, payload=b"").frame()[: 14 + length]).verdict == SHOT
