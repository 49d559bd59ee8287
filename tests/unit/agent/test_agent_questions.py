# SPDX-License-Identifier: Apache-2.0
"""Records of the DNS proxy become flows of layer 7."""

from __future__ import annotations

from typing import Any

import pytest

from agent.observe.flow import FlowMaker
from agent.observe.questions import QuestionFlows
from agent.observe.requests import with_requests
from agent.observe.sides import Directory
from agent.tables import AgentDB
from flows.proto import flow_pb2 as pb
from flows.text import Look, compact_line
from meshmodel.names import ClusterId, ClusterName

RECORD: dict[str, Any] = {
    "began_ns": 1_709_285_411_500_000_000, "latency_ns": 3_000_000, "client": ["10.1.0.5", 41000], "server": ["10.1.0.9", 53],
    "port": 14053, "protocol": "UDP", "name": "www.example.com.", "type": "A", "refused": False, "rcode": 0,
    "addresses": ["203.0.113.8"], "ttl_s": 20, "aliases": ["web.example.com."], "types": ["CNAME", "A"],
}  # fmt: skip


def _flows(**changes: Any) -> list[pb.Flow]:
    directory = Directory(AgentDB(ClusterName("north"), ClusterId(1), "n1", "172.18.0.2"), lambda _number: None)
    maker = FlowMaker(directory, lambda ns: ns, "north/n1", "00112233-4455-4677-8899-")
    decode = with_requests(maker.decode, maker.finish)
    return [decode(entry, n) for n, entry in enumerate(QuestionFlows(directory).make({**RECORD, **changes}))]


def test_a_question_and_its_answer_are_two_flows() -> None:
    asked, answered = _flows()
    lines = [compact_line(flow, Look()).partition(": ")[2] for flow in (asked, answered)]
    assert lines == [
        "10.1.0.5:41000 (world) -> 10.1.0.9:53 (world) dns-request proxy FORWARDED (DNS Query www.example.com. A)",
        (
            "10.1.0.5:41000 (world) <- 10.1.0.9:53 (world) dns-response proxy FORWARDED "
            '(DNS Answer "203.0.113.8" CNAMEs: "web.example.com." TTL: 20 (Proxy www.example.com. A))'
        ),
    ]
    assert (answered.l7.latency_ns, answered.l4.UDP.source_port, answered.proxy_port) == (3_000_000, 53, 14053)


def test_a_refused_question_was_dropped_and_has_no_answer() -> None:
    (asked,) = _flows(refused=True, rcode=5, protocol="TCP")
    assert (asked.verdict, asked.l4.TCP.destination_port) == (pb.DROPPED, 53)


@pytest.mark.parametrize("change", [{"client": ["10.1.0.5"]}, {"port": "x"}, {"name": None}, {"addresses": 7}])
def test_a_record_that_tells_of_no_question_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises((KeyError, ValueError, TypeError)):
        _flows(**change)
