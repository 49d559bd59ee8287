# SPDX-License-Identifier: Apache-2.0
"""Datapath events become flow lines with names, clusters and the words people search for."""

from __future__ import annotations

import asyncio

import pytest

from agent.datapath.flow_layout import DatapathEvent, EventType, PolicyMatch, TracePoint, TraceReason
from agent.datapath.layout import Direction
from agent.datapath.reasons import Reason
from agent.observe.flow import Flow, FlowMaker
from agent.observe.ring import FlowRing
from agent.observe.text import line, stamp
from agent.tables import AgentDB, ClaimOrigin, Frontend, FrontendKey, Identity, Prefix
from meshmodel.labels import Label
from meshmodel.names import ClusterId, ClusterName, ServiceName

CLIENT, SERVER = 1 << 16 | 7, 2 << 16 | 9
WALL_S = 1_709_285_411.5  # 1 Mar 2024 09:30:11.500 UTC


@pytest.fixture
def maker() -> FlowMaker:
    db = AgentDB(ClusterName("north"), ClusterId(1), "n1", "172.18.0.2")
    place = "io.cilium.k8s.policy.cluster"
    with db.write():
        for number, cluster, app in ((CLIENT, "north", "x-wing"), (SERVER, "south", "rebel-base")):
            labels = (Label("k8s", "app", app), Label("k8s", place, cluster))
            db.identities.put(Identity(number, ClusterName(cluster), labels))
        for address, number, cluster, pod in (("10.1.0.5", CLIENT, "north", "xw"), ("10.2.0.9", SERVER, "south", "rb")):
            db.prefixes.put(
                Prefix(
                    f"{address}/32", number, "", ClusterName(cluster), ClusterId(1), ClaimOrigin.POD, "", "default", pod
                )
            )
        key = FrontendKey("172.20.1.9", 80, "TCP")
        db.frontends.put(Frontend(key, ServiceName("default", "rebel-base"), "ClusterIP", "", ()))
    return FlowMaker(db, lambda _ns: WALL_S, lambda number: "cnp/default/deny ingress[0]" if number == 5 else "")


def event(**changes: object) -> DatapathEvent:
    fields: dict[str, object] = {
        "timestamp_ns": 1,
        "type": EventType.DROP,
        "reason": Reason.POLICY_DENIED,
        "direction": Direction.EGRESS,
        "protocol": 6,
        "tcp_flags": 2,
        "endpoint_id": 3,
        "length": 60,
        "source_identity": CLIENT,
        "destination_identity": SERVER,
        "rule_id": 0,
        "ifindex": 4,
        "source": "10.1.0.5",
        "destination": "10.2.0.9",
        "source_port": 43210,
        "destination_port": 9090,
    }
    return DatapathEvent(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {},
            (
                "Mar  1 09:30:11.500: default/xw:43210 (ID:65543) <> default/rb:9090 (ID:131081) "
                "Policy denied DROPPED (TCP Flags: SYN)"
            ),
        ),
        (
            {"type": EventType.TRACE, "reason": TraceReason.NEW, "point": TracePoint.TO_OVERLAY},
            (
                "Mar  1 09:30:11.500: default/xw:43210 (ID:65543) -> default/rb:9090 (ID:131081) "
                "to-overlay FORWARDED (TCP Flags: SYN)"
            ),
        ),
        (
            {
                "type": EventType.TRACE,
                "reason": TraceReason.REPLY,
                "source": "10.2.0.9",
                "destination": "10.1.0.5",
                "source_port": 9090,
                "destination_port": 43210,
                "source_identity": SERVER,
                "destination_identity": CLIENT,
                "tcp_flags": 18,
            },
            (
                "Mar  1 09:30:11.500: default/xw:43210 (ID:65543) <- default/rb:9090 (ID:131081) "
                "to-endpoint FORWARDED (TCP Flags: SYN, ACK)"
            ),
        ),
        (
            {"type": EventType.POLICY_VERDICT, "match": PolicyMatch.L3_L4, "reason": 0},
            (
                "Mar  1 09:30:11.500: default/xw:43210 (ID:65543) -> default/rb:9090 (ID:131081) "
                "policy-verdict:L3-L4 EGRESS ALLOWED (TCP Flags: SYN)"
            ),
        ),
        (
            {"type": EventType.POLICY_VERDICT, "direction": Direction.INGRESS},
            (
                "Mar  1 09:30:11.500: default/xw:43210 (ID:65543) <> default/rb:9090 (ID:131081) "
                "policy-verdict:none INGRESS DENIED (TCP Flags: SYN)"
            ),
        ),
        (
            {"destination": "8.8.8.8", "destination_identity": 2, "protocol": 17, "destination_port": 53},
            "Mar  1 09:30:11.500: default/xw:43210 (ID:65543) <> 8.8.8.8:53 (world) Policy denied DROPPED (UDP)",
        ),
        (
            {"protocol": 1, "source_port": 8, "destination_port": 0},
            (
                "Mar  1 09:30:11.500: default/xw (ID:65543) <> default/rb (ID:131081) "
                "Policy denied DROPPED (ICMPv4 EchoRequest)"
            ),
        ),
    ],
)
def test_a_line_says_who_to_whom_and_why(maker: FlowMaker, changes: dict[str, object], expected: str) -> None:
    assert line(maker.make(event(**changes))) == expected


