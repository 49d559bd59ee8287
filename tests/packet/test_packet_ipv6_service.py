# SPDX-License-Identifier: Apache-2.0
"""What is IPv6's own in services: messages to clients, extension headers, fragments, and which packet policy sees."""

from __future__ import annotations

import struct
import time
from dataclasses import replace

import pytest

from agent.datapath.flow_layout import EventType, HeartbeatKey, HeartbeatValue
from agent.datapath.layout import Direction, EndpointFlag, PolicyKey, ServiceAlgorithm, ServiceFlag
from agent.datapath.reasons import Reason
from agent.datapath.source_range_layout import SourceRangeKey, SourceRangeValue
from tests.packet.ends import IPV6
from tests.packet.packet_bytes import ACK, FIN, RST, SCTP, SYN, TCP, UDP
from tests.packet.packet_bytes6 import ECHO, ICMPV6, Packet6, fragment6, icmp_error6
from tests.packet.packet_node import (
    ENDPOINT_ID,
    NEIGHBOUR6,
    PASS,
    POD6,
    POD_ID,
    REDIRECT,
    REMOTE_ID,
    REMOTE_NODE6,
    REMOTE_POD6,
    UNATTENDED_AFTER_S,
    VIP6,
    PacketNode,
)

pytestmark = pytest.mark.root
LOCAL, REMOTE = IPV6.local, IPV6.remote
RESTRICTED = int(ServiceFlag.SOURCE_RANGES)
PADDING = (60, bytes([0, 1, 4, 0, 0, 0, 0]))


def _serve(node: PacketNode, *backends: tuple[int, str, int], protocol: int = TCP, **facts: int) -> None:
    node.service(list(backends), protocol, address=VIP6, reach=facts.get("reach", 0))


def _quoted(raw: bytes) -> tuple[bytes, bytes, int, int]:
    """Source, destination and ports of what an ICMPv6 error in a frame quotes."""
    ip = raw[14 + 40 + 8 :]
    return (ip[8:24], ip[24:40], *struct.unpack("!HH", ip[40:44]))


def test_policy_judges_what_the_packet_became(node6: PacketNode) -> None:
    node6.endpoint(flags=EndpointFlag.ENFORCE_EGRESS)
    _serve(node6, REMOTE)
    denied = node6.send(Packet6(POD6, VIP6))
    assert denied.drop is Reason.POLICY_DENIED
    assert denied.event(EventType.DROP).destination_identity == REMOTE_ID
    node6.policy(PolicyKey(ENDPOINT_ID, Direction.EGRESS, REMOTE_ID, TCP, 80, 16))
    assert node6.send(Packet6(POD6, VIP6)).drop is Reason.POLICY_DENIED, "the frontend's port is not the backend's"
    node6.policy(PolicyKey(ENDPOINT_ID, Direction.EGRESS, REMOTE_ID, TCP, 9090, 16))
    out = node6.send(Packet6(POD6, VIP6))
    verdict = out.event(EventType.POLICY_VERDICT)
    assert (out.verdict, verdict.destination, verdict.frontend) == (REDIRECT, REMOTE_POD6, VIP6)
    assert (verdict.source_identity, verdict.destination_identity) == (POD_ID, REMOTE_ID)


def test_a_connection_that_is_over_leaves_its_place_to_open_ones(node6: PacketNode) -> None:
    _serve(node6, REMOTE)
    established = next(iter(node6._ipv6_maps))
    answer = replace(node6.send(Packet6(POD6, VIP6)).packet.reverse, ttl=64, flags=SYN | ACK)
    node6.overlay(answer)
    node6.send(Packet6(POD6, VIP6, flags=ACK))
    node6.overlay(replace(answer, flags=FIN | ACK))
    assert established.count() == 2, "the client's own, and which backend it has"
    node6.send(Packet6(POD6, VIP6, flags=FIN | ACK))
    assert established.count() == 0
    assert node6.overlay(replace(answer, flags=ACK)).packet.source == VIP6


def test_a_local_backend_judges_who_really_asks(node6: PacketNode) -> None:
    node6.endpoint(flags=EndpointFlag.ENFORCE_INGRESS, address="10.1.1.11")
    _serve(node6, LOCAL)
    out = node6.send(Packet6(POD6, VIP6))
    assert out.drop is Reason.POLICY_DENIED
    assert out.event(EventType.DROP).source_identity == POD_ID


@pytest.mark.parametrize(
    ("flags", "payload", "numbers"),
    [(SYN, b"", (0, 2)), (SYN, b"early", (0, 7)), (ACK, b"hello", (1, 0)), (FIN | ACK, b"", (1, 0))],
    ids=["SYN", "SYN with data", "data", "FIN"],
)
def test_a_service_without_backends_resets_a_tcp_client_with_the_numbers_it_accepts(
    node6: PacketNode, flags: int, payload: bytes, numbers: tuple[int, int]
) -> None:
    _serve(node6, IPV6.outside)
    if not flags & SYN:
        node6.send(Packet6(POD6, VIP6))
    _serve(node6)
    held = node6.service_maps(VIP6).backends
    held.delete([key for key, _ in held.items()])
    packet = Packet6(POD6, VIP6, flags=flags, payload=payload)
    out = node6.send(packet)
    assert out.answered is Reason.NO_BACKEND
    assert (out.packet.source, out.packet.destination, out.packet.payload) == (VIP6, POD6, b"")
    assert (out.packet.source_port, out.packet.destination_port) == (80, 40000)
    assert out.packet.flags & RST
    assert struct.unpack("!II", node6.raw(packet)[58:66]) == numbers


