# SPDX-License-Identifier: Apache-2.0
"""Services of both families, packet by packet: translation, selection, affinity, hairpin, and what outlives what."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.datapath.flow_layout import ConntrackKey, ConntrackKind, EventType
from agent.datapath.layout import BackendKey, BackendState, MemberKey, ServiceKey
from agent.datapath.reasons import Reason
from tests.packet.ends import IPV4, Ends
from tests.packet.packet_bytes import ACK, FIN, RST, TCP, UDP
from tests.packet.packet_node import PASS, REDIRECT, PacketNode

pytestmark = pytest.mark.root


@pytest.mark.parametrize("protocol", [TCP, UDP])
@pytest.mark.parametrize("backend", ["local", "remote"])
def test_a_service_packet_goes_to_its_backend_and_the_answer_comes_from_the_service(
    node6: PacketNode, ends: Ends, protocol: int, backend: str
) -> None:
    node6.service([ends.backend(backend)], protocol, address=ends.vip)
    out = node6.send(ends.packet(ends.pod, ends.vip, protocol))
    assert out.verdict == REDIRECT
    assert (out.packet.destination, out.packet.destination_port) == ends.backend(backend)[1:]
    assert (out.packet.source, out.packet.source_port, out.packet.ttl) == (ends.pod, 40000, 63)
    back = (
        node6.overlay(replace(out.packet.reverse, ttl=64)) if backend == "remote" else node6.receive(out.packet.reverse)
    )
    assert back.verdict == (REDIRECT if backend == "remote" else PASS)
    assert (back.packet.source, back.packet.source_port) == (ends.vip, 80)
    assert (back.packet.destination, back.packet.destination_port) == (ends.pod, 40000)


@pytest.mark.parametrize("backend", ["local", "remote"])
def test_the_trace_of_a_service_packet_names_the_frontend(node6: PacketNode, ends: Ends, backend: str) -> None:
    node6.service([ends.backend(backend)], address=ends.vip)
    event = node6.send(ends.packet(ends.pod, ends.vip)).event(EventType.TRACE)
    assert (event.frontend, event.frontend_port) == (ends.vip, 80)
    assert (event.destination, event.destination_port) == ends.backend(backend)[1:]


def test_the_same_ports_through_another_frontend_are_answered_from_that_one(node6: PacketNode, ends: Ends) -> None:
    node6.service([ends.remote], UDP, address=ends.vip)
    node6.send(ends.packet(ends.pod, ends.vip, UDP))
    other = ends.other_vip
    entries = [(key._replace(address=other), value) for key, value in node6.service_maps(ends.vip).services.items()]
    node6.service_maps(ends.vip).services.update(sorted(entries, key=lambda entry: -entry[0].slot))
    out = node6.send(ends.packet(ends.pod, other, UDP))
    assert node6.overlay(replace(out.packet.reverse, ttl=64)).packet.source == other
    direct = node6.send(ends.packet(ends.pod, ends.remote_pod, UDP, destination_port=ends.remote[2]))
    assert node6.overlay(replace(direct.packet.reverse, ttl=64)).packet.source == ends.remote_pod


def test_a_udp_packet_without_checksum_keeps_having_none(node6: PacketNode) -> None:
    ends = IPV4
    node6.service([ends.remote], UDP, address=ends.vip)
    out = node6.send(ends.packet(ends.pod, ends.vip, UDP, udp_checksum=False))
    assert out.packet.destination == ends.remote_pod
    assert not out.packet.udp_checksum


def test_ip_options_do_not_shift_the_translation(node6: PacketNode) -> None:
    ends = IPV4
    node6.service([ends.remote], address=ends.vip)
    out = node6.send(ends.packet(ends.pod, ends.vip, ip_options=b"\x01\x01\x01\x00"))
    assert (out.packet.destination, out.packet.destination_port) == ends.remote[1:]


def test_another_port_of_the_service_address_is_left_to_the_stack(node6: PacketNode, ends: Ends) -> None:
    node6.service([ends.remote], address=ends.vip)
    out = node6.send(ends.packet(ends.pod, ends.vip, destination_port=81))
    assert (out.verdict, out.packet.destination) == (PASS, ends.vip)


def test_new_connections_spread_over_all_backends(node6: PacketNode, ends: Ends) -> None:
    node6.service([ends.local, ends.remote], address=ends.vip)
    sent = [node6.send(ends.packet(ends.pod, ends.vip, source_port=1024 + n)).packet.destination for n in range(200)]
    assert min(sent.count(ends.neighbour), sent.count(ends.remote_pod)) > 50


def test_a_connection_stays_with_its_backend(node6: PacketNode, ends: Ends) -> None:
    node6.service([ends.local, ends.remote], address=ends.vip)
    first = node6.send(ends.packet(ends.pod, ends.vip)).packet.destination
    assert {node6.send(ends.packet(ends.pod, ends.vip, flags=ACK)).packet.destination for _ in range(20)} == {first}


def test_affinity_keeps_a_client_with_one_backend(node6: PacketNode, ends: Ends) -> None:
    node6.service([ends.local, ends.remote], affinity_s=60, address=ends.vip)
    sent = {node6.send(ends.packet(ends.pod, ends.vip, source_port=1024 + n)).packet.destination for n in range(40)}
    assert len(sent) == 1


def test_affinity_is_not_honoured_towards_a_backend_that_left_the_service(node6: PacketNode, ends: Ends) -> None:
    node6.service([ends.remote], affinity_s=60, address=ends.vip)
    node6.send(ends.packet(ends.pod, ends.vip))
    node6.service([ends.local, ends.remote], affinity_s=60, address=ends.vip)
    node6.service_maps(ends.vip).members.delete([MemberKey(7, ends.remote[0])])
    node6.service_maps(ends.vip).services.update(
        [
            (
                ServiceKey(ends.vip, 80, TCP, 2),
                node6.service_maps(ends.vip).services.get(ServiceKey(ends.vip, 80, TCP, 1)),
            )
        ]
    )
    sent = {node6.send(ends.packet(ends.pod, ends.vip, source_port=1024 + n)).packet.destination for n in range(40)}
    assert sent == {ends.neighbour}


def test_an_expired_affinity_is_forgotten(node6: PacketNode, ends: Ends) -> None:
    node6.service([ends.local, ends.remote], affinity_s=60, address=ends.vip)
    node6.send(ends.packet(ends.pod, ends.vip))
    ((key, value),) = node6.service_maps(ends.vip).affinity.items()
    node6.service_maps(ends.vip).affinity.update(
        [(key, value._replace(last_used_ns=max(0, value.last_used_ns - 61 * 10**9)))]
    )
    seen = set()
    for n in range(40):
        seen.add(node6.send(ends.packet(ends.pod, ends.vip, source_port=1024 + n)).packet.destination)
        node6.service_maps(ends.vip).affinity.update(
            [(key, value._replace(last_used_ns=max(0, value.last_used_ns - 61 * 10**9)))]
        )
    assert seen == {ends.neighbour, ends.remote_pod}


def _set_state(node6: PacketNode, ends: Ends, backend: int, state: BackendState) -> None:
    value = node6.service_maps(ends.vip).backends.get(BackendKey(backend))
    assert value is not None
    node6.service_maps(ends.vip).backends.update([(BackendKey(backend), value._replace(state=state))])


def test_a_syn_on_the_ports_of_a_connection_to_a_terminating_backend_selects_anew(
    node6: PacketNode, ends: Ends
) -> None:
    node6.service([ends.remote], address=ends.vip)
    node6.send(ends.packet(ends.pod, ends.vip))
    node6.service([ends.local], address=ends.vip)
    _set_state(node6, ends, ends.remote[0], BackendState.TERMINATING)
    assert node6.send(ends.packet(ends.pod, ends.vip)).packet.destination == ends.neighbour


def test_a_retransmitted_syn_goes_to_the_same_backend(node6: PacketNode, ends: Ends) -> None:
    node6.service([ends.local, ends.remote], address=ends.vip)
    first = node6.send(ends.packet(ends.pod, ends.vip)).packet.destination
    assert {node6.send(ends.packet(ends.pod, ends.vip)).packet.destination for _ in range(20)} == {first}


def test_a_syn_after_a_reset_selects_anew(node6: PacketNode, ends: Ends) -> None:
    node6.service([ends.remote], address=ends.vip)
    node6.send(ends.packet(ends.pod, ends.vip))
    node6.send(ends.packet(ends.pod, ends.vip, flags=RST))
    node6.service([ends.local, ends.remote], address=ends.vip)
    seen = set()
    for _ in range(40):
        seen.add(node6.send(ends.packet(ends.pod, ends.vip)).packet.destination)
        node6.send(ends.packet(ends.pod, ends.vip, flags=RST))
    assert seen == {ends.neighbour, ends.remote_pod}


def test_a_new_connection_to_a_deleted_service_is_not_translated(node6: PacketNode, ends: Ends) -> None:
    node6.service([ends.remote], address=ends.vip)
    node6.send(ends.packet(ends.pod, ends.vip))
    node6.service_maps(ends.vip).services.delete([k for k, _ in node6.service_maps(ends.vip).services.items()])
    assert node6.send(ends.packet(ends.pod, ends.vip)).packet.destination == ends.vip


def test_a_connection_older_than_the_programs_stays_with_the_stack(node6: PacketNode, ends: Ends) -> None:
    node6.service([ends.remote], address=ends.vip)
    out = node6.send(ends.packet(ends.pod, ends.vip, flags=ACK))
    assert (out.verdict, out.packet.destination) == (PASS, ends.vip)
    old = node6.send(ends.packet(ends.pod, ends.neighbour, source_port=80, destination_port=5555, flags=ACK))
    assert old.verdict == PASS


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_a_pod_reaches_itself_through_its_service(node6: PacketNode, ends: Ends, protocol: int) -> None:
    node6.endpoint(flags=3)
    node6.service([(1, ends.pod, 8080)], protocol, address=ends.vip)
    out = node6.send(ends.packet(ends.pod, ends.vip, protocol))
    assert out.verdict == REDIRECT
    assert (out.packet.source, out.packet.destination) == (ends.loopback, ends.pod)
    assert out.packet.destination_port == 8080
    back = node6.send(replace(out.packet.reverse, ttl=64))
    assert back.verdict == REDIRECT
    assert (back.packet.source, back.packet.source_port) == (ends.vip, 80)
    assert (back.packet.destination, back.packet.destination_port) == (ends.pod, 40000)


def test_the_loopback_address_answers_nobody_else(node6: PacketNode, ends: Ends) -> None:
    assert node6.send(ends.packet(ends.pod, ends.loopback)).drop is Reason.UNROUTABLE


def test_a_closed_connection_lives_ten_ticks(node6: PacketNode) -> None:
    ends = IPV4
    node6.send(ends.packet(ends.pod, ends.remote_pod))
    key = ConntrackKey(ends.pod, ends.remote_pod, 40000, 80, TCP, ConntrackKind.EGRESS)
    opened = node6.maps.conntrack_opening.get(key)
    node6.send(ends.packet(ends.pod, ends.remote_pod, flags=FIN | ACK))
    node6.overlay(ends.packet(ends.remote_pod, ends.pod, source_port=80, destination_port=40000, flags=FIN | ACK))
    closed = node6.maps.conntrack_opening.get(key)
    assert opened is not None
    assert closed is not None
    assert 45 <= opened.lifetime - closed.lifetime <= 50


def test_an_expired_flow_counts_as_absent(node6: PacketNode) -> None:
    ends = IPV4
    node6.send(ends.packet(ends.pod, ends.world, UDP))
    ((key, value),) = node6.maps.conntrack_opening.items()
    node6.maps.conntrack_opening.update([(key, value._replace(lifetime=0))])
    assert node6.send(ends.packet(ends.pod, ends.world, UDP)).events, "judged and traced as a new flow"
