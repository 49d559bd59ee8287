# SPDX-License-Identifier: Apache-2.0
"""Which new connections are among some flows: each once, on the side of each pod of this node, with what became of them."""

from __future__ import annotations

from typing import Any

import pytest

from agent.datapath.flow_layout import TraceReason
from agent.datapath.reasons import Reason
from agent.observe.connections import keep_most, new_connections
from agent.observe.flow import Flow, FlowEnd, FlowType, FlowVerdict
from meshapi.connection import ConnectionRow

HERE = {"10.1.0.1", "10.1.0.2"}
REMOTE = "10.2.0.9"


def flow(source: str, target: str, **changes: Any) -> Flow:
    """The first packet of a TCP connection to port 80, traced on its way out of the node or into a pod."""
    fields: dict[str, Any] = {
        "time_s": 10.0,
        "type": FlowType.TRACE,
        "verdict": FlowVerdict.FORWARDED,
        "reason": TraceReason.NEW,
        "protocol": "TCP",
        "summary": "",
        "direction": "ingress" if target in HERE else "egress",
    }
    port = changes.pop("port", 40_000)
    ends = {"source": FlowEnd(ip=source, port=port, identity=7), "destination": FlowEnd(ip=target, port=80, identity=9)}
    return Flow(**{**fields, **ends, **changes})


def cut(source: str, target: str, **changes: Any) -> Flow:
    kind = {"type": FlowType.POLICY_VERDICT, "verdict": FlowVerdict.DROPPED, "reason": Reason.POLICY_DENIED}
    return flow(source, target, **{**kind, **changes})


def found(*flows: Flow) -> list[ConnectionRow]:
    return new_connections(flows, HERE.__contains__)


def sides(*flows: Flow) -> list[tuple[str, int, int]]:
    return [(row.direction, row.connections, row.dropped) for row in found(*flows)]


def test_verdict_and_trace_of_one_connection_count_once_and_two_ports_twice() -> None:
    verdict = flow("10.1.0.1", REMOTE, type=FlowType.POLICY_VERDICT, reason=0)
    assert sides(verdict, flow("10.1.0.1", REMOTE)) == [("egress", 1, 0)]
    assert sides(verdict, flow("10.1.0.1", REMOTE, port=40_001)) == [("egress", 2, 0)]


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
        flow(REMOTE, "10.1.0.1", type=FlowType.DROP, verdict=FlowVerdict.DROPPED, reason=Reason.NO_BACKEND),
        flow(REMOTE, "192.0.2.1", direction="egress"),
    ],
    ids=["reply", "error", "not asked of policy", "of no pod here"],
)
def test_what_opens_nothing_here_is_left_out(other: Flow) -> None:
    assert found(other) == []


def test_a_drop_counts_where_its_verdict_was_lost() -> None:
    assert sides(cut(REMOTE, "10.1.0.1", type=FlowType.DROP)) == [("ingress", 1, 1)]


def test_the_row_names_port_or_type_and_the_newest_flow() -> None:
    (row,) = found(flow(REMOTE, "10.1.0.1", time_s=5.0), flow(REMOTE, "10.1.0.1", time_s=6.0))
    assert (row.protocol, row.port, row.last, row.source.identity, row.destination.ip) == (6, 80, 6.0, 7, "10.1.0.1")
    (ping,) = found(flow(REMOTE, "10.1.0.1", protocol="ICMPv4", icmp_type=8))
    assert (ping.protocol, ping.port) == (1, 8)
    (gre,) = found(flow(REMOTE, "10.1.0.1", protocol="47"))
    assert gre.protocol == 47


def test_where_there_are_too_many_rows_the_rarest_are_left_out_and_counted() -> None:
    many = [flow(REMOTE, "10.1.0.1", port=n) for n in range(5)] + [flow(REMOTE, "10.1.0.2", port=n) for n in range(2)]
    rows = found(*many, flow("10.1.0.1", REMOTE))
    kept, left_out = keep_most(rows, 2)
    assert ([row.connections for row in kept], left_out) == ([5, 2], 1)
    assert keep_most(rows, 3) == (rows, 0)