def test_a_reset_is_never_answered(node6: PacketNode) -> None:
    _serve(node6, IPV6.outside)
    node6.send(Packet6(POD6, VIP6))
    held = node6.service_maps(VIP6).backends
    held.delete([key for key, _ in held.items()])
    assert node6.send(Packet6(POD6, VIP6, flags=RST)).drop is Reason.NO_BACKEND


@pytest.mark.parametrize("payload", [b"", b"x" * 900], ids=["empty", "large"])
def test_a_service_without_backends_sends_a_udp_client_port_unreachable(node6: PacketNode, payload: bytes) -> None:
    _serve(node6, protocol=UDP)
    packet = Packet6(POD6, VIP6, UDP, payload=payload)
    out = node6.send(packet)
    assert (out.answered, out.packet.source_port) == (Reason.NO_BACKEND, IPV6.port_unreachable)
    assert (out.packet.source, out.packet.destination, out.packet.protocol) == (VIP6, POD6, ICMPV6)
    assert _quoted(node6.raw(packet)) == (packet.ip()[8:24], packet.ip()[24:40], 40000, 80)


def test_what_does_not_fit_the_overlay_is_told_as_by_the_service_about_what_the_pod_sent(node6: PacketNode) -> None:
    _serve(node6, REMOTE)
    packet = Packet6(POD6, VIP6, payload=bytes(1450 - 40 - 19))
    out = node6.send(packet)
    assert (out.answered, out.packet.source, out.packet.source_port) == (Reason.FRAGMENTATION_NEEDED, VIP6, 2 << 8)
    raw = node6.raw(packet)
    assert _quoted(raw) == (packet.ip()[8:24], packet.ip()[24:40], 40000, 80)
    assert int.from_bytes(raw[14 + 40 + 4 : 14 + 40 + 8], "big") == 1450
    assert node6.send(replace(packet, payload=bytes(1450 - 40 - 20))).verdict == REDIRECT


@pytest.mark.parametrize(("kind", "code"), [(1, 4), (2, 0)], ids=["unreachable", "too big"])
def test_an_error_about_what_went_to_a_backend_is_about_the_service_for_the_pod(
    node6: PacketNode, kind: int, code: int
) -> None:
    _serve(node6, REMOTE, protocol=UDP)
    sent = node6.send(Packet6(POD6, VIP6, UDP)).packet
    assert isinstance(sent, Packet6)
    error = icmp_error6(REMOTE_POD6, sent, kind, code)
    frame = error.frame()
    out = node6.overlay(error)
    assert out.verdict == REDIRECT
    quoted = out.packet.payload
    assert (quoted[24:40], quoted[42:44]) == (Packet6(POD6, VIP6).ip()[24:40], b"\0P"), frame.hex()


def test_an_error_about_a_hairpin_comes_back_to_the_pod_that_asked_itself(node6: PacketNode) -> None:
    _serve(node6, (1, POD6, 8080), protocol=UDP)
    sent = node6.send(Packet6(POD6, VIP6, UDP)).packet
    assert isinstance(sent, Packet6)
    assert sent.source == IPV6.loopback
    out = node6.send(replace(icmp_error6(POD6, sent), source=POD6, destination=IPV6.loopback))
    assert out.verdict == REDIRECT
    assert out.packet.destination == POD6
    assert (out.packet.payload[8:24], out.packet.payload[24:40]) == (
        Packet6(POD6, VIP6).ip()[8:24],
        Packet6(POD6, VIP6).ip()[24:40],
    )


@pytest.mark.parametrize("backend", ["local", "remote"])
def test_a_clients_error_about_a_services_answer_reaches_the_backend(node6: PacketNode, backend: str) -> None:
    chosen = IPV6.backend(backend)
    _serve(node6, chosen, protocol=UDP)
    sent = node6.send(Packet6(POD6, VIP6, UDP)).packet
    seen = Packet6(VIP6, POD6, UDP, 80, 40000)
    out = node6.send(icmp_error6(POD6, seen))
    assert out.verdict == REDIRECT
    assert out.packet.destination == chosen[1]
    quoted = out.packet.payload
    backends = Packet6(chosen[1], POD6, UDP, chosen[2], 40000).ip()
    assert (quoted[8:40], quoted[40:44]) == (backends[8:40], backends[40:44])
    assert sent.destination == chosen[1]
    unknown = replace(seen, source_port=81)
    assert node6.send(icmp_error6(POD6, unknown)).drop is Reason.UNRELATED_ICMP_ERROR
    forged = replace(icmp_error6(POD6, seen), destination=NEIGHBOUR6)
    assert node6.send(forged).drop is Reason.UNRELATED_ICMP_ERROR


