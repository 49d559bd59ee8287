# SPDX-License-Identifier: Apache-2.0
"""Lines of the proxy's log about connections by TLS become flows of layer 7, one for each connection."""

from __future__ import annotations

from typing import Any

import pytest

from agent.observe.flow import FlowMaker
from agent.observe.requests import with_requests
from agent.observe.server_names import ServerNameFlows
from agent.observe.sides import Directory
from agent.tables import AgentDB
from flows.proto import flow_pb2 as pb
from flows.text import Look, compact_line
from meshmodel.names import ClusterId, ClusterName

RECORD: dict[str, Any] = {
    "port": "14000", "direction": "egress", "start": "1709285411.500000", "source": "10.1.0.5:41000",
    "destination": "192.0.2.9:443", "server_name": "shop.example", "verdict": "allowed", "event": "TcpUpstreamConnected",
}  # fmt: skip


def _flows(**changes: Any) -> list[pb.Flow]:
    directory = Directory(AgentDB(ClusterName("north"), ClusterId(1), "n1", "172.18.0.2"), lambda _number: None)
    maker = FlowMaker(directory, lambda ns: ns, "north/n1", "00112233-4455-4677-8899-")
    decode = with_requests(maker.decode, maker.finish)
    return [decode(entry, n) for n, entry in enumerate(ServerNameFlows(directory).make({**RECORD, **changes}))]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "FORWARDED (TLS shop.example)"),
        ({"verdict": "denied", "event": "TcpConnectionEnd"}, "DROPPED (TLS shop.example)"),
        ({"verdict": "denied", "event": "TcpConnectionEnd", "server_name": None}, "DROPPED (no TLS server name)"),
    ],
)
def test_a_connection_is_a_flow_with_its_name(changes: dict[str, Any], words: str) -> None:
    (flow,) = _flows(**changes)
    assert compact_line(flow, Look()).endswith(f":443 (world) unknown-request {words}")
    assert (flow.proxy_port, flow.traffic_direction) == (14000, pb.EGRESS)
    assert (flow.drop_reason_desc == pb.POLICY_DENIED) is (flow.verdict == pb.DROPPED)


def test_the_end_of_an_allowed_connection_is_told_no_second_time() -> None:
    assert _flows(event="TcpConnectionEnd") == []


@pytest.mark.parametrize("changes", [{"source": None}, {"start": "-"}, {"port": None}])
def test_what_tells_of_no_connection_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        _flows(**changes)