@pytest.mark.runbook("drop-identity")
def test_a_peer_whose_labels_have_not_arrived_has_a_reason_of_its_own(maker: FlowMaker) -> None:
    flow = maker.make(event(destination="10.2.0.77", destination_identity=2 << 16 | 500))
    assert flow.reason == Reason.UNKNOWN_IDENTITY
    assert "not known yet" in line(flow)


def test_clusters_rules_and_services_are_named(maker: FlowMaker) -> None:
    flow = maker.make(event(rule_id=5, reason=Reason.POLICY_DENY_RULE, frontend="172.20.1.9", frontend_port=80))
    assert (flow.source.cluster, flow.destination.cluster) == ("north", "south")
    assert flow.service == "default/rebel-base"
    text = line(flow, with_policy=True, with_cluster=True, with_node=True)
    assert "[north/n1]: north/default/xw:43210" in text
    assert "BY cnp/default/deny ingress[0]" in text
    assert "Policy denied by denylist" in text


def test_days_are_padded_and_times_are_utc() -> None:
    assert stamp(WALL_S) == "Mar  1 09:30:11.500"
    assert stamp(WALL_S + 86_400 * 14) == "Mar 15 09:30:11.500"


async def test_the_ring_keeps_the_newest_and_followers_get_every_new_one(maker: FlowMaker) -> None:
    ring = FlowRing(3)
    flows = [maker.make(event(source_port=n)) for n in range(1, 6)]
    ring.extend(flows)
    assert [f.source.port for f in ring.last(10, lambda _f: True)] == [3, 4, 5]
    assert [f.source.port for f in ring.last(1, lambda f: f.source.port < 5)] == [4]
    assert (ring.seen, len(ring)) == (5, 3)
    found: list[Flow] = []

    async def follow() -> None:
        async for flow in ring.follow(lambda f: f.source.port != 8):
            found.append(flow)  # noqa: PERF401

    task = asyncio.create_task(follow())
    await asyncio.sleep(0)
    for n in (7, 8, 9):
        ring.extend([maker.make(event(source_port=n))])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    task.cancel()
    assert [f.source.port for f in found] == [7, 9]


async def test_a_flow_that_comes_before_the_first_line_is_read_is_not_lost(maker: FlowMaker) -> None:
    ring = FlowRing(3)
    following = ring.follow(lambda _flow: True)
    ring.extend([maker.make(event(source_port=7))])
    assert (await asyncio.wait_for(anext(following), 5)).source.port == 7