def test_extension_headers_do_not_shift_the_translation(node6: PacketNode) -> None:
    _serve(node6, REMOTE)
    frame = Packet6(POD6, VIP6, extensions=(PADDING,)).frame()
    assert node6.send(frame).verdict == REDIRECT
    became = node6.raw(frame)[14:]
    assert became[24:40] == Packet6(POD6, REMOTE_POD6).ip()[24:40]
    assert struct.unpack("!HH", became[48:52]) == (40000, REMOTE[2])


def test_fragments_follow_their_first_to_its_backend(node6: PacketNode) -> None:
    _serve(node6, REMOTE, protocol=UDP)
    first = Packet6(POD6, VIP6, UDP, extensions=(fragment6(7, 0, more=True),), payload=bytes(16))
    later = replace(first, extensions=(fragment6(7, 3, more=False),), payload=bytes(8), is_later_fragment=True)
    assert node6.send(first.frame()).verdict == REDIRECT
    assert node6.raw(later.frame())[14:][24:40] == Packet6(POD6, REMOTE_POD6).ip()[24:40]


def test_a_ping_of_a_service_address_is_the_stacks(node6: PacketNode) -> None:
    _serve(node6, REMOTE)
    out = node6.send(Packet6(POD6, VIP6, ICMPV6, ECHO << 8, 77))
    assert (out.verdict, out.packet.destination) == (PASS, VIP6)


def test_a_port_of_sctp_that_would_have_to_be_rewritten_is_dropped(node6: PacketNode) -> None:
    _serve(node6, REMOTE, protocol=SCTP)
    assert node6.send(Packet6(POD6, VIP6, SCTP)).drop is Reason.WRITE_ERROR
    _serve(node6, (REMOTE[0], REMOTE_POD6, 80), protocol=SCTP)
    out = node6.send(Packet6(POD6, VIP6, SCTP, 40001))
    assert (out.verdict, out.packet.destination) == (REDIRECT, REMOTE_POD6)


def test_a_services_port_of_the_overlay_does_not_lead_out_of_it(node6: PacketNode) -> None:
    """What a service leads to is looked at as what a pod sends itself."""
    _serve(node6, (5, REMOTE_NODE6, 8472), protocol=UDP)
    assert node6.send(Packet6(POD6, VIP6, UDP)).drop is Reason.ENCAPSULATION_PROHIBITED


@pytest.mark.parametrize(
    ("ranges", "is_led"),
    [
        ((f"{POD6}/128",), True),
        (("fd00:1::/64", "fd00:9::/64"), True),
        (("::/0",), True),
        (("fd00:2::/64",), False),
        ((), False),
    ],
)
def test_a_pod_is_led_if_its_address_is_in_a_range(node6: PacketNode, ranges: tuple[str, ...], is_led: bool) -> None:
    _serve(node6, REMOTE, reach=RESTRICTED)
    node6.service_maps(VIP6).source_ranges.update([(SourceRangeKey(7, text), SourceRangeValue()) for text in ranges])
    out = node6.send(Packet6(POD6, VIP6))
    if is_led:
        assert (out.verdict, out.packet.destination) == (REDIRECT, REMOTE_POD6)
    else:
        assert out.drop is Reason.NOT_IN_SOURCE_RANGE


def test_maglev_leads_alike_whatever_came_before(node6: PacketNode) -> None:
    def destinations() -> list[str]:
        table = [LOCAL, REMOTE, REMOTE, LOCAL]
        node6.service(table, algorithm=ServiceAlgorithm.MAGLEV, address=VIP6)
        ports = range(1024, 1224)
        return [node6.send(Packet6(POD6, VIP6, source_port=port)).packet.destination for port in ports]

    first = destinations()
    assert min(first.count(NEIGHBOUR6), first.count(REMOTE_POD6)) > 50
    node6.reset()
    assert destinations() == first


def test_while_no_agent_attends_new_connections_are_the_stacks_and_open_ones_go_on(node6: PacketNode) -> None:
    _serve(node6, REMOTE)
    node6.send(Packet6(POD6, VIP6))
    beaten_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - (UNATTENDED_AFTER_S + 3) * 10**9
    node6.maps.heartbeat.update([(HeartbeatKey(), HeartbeatValue(max(0, beaten_ns)))])
    assert node6.send(Packet6(POD6, VIP6, flags=ACK)).packet.destination == REMOTE_POD6
    out = node6.send(Packet6(POD6, VIP6, source_port=5))
    assert (out.verdict, out.packet.destination) == (PASS, VIP6)


def test_services_of_one_family_say_nothing_about_the_other(node6: PacketNode) -> None:
    node6.service([(1, "10.2.1.10", 9090)])
    _serve(node6, LOCAL)
    assert node6.send(Packet6(POD6, VIP6)).packet.destination == NEIGHBOUR6
    assert node6.send(IPV6.packet(POD6, VIP6, destination_port=81)).packet.destination == VIP6
