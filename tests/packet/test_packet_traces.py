# SPDX-License-Identifier: Apache-2.0
"""What is recorded of packets on their way: where they are traced, how often, as part of which connection, and translations."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace

import pytest

from agent.datapath.config import Aggregation
from agent.datapath.flow_layout import DatapathEvent, EventType, TracePoint, TraceReason, Translation
from agent.datapath.layout import ServiceFlag
from tests.packet.packet_bytes import ACK, FIN, ICMP, SYN, UDP, Packet, icmp_error
from tests.packet.packet_node import (
    NEIGHBOUR,
    NODE,
    POD,
    POD_ID,
    REMOTE_ID,
    REMOTE_POD,
    VIP,
    WORLD,
    PacketNode,
)

pytestmark = pytest.mark.root
REMOTE = (1, REMOTE_POD, 9090)
PSH = 8
each_level = pytest.mark.parametrize(
    "packet_node", [Aggregation.NONE, Aggregation.LOW, Aggregation.OFF], indirect=True, scope="module"
)


def _traces(events: Iterable[DatapathEvent]) -> list[tuple[TracePoint, TraceReason]]:
    return [(TracePoint(e.point), TraceReason(e.reason)) for e in events if e.type == EventType.TRACE]


def _pass_reports(node: PacketNode, ticks: int) -> None:
    """Every connection was traced that much earlier."""
    for values in (node.maps.conntrack_tcp, node.maps.conntrack_other, node.maps.conntrack_opening):
        aged = [
            (
                key,
                v._replace(
                    reported_forward=max(0, v.reported_forward - ticks), reported_reply=max(0, v.reported_reply - ticks)
                ),
            )
            for key, v in values.items()
        ]
        values.update(aged)


def test_a_connection_is_traced_at_its_first_packet_each_new_flag_and_its_close(node: PacketNode) -> None:
    sent = Packet(POD, REMOTE_POD)
    answer = replace(sent.reverse, ttl=64)
    steps = [
        (sent, SYN, [(TracePoint.TO_OVERLAY, TraceReason.NEW)]),
        (answer, SYN | ACK, [(TracePoint.TO_ENDPOINT, TraceReason.REPLY)]),
        (sent, ACK, [(TracePoint.TO_OVERLAY, TraceReason.ESTABLISHED)]),
        (sent, ACK | PSH, [(TracePoint.TO_OVERLAY, TraceReason.ESTABLISHED)]),
        (sent, ACK | PSH, []),
        (answer, ACK, []),
        (answer, ACK | FIN, [(TracePoint.TO_ENDPOINT, TraceReason.REPLY)]),
        (sent, ACK | FIN, [(TracePoint.TO_OVERLAY, TraceReason.ESTABLISHED)]),
        (sent, ACK, []),
    ]
    for packet, flags, expected in steps:
        step = node.send if packet is sent else node.overlay
        assert _traces(step(replace(packet, flags=flags)).events) == expected, flags


def test_a_connection_that_goes_on_is_traced_once_in_five_ticks_in_each_direction(node: PacketNode) -> None:
    sent = Packet(POD, REMOTE_POD, UDP)
    answer = replace(sent.reverse, ttl=64)
    assert node.send(sent).events
    assert node.overlay(answer).events
    assert (node.send(sent).events, node.overlay(answer).events) == ([], [])
    _pass_reports(node, 3)
    assert (node.send(sent).events, node.overlay(answer).events) == ([], [])
    _pass_reports(node, 5)
    assert _traces(node.send(sent).events) == [(TracePoint.TO_OVERLAY, TraceReason.ESTABLISHED)]
    assert _traces(node.overlay(answer).events) == [(TracePoint.TO_ENDPOINT, TraceReason.REPLY)]
    assert (node.send(sent).events, node.overlay(answer).events) == ([], [])


def test_who_opened_a_connection_that_began_unseen_is_not_said(node: PacketNode) -> None:
    sent = Packet(POD, REMOTE_POD, source_port=8080, destination_port=40000, flags=ACK)
    answer = replace(sent.reverse, ttl=64)
    assert _traces(node.send(sent).events) == [(TracePoint.TO_OVERLAY, TraceReason.UNKNOWN)]
    assert _traces(node.overlay(answer).events) == [(TracePoint.TO_ENDPOINT, TraceReason.UNKNOWN)]
    assert _traces(node.send(replace(sent, flags=ACK | FIN)).events) == [(TracePoint.TO_OVERLAY, TraceReason.UNKNOWN)]
    other = replace(sent, source_port=8081, flags=SYN)
    assert _traces(node.send(other).events) == [(TracePoint.TO_OVERLAY, TraceReason.NEW)]


def test_where_a_packet_goes_is_where_it_is_traced(node: PacketNode) -> None:
    ways = {WORLD: TracePoint.TO_STACK, NODE: TracePoint.TO_HOST, NEIGHBOUR: TracePoint.TO_ENDPOINT}
    for target, point in ways.items():
        assert _traces(node.send(Packet(POD, target)).events) == [(point, TraceReason.NEW)]
    event = node.overlay(Packet(REMOTE_POD, POD)).event(EventType.TRACE)
    assert (event.point, event.source_identity, event.destination_identity) == (0, REMOTE_ID, POD_ID)


def test_an_icmp_error_is_related_to_the_connection_it_is_about(node: PacketNode) -> None:
    sent = Packet(POD, REMOTE_POD, UDP)
    node.send(sent)
    out = node.overlay(icmp_error(REMOTE_POD, replace(sent, ttl=63)))
    assert _traces(out.events) == [(TracePoint.TO_ENDPOINT, TraceReason.RELATED)]


def test_a_translation_is_recorded_once_forward_and_once_back(node: PacketNode) -> None:
    node.service([REMOTE], UDP)
    first = node.send(Packet(POD, VIP, UDP))
    event = first.event(EventType.TRANSLATION)
    assert (event.point, event.source, event.source_port) == (Translation.FORWARD, POD, 40000)
    assert (event.destination, event.destination_port) == REMOTE[1:]
    assert (event.frontend, event.frontend_port, event.source_identity) == (VIP, 80, POD_ID)
    assert EventType.TRANSLATION not in {e.type for e in node.send(Packet(POD, VIP, UDP)).events}
    back = replace(first.packet.reverse, ttl=64)
    event = (answered := node.overlay(back)).event(EventType.TRANSLATION)
    assert (event.point, event.source, event.source_port) == (Translation.BACK, *REMOTE[1:])
    assert (event.destination, event.frontend, event.frontend_port) == (POD, VIP, 80)
    assert answered.packet.source == VIP
    trace = answered.event(EventType.TRACE)
    assert (trace.source, trace.source_port, trace.frontend) == (*REMOTE[1:], VIP), "who answered, not what it was made"
    assert node.overlay(back).events == []


def test_a_connection_from_outside_is_recorded_as_who_opened_it(node: PacketNode) -> None:
    node.service([REMOTE], reach=ServiceFlag.OF_OUTSIDERS)
    out = node.outside(Packet(WORLD, VIP))
    assert (out.event(EventType.TRANSLATION).point, out.packet.source) == (Translation.FORWARD, NODE)
    event = out.event(EventType.TRACE)
    assert (event.point, event.reason, event.source, event.source_port) == (4, TraceReason.NEW, WORLD, 40000)
    assert (event.destination, event.frontend) == (REMOTE_POD, VIP)
    back = node.overlay(replace(out.packet.reverse, flags=SYN | ACK, ttl=64))
    assert _traces(back.events) == [(TracePoint.TO_NETWORK, TraceReason.REPLY)]
    assert back.event(EventType.TRANSLATION).source == REMOTE_POD
    again = node.outside(Packet(WORLD, VIP, flags=ACK))
    assert _traces(again.events) == [(TracePoint.TO_OVERLAY, TraceReason.ESTABLISHED)]
    assert node.outside(Packet(WORLD, VIP, flags=ACK)).events == []


@each_level
def test_each_level_leaves_out_what_it_says(node: PacketNode, request: pytest.FixtureRequest) -> None:
    level = request.node.callspec.params["packet_node"]
    arrivals = {
        TracePoint.FROM_ENDPOINT: (lambda: node.send(Packet(POD, REMOTE_POD, UDP)), TracePoint.TO_OVERLAY),
        TracePoint.FROM_OVERLAY: (lambda: node.overlay(Packet(REMOTE_POD, POD, UDP)), TracePoint.TO_ENDPOINT),
        TracePoint.FROM_STACK: (lambda: node.receive(Packet(WORLD, POD, UDP)), TracePoint.TO_ENDPOINT),
        TracePoint.FROM_HOST: (lambda: node.receive(Packet(NODE, POD, ICMP, 8)), TracePoint.TO_ENDPOINT),
    }
    for came_in, (step, goes) in arrivals.items():
        for reason in (TraceReason.NEW, TraceReason.ESTABLISHED, TraceReason.ESTABLISHED):
            expected = {
                Aggregation.NONE: [(came_in, TraceReason.UNKNOWN), (goes, reason)],
                Aggregation.LOW: [(goes, reason)],
                Aggregation.OFF: [],
            }[level]
            assert _traces(step().events) == expected, came_in
    refused = node.overlay(Packet(REMOTE_POD, "10.1.1.99", UDP))
    drops = [event for event in refused.events if event.type == EventType.DROP]
    assert len(drops) == (0 if level is Aggregation.OFF else 1)


def test_what_the_ring_has_no_room_for_is_counted_for_its_processor(node: PacketNode) -> None:
    frame = Packet(POD, "10.2.1.99", source_port=1).frame()
    forged = frame[:6] + bytes.fromhex("02000000ffff") + frame[12:]
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cpus)})
    try:
        before, pushed = node.ring.lost, 9_500
        for _ in range(pushed):
            node.push(forged)
    finally:
        os.sched_setaffinity(0, cpus)
    grown = {cpu: now - then for cpu, (now, then) in enumerate(zip(node.ring.lost, before, strict=True)) if now > then}
    assert grown == {max(cpus): pushed - len(node.ring.take(pushed))}
