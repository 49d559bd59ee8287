# SPDX-License-Identifier: Apache-2.0
"""Which new connections are among some flows: each once, on the side of each pod of this node, with what became of them."""

from __future__ import annotations

import pytest

from agent.datapath.flow_layout import EventType, TraceReason
from agent.datapath.reasons import Reason
from agent.observe.connections import keep_most, new_connections
from flows.proto import flow_pb2 as pb
from meshapi.connection import ConnectionRow

HERE = {"10.1.0.1", "10.1.0.2"}
REMOTE = "10.2.0.9"


def flow(
    source: str,
    target: str,
    *,
    port: int = 40_000,
    kind: int = EventType.TRACE,
    reason: int = TraceReason.NEW,
    direction: str = "",
    protocol: str = "TCP",
    number: int = 0,
    second: float = 10.0,
    is_cut: bool = False,
) -> pb.Flow:
    """The first packet of a TCP connection to port 80, traced on its way out of the node or into a pod."""
    inwards = direction == "ingress" if direction else target in HERE
    found = pb.Flow(verdict=pb.DROPPED if is_cut else pb.FORWARDED)
    found.time.FromNanoseconds(int(second * 1e9))
    found.traffic_direction = pb.INGRESS if inwards else pb.EGRESS
    found.event_type.type = kind
    found.IP.source, found.IP.destination = source, target
    found.source.identity, found.destination.identity = 7, 9
    if kind == EventType.TRACE:
        found.trace_reason = pb.TraceReason.ValueType(reason)
    else:
        found.drop_reason = reason
    if protocol == "TCP":
        found.l4.TCP.source_port, found.l4.TCP.destination_port = port, 80
    elif protocol == "ICMPv4":
        found.l4.ICMPv4.type = number
    else:
        found.Summary = protocol
    return found


def cut(source: str, target: str, *, kind: int = EventType.POLICY_VERDICT, direction: str = "") -> pb.Flow:
    return flow(source, target, kind=kind, direction=direction, reason=Reason.POLICY_DENIED, is_cut=True)


def found(*flows: pb.Flow) -> list[ConnectionRow]:
    return new_connections(flows, HERE.__contains__)


def sides(*flows: pb.Flow) -> list[tuple[str, int, int]]:
    return [(row.direction, row.connections, row.dropped) for row in found(*flows)]


def test_verdict_and_trace_of_one_connection_count_once_and_two_ports_twice() -> None:
    verdict = flow("10.1.0.1", REMOTE, kind=EventType.POLICY_VERDICT, reason=0)
    assert sides(verdict, flow("10.1.0.1", REMOTE)) == [("egress", 1, 0)]
    assert sides(verdict, flow("10.1.0.1", REMOTE, port=40_001)) == [("egress", 2, 0)]


@pytest.mark.parametrize(
    ("kind", "flags", "opens"),
    [
        (EventType.TRACE, "SYN", True),
        (EventType.TRACE, "ACK", False),
        (EventType.TRACE, "SYN ACK", False),
        (EventType.TRACE, "RST ACK", False),
        (EventType.POLICY_VERDICT, "SYN", True),
        (EventType.POLICY_VERDICT, "ACK", True),
        (EventType.POLICY_VERDICT, "RST", False),
        (EventType.POLICY_VERDICT, "SYN ACK", False),
    ],
)
def test_an_answer_or_a_reset_to_somebodys_port_opens_nothing(kind: EventType, flags: str, opens: bool) -> None:
    """A pod answers on a connection that is older than the agent: who opened it is not in the packet."""
    packet = flow("10.1.0.1", REMOTE, kind=kind, reason=TraceReason.NEW if kind == EventType.TRACE else 0)
    for name in flags.split():
        setattr(packet.l4.TCP.flags, name, True)
    assert bool(sides(packet)) is opens


def test_a_connection_within_the_node_is_one_of_each_pod() -> None:
    assert sides(flow("10.1.0.1", "10.1.0.2")) == [("egress", 1, 0), ("ingress", 1, 0)]


def test_what_is_cut_on_its_way_out_never_comes_in() -> None:
    assert sides(cut("10.1.0.1", "10.1.0.2", direction="egress")) == [("egress", 1, 1)]
    assert sides(cut("10.1.0.1", "10.1.0.2", direction="ingress")) == [("egress", 1, 0), ("ingress", 1, 1)]


def test_a_repeated_packet_that_is_let_in_later_was_still_cut_once() -> None:
    assert sides(cut(REMOTE, "10.1.0.1"), flow(REMOTE, "10.1.0.1")) == [("ingress", 1, 1)]


@pytest.mark.parametrize(
    "other",
    [
        flow(REMOTE, "10.1.0.1", reason=TraceReason.REPLY),
        flow(REMOTE, "10.1.0.1", reason=TraceReason.RELATED),
        flow(REMOTE, "10.1.0.1", kind=EventType.DROP, reason=Reason.NO_BACKEND, is_cut=True),
        flow(REMOTE, "192.0.2.1", direction="egress"),
    ],
    ids=["reply", "error", "not asked of policy", "of no pod here"],
)
def test_what_opens_nothing_here_is_left_out(other: pb.Flow) -> None:
    assert found(other) == []


def test_a_drop_counts_where_its_verdict_was_lost() -> None:
    assert sides(cut(REMOTE, "10.1.0.1", kind=EventType.DROP)) == [("ingress", 1, 1)]


def test_the_row_names_port_or_type_and_the_newest_flow() -> None:
    (row,) = found(flow(REMOTE, "10.1.0.1", second=5.0), flow(REMOTE, "10.1.0.1", second=6.0))
    assert (row.protocol, row.port, row.last, row.source.identity, row.destination.ip) == (6, 80, 6.0, 7, "10.1.0.1")
    (ping,) = found(flow(REMOTE, "10.1.0.1", protocol="ICMPv4", number=8))
    assert (ping.protocol, ping.port) == (1, 8)
    (gre,) = found(flow(REMOTE, "10.1.0.1", protocol="47"))
    assert gre.protocol == 47


def test_where_there_are_too_many_rows_the_rarest_are_left_out_and_counted() -> None:
    many = [flow(REMOTE, "10.1.0.1", port=n) for n in range(5)] + [flow(REMOTE, "10.1.0.2", port=n) for n in range(2)]
    rows = found(*many, flow("10.1.0.1", REMOTE))
    kept, left_out = keep_most(rows, 2)
    assert ([row.connections for row in kept], left_out) == ([5, 2], 1)
    assert keep_most(rows, 3) == (rows, 0)
