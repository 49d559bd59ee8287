# SPDX-License-Identifier: Apache-2.0
"""Services, packet by packet: translation, selection, affinity, hairpin, and what outlives what."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.datapath.flow_layout import ConntrackKey, ConntrackKind, EventType
from agent.datapath.layout import LOOPBACK_ADDRESS, BackendKey, BackendState, MemberKey, ServiceKey
from agent.datapath.reasons import Reason
from tests.packet.packet_bytes import ACK, FIN, RST, TCP, UDP, Packet
from tests.packet.packet_node import NEIGHBOUR, PASS, POD, REDIRECT, REMOTE_POD, VIP, WORLD, PacketNode

pytestmark = pytest.mark.root
LOCAL, REMOTE = (1, NEIGHBOUR, 8080), (2, REMOTE_POD, 9090)


@pytest.mark.parametrize("protocol", [TCP, UDP])
@pytest.mark.parametrize("backend", [LOCAL, REMOTE], ids=["local", "remote"])
def test_a_service_packet_goes_to_its_backend_and_the_answer_comes_from_the_service(
    node: PacketNode, protocol: int, backend: tuple[int, str, int]
) -> None:
    node.service([backend], protocol)
    out = node.send(Packet(POD, VIP, protocol))
    assert out.verdict == REDIRECT
    assert (out.packet.destination, out.packet.destination_port) == backend[1:]
    assert (out.packet.source, out.packet.source_port, out.packet.ttl) == (POD, 40000, 63)
    back = node.overlay(replace(out.packet.reverse, ttl=64)) if backend == REMOTE else node.receive(out.packet.reverse)
    assert back.verdict == (REDIRECT if backend == REMOTE else PASS)
    assert (back.packet.source, back.packet.source_port) == (VIP, 80)
    assert (back.packet.destination, back.packet.destination_port) == (POD, 40000)


@pytest.mark.parametrize("backend", [LOCAL, REMOTE], ids=["local", "remote"])
def test_the_trace_of_a_service_packet_names_the_frontend(node: PacketNode, backend: tuple[int, str, int]) -> None:
    node.service([backend])
    event = node.send(Packet(POD, VIP)).event(EventType.TRACE)
    assert (event.frontend, event.frontend_port) == (VIP, 80)
    assert (event.destination, event.destination_port) == backend[1:]


def test_the_same_ports_through_another_frontend_are_answered_from_that_one(node: PacketNode) -> None:
    node.service([REMOTE], UDP)
    node.send(Packet(POD, VIP, UDP))
    other = "172.20.1.8"
    entries = [(key._replace(address=other), value) for key, value in node.maps.services.items()]
    node.maps.services.update(sorted(entries, key=lambda entry: -entry[0].slot))
    out = node.send(Packet(POD, other, UDP))
    assert node.overlay(replace(out.packet.reverse, ttl=64)).packet.source == other
    direct = node.send(Packet(POD, REMOTE_POD, UDP, destination_port=REMOTE[2]))
    assert node.overlay(replace(direct.packet.reverse, ttl=64)).packet.source == REMOTE_POD


def test_a_udp_packet_without_checksum_keeps_having_none(node: PacketNode) -> None:
    node.service([REMOTE], UDP)
    out = node.send(Packet(POD, VIP, UDP, udp_checksum=False))
    assert out.packet.destination == REMOTE_POD
    assert not out.packet.udp_checksum


def test_ip_options_do_not_shift_the_translation(node: PacketNode) -> None:
    node.service([REMOTE])
    out = node.send(Packet(POD, VIP, ip_options=b"\x01\x01\x01\x00"))
    assert (out.packet.destination, out.packet.destination_port) == REMOTE[1:]


def test_another_port_of_the_service_address_is_left_to_the_stack(node: PacketNode) -> None:
    node.service([REMOTE])
    out = node.send(Packet(POD, VIP, destination_port=81))
    assert (out.verdict, out.packet.destination) == (PASS, VIP)


def test_new_connections_spread_over_all_backends(node: PacketNode) -> None:
    node.service([LOCAL, REMOTE])
    sent = [node.send(Packet(POD, VIP, source_port=1024 + n)).packet.destination for n in range(200)]
    assert min(sent.count(NEIGHBOUR), sent.count(REMOTE_POD)) > 50


def test_a_connection_stays_with_its_backend(node: PacketNode) -> None:
    node.service([LOCAL, REMOTE])
    first = node.send(Packet(POD, VIP)).packet.destination
    assert {node.send(Packet(POD, VIP, flags=ACK)).packet.destination for _ in range(20)} == {first}


def test_affinity_keeps_a_client_with_one_backend(node: PacketNode) -> None:
    node.service([LOCAL, REMOTE], affinity_s=60)
    sent = {node.send(Packet(POD, VIP, source_port=1024 + n)).packet.destination for n in range(40)}
    assert len(sent) == 1


def test_affinity_is_not_honoured_towards_a_backend_that_left_the_service(node: PacketNode) -> None:
    node.service([REMOTE], affinity_s=60)
    node.send(Packet(POD, VIP))
    node.service([LOCAL, REMOTE], affinity_s=60)
    node.maps.members.delete([MemberKey(7, REMOTE[0])])
    node.maps.services.update([(ServiceKey(VIP, 80, TCP, 2), node.maps.services.get(ServiceKey(VIP, 80, TCP, 1)))])
    sent = {node.send(Packet(POD, VIP, source_port=1024 + n)).packet.destination for n in range(40)}
    assert sent == {NEIGHBOUR}


def test_an_expired_affinity_is_forgotten(node: PacketNode) -> None:
    node.service([LOCAL, REMOTE], affinity_s=60)
    node.send(Packet(POD, VIP))
    ((key, value),) = node.maps.affinity.items()
    node.maps.affinity.update([(key, value._replace(last_used_ns=max(0, value.last_used_ns - 61 * 10**9)))])
    seen = set()
    for n in range(40):
        seen.add(node.send(Packet(POD, VIP, source_port=1024 + n)).packet.destination)
        node.maps.affinity.update([(key, value._replace(last_used_ns=max(0, value.last_used_ns - 61 * 10**9)))])
    assert seen == {NEIGHBOUR, REMOTE_POD}


def _set_state(node: PacketNode, backend: int, state: BackendState) -> None:
    value = node.maps.backends.get(BackendKey(backend))
    assert value is not None
    node.maps.backends.update([(BackendKey(backend), value._replace(state=state))])


def test_a_syn_on_the_ports_of_a_connection_to_a_terminating_backend_selects_anew(node: PacketNode) -> None:
    node.service([REMOTE])
    node.send(Packet(POD, VIP))
    node.service([LOCAL])
    _set_state(node, REMOTE[0], BackendState.TERMINATING)
    assert node.send(Packet(POD, VIP)).packet.destination == NEIGHBOUR


def test_a_retransmitted_syn_goes_to_the_same_backend(node: PacketNode) -> None:
    node.service([LOCAL, REMOTE])
    first = node.send(Packet(POD, VIP)).packet.destination
    assert {node.send(Packet(POD, VIP)).packet.destination for _ in range(20)} == {first}


def test_a_syn_after_a_reset_selects_anew(node: PacketNode) -> None:
    node.service([REMOTE])
    node.send(Packet(POD, VIP))
    node.send(Packet(POD, VIP, flags=RST))
    node.service([LOCAL, REMOTE])
    seen = set()
    for _ in range(40):
        seen.add(node.send(Packet(POD, VIP)).packet.destination)
        node.send(Packet(POD, VIP, flags=RST))
    assert seen == {NEIGHBOUR, REMOTE_POD}


def test_a_new_connection_to_a_deleted_service_is_not_translated(node: PacketNode) -> None:
    node.service([REMOTE])
    node.send(Packet(POD, VIP))
    node.maps.services.delete([k for k, _ in node.maps.services.items()])
    assert node.send(Packet(POD, VIP)).packet.destination == VIP


def test_a_connection_older_than_the_programs_stays_with_the_stack(node: PacketNode) -> None:
    node.service([REMOTE])
    out = node.send(Packet(POD, VIP, flags=ACK))
    assert (out.verdict, out.packet.destination) == (PASS, VIP)
    old = node.send(Packet(POD, NEIGHBOUR, source_port=80, destination_port=5555, flags=ACK))
    assert old.verdict == PASS


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_a_pod_reaches_itself_through_its_service(node: PacketNode, protocol: int) -> None:
    node.endpoint(flags=3)
    node.service([(1, POD, 8080)], protocol)
    out = node.send(Packet(POD, VIP, protocol))
    assert out.verdict == REDIRECT
    assert (out.packet.source, out.packet.destination) == (LOOPBACK_ADDRESS, POD)
    assert out.packet.destination_port == 8080
    back = node.send(replace(out.packet.reverse, ttl=64))
    assert back.verdict == REDIRECT
    assert (back.packet.source, back.packet.source_port) == (VIP, 80)
    assert (back.packet.destination, back.packet.destination_port) == (POD, 40000)


def test_the_loopback_address_answers_nobody_else(node: PacketNode) -> None:
    assert node.send(Packet(POD, LOOPBACK_ADDRESS)).drop is Reason.UNROUTABLE


def test_a_closed_connection_lives_ten_ticks(node: PacketNode) -> None:
    node.send(Packet(POD, REMOTE_POD))
    key = ConntrackKey(POD, REMOTE_POD, 40000, 80, TCP, ConntrackKind.EGRESS)
    opened = node.maps.conntrack_opening.get(key)
    node.send(Packet(POD, REMOTE_POD, flags=FIN | ACK))
    node.overlay(Packet(REMOTE_POD, POD, source_port=80, destination_port=40000, flags=FIN | ACK))
    closed = node.maps.conntrack_opening.get(key)
    assert opened is not None
    assert closed is not None
    assert 45 <= opened.lifetime - closed.lifetime <= 50


def test_an_expired_flow_counts_as_absent(node: PacketNode) -> None:
    node.send(Packet(POD, WORLD, UDP))
    ((key, value),) = node.maps.conntrack_opening.items()
    node.maps.conntrack_opening.update([(key, value._replace(lifetime=0))])
    assert node.send(Packet(POD, WORLD, UDP)).events, "judged and traced as a new flow"
