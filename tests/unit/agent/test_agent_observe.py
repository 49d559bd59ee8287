# SPDX-License-Identifier: Apache-2.0
"""Datapath events become flow lines with names, clusters and the words people search for."""

from __future__ import annotations

import asyncio

import pytest

from agent.datapath.flow_layout import (
    DatapathEvent,
    EventType,
    PolicyMatch,
    TracePoint,
    TraceReason,
    Translation,
    VerdictWay,
)
from agent.datapath.layout import Direction
from agent.datapath.reasons import Reason
from agent.observe.flow import FlowMaker
from agent.observe.sides import Directory
from agent.tables import AgentDB, ClaimOrigin, Endpoint, Frontend, FrontendKey, Identity, Prefix
from flows.live import LiveFlows
from flows.proto import flow_pb2 as pb
from flows.proto import observer_pb2 as observer
from flows.ring import FlowEntry, Ring
from flows.text import Look, compact_line, stamp
from meshmodel.labels import Label
from meshmodel.names import ClusterId, ClusterName, ServiceName
from meshpolicy import PolicyKind, PolicyRef, RuleOrigin

CLIENT, SERVER = 1 << 16 | 7, 2 << 16 | 9
WALL_S = 1_709_285_411.5  # 1 Mar 2024 09:30:11.500 UTC


RULE = RuleOrigin(PolicyRef(PolicyKind.CILIUM, "default", "deny"), "ingress[0]")
UUID = "00112233-4455-4677-8899-"


@pytest.fixture
def db() -> AgentDB:
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
    return db


@pytest.fixture
def maker(db: AgentDB) -> FlowMaker:
    directory = Directory(db, lambda number: RULE if number == 5 else None)
    return FlowMaker(directory, lambda ns: int(WALL_S * 1e9) + ns, "north/n1", UUID)


def made(maker: FlowMaker, *events: DatapathEvent) -> list[FlowEntry]:
    return maker.make([each.pack() for each in events])


def flow_of(maker: FlowMaker, **changes: object) -> pb.Flow:
    (entry,) = made(maker, event(**changes))
    return maker.decode(entry, 7)


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
    assert compact_line(flow_of(maker, **changes)) == expected


@pytest.mark.runbook("drop-identity")
def test_a_peer_whose_labels_have_not_arrived_has_a_reason_of_its_own(maker: FlowMaker) -> None:
    flow = flow_of(maker, destination="10.2.0.77", destination_identity=2 << 16 | 500)
    assert flow.drop_reason == flow.event_type.sub_type == Reason.UNKNOWN_IDENTITY
    assert "not known yet" in compact_line(flow)
    inwards = {"source": "10.2.0.77", "source_identity": 2 << 16 | 500, "direction": Direction.INGRESS}
    assert flow_of(maker, **inwards).drop_reason == Reason.UNKNOWN_IDENTITY


def test_clusters_rules_and_services_are_named(maker: FlowMaker) -> None:
    flow = flow_of(maker, rule_id=5, reason=Reason.POLICY_DENY_RULE, frontend="172.20.1.9", frontend_port=80)
    assert (flow.source.cluster_name, flow.destination.cluster_name) == ("north", "south")
    assert flow.destination_service == pb.Service(name="rebel-base", namespace="default")
    text = compact_line(flow, Look(rules=True, clusters=True, nodes=True))
    assert "[north/n1]: north/default/xw:43210" in text
    assert "BY cnp/default/deny ingress[0]" in text
    assert "Policy denied by denylist" in text
    assert "BY deny (CiliumNetworkPolicy) (" in compact_line(flow, Look(policies=True))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"direction": Direction.EGRESS}, "egress_denied_by"),
        ({"direction": Direction.INGRESS}, "ingress_denied_by"),
        ({"type": EventType.POLICY_VERDICT, "reason": 0, "direction": Direction.EGRESS}, "egress_allowed_by"),
        ({"type": EventType.POLICY_VERDICT, "reason": 0, "direction": Direction.INGRESS}, "ingress_allowed_by"),
    ],
)
def test_the_rule_stands_where_it_decided(maker: FlowMaker, changes: dict[str, object], field: str) -> None:
    flow = flow_of(maker, rule_id=5, **changes)
    assert [found.name for found, _ in flow.ListFields() if found.name.endswith("_by")] == [field]


def test_a_flow_has_what_hubble_derives_of_the_event(db: AgentDB, maker: FlowMaker) -> None:
    with db.write():
        db.endpoints.put(Endpoint("10.1.0.5", 3, 4, "", "", CLIENT, "default", "xw"))
    flow = flow_of(maker, timestamp_ns=250_000_000)
    assert (flow.time.seconds, flow.time.nanos, flow.uuid) == (1_709_285_411, 750_000_000, f"{UUID}000000000007")
    assert (flow.verdict, flow.drop_reason_desc, flow.traffic_direction) == (pb.DROPPED, pb.POLICY_DENIED, pb.EGRESS)
    assert (flow.node_name, flow.interface.index, flow.Type, flow.IP.ipVersion) == ("north/n1", 4, pb.L3_L4, pb.IPv4)
    assert (flow.source.ID, list(flow.source.labels)) == (
        3, ["k8s:app=x-wing", "k8s:io.cilium.k8s.policy.cluster=north"],
    )  # fmt: skip
    assert not flow.HasField("is_reply")
    trace = flow_of(maker, type=EventType.TRACE, reason=TraceReason.NEW, point=TracePoint.TO_ENDPOINT)
    assert (trace.trace_observation_point, trace.event_type.sub_type, trace.trace_reason) == (pb.TO_ENDPOINT, 0, pb.NEW)
    assert (trace.is_reply.value, trace.drop_reason) == (False, 0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"reason": TraceReason.NEW}, ("EGRESS", False)),
        ({"reason": TraceReason.ESTABLISHED, "direction": Direction.INGRESS}, ("INGRESS", False)),
        ({"reason": TraceReason.REPLY}, ("INGRESS", True)),
        ({"reason": TraceReason.REPLY, "direction": Direction.INGRESS}, ("EGRESS", True)),
        ({"reason": TraceReason.RELATED}, ("EGRESS", False)),
        ({"reason": TraceReason.UNKNOWN}, ("TRAFFIC_DIRECTION_UNKNOWN", None)),
    ],
)
def test_a_trace_has_the_direction_of_its_connection(
    maker: FlowMaker, changes: dict[str, object], expected: tuple[str, bool | None]
) -> None:
    flow = flow_of(maker, type=EventType.TRACE, **changes)
    is_reply = flow.is_reply.value if flow.HasField("is_reply") else None
    assert (pb.TrafficDirection.Name(flow.traffic_direction), is_reply) == expected


def test_a_translation_is_two_flows_before_and_after(maker: FlowMaker) -> None:
    used = {"type": EventType.TRANSLATION, "reason": 0, "frontend": "172.20.1.9", "frontend_port": 80}
    forward = event(point=Translation.FORWARD, **used)
    ends = {"source": "10.2.0.9", "destination": "10.1.0.5", "source_port": 9090, "destination_port": 43210}
    identities = {"source_identity": SERVER, "destination_identity": CLIENT}
    back = event(point=Translation.BACK, socket_cookie=7, cgroup_id=9, **used, **ends, **identities)
    flows = [maker.decode(entry, 7) for entry in made(maker, forward, back)]
    assert [compact_line(flow).partition(": ")[2] for flow in flows] == [
        "default/xw (ID:65543) <> default/rebel-base:80 (world) pre-xlate-fwd TRACED (TCP)",
        "default/xw (ID:65543) <> default/rb:9090 (ID:131081) post-xlate-fwd TRANSLATED (TCP)",
        "default/rb:9090 (ID:131081) <> default/xw (ID:65543) pre-xlate-rev TRACED (TCP)",
        "default/rebel-base:80 (world) <> default/xw (ID:65543) post-xlate-rev TRANSLATED (TCP)",
    ]
    assert {(flow.Type, flow.event_type.type, flow.traffic_direction) for flow in flows} == {(pb.SOCK, 7, 0)}
    assert [(flow.socket_cookie, flow.cgroup_id) for flow in flows] == [(0, 0), (0, 0), (7, 9), (7, 9)]
    assert [flow.destination_service.name for flow in flows] == ["rebel-base", "", "", ""]


def test_an_answer_of_a_service_names_who_answered_and_what_it_was_made(maker: FlowMaker) -> None:
    flow = flow_of(
        maker, type=EventType.TRACE, reason=TraceReason.REPLY, direction=Direction.INGRESS, source="10.2.0.9",
        destination="10.1.0.5", source_identity=SERVER, destination_identity=CLIENT, frontend="172.20.1.9", frontend_port=80,
    )  # fmt: skip
    assert (flow.IP.source, flow.IP.source_xlated, flow.source.pod_name) == ("10.2.0.9", "172.20.1.9", "rb")
    assert (flow.source_service.name, flow.HasField("destination_service")) == ("rebel-base", False)


def test_a_verdict_that_led_to_a_proxy_is_told(maker: FlowMaker) -> None:
    verdict = {"type": EventType.POLICY_VERDICT, "reason": 0, "point": VerdictWay.TO_PROXY, "proxy_port": 10001}
    flow = flow_of(maker, match=PolicyMatch.L3_L4, **verdict)
    assert (flow.verdict, flow.proxy_port) == (pb.REDIRECTED, 10001)
    assert "policy-verdict:L3-L4 EGRESS ALLOWED" in compact_line(flow)


def test_names_are_those_of_the_moment_and_are_looked_up_again_when_a_table_changed(
    db: AgentDB, maker: FlowMaker
) -> None:
    (before,) = made(maker, event())
    with db.write():
        db.prefixes.delete("10.2.0.9/32")
    (after,) = made(maker, event())
    assert maker.decode(before, 0).destination.pod_name == "rb"
    assert maker.decode(after, 1).destination.pod_name == ""


def test_entries_share_what_they_have_in_common(maker: FlowMaker) -> None:
    one, other, third = made(maker, event(source_port=1), event(source_port=2), event(tcp_flags=16))
    assert one.sides is other.sides is third.sides
    assert one.head is other.head
    assert one.head is not third.head


def test_days_are_padded_and_times_are_utc() -> None:
    assert stamp(WALL_S) == "Mar  1 09:30:11.500"
    assert stamp(WALL_S + 86_400 * 14) == "Mar 15 09:30:11.500"


def ports(maker: FlowMaker, ring: Ring, found: list[tuple[object, int]]) -> list[int]:
    return [ring.decode(item, n).l4.TCP.source_port for item, n in found if isinstance(item, FlowEntry)]


async def test_followers_get_every_flow_that_comes_and_passes(maker: FlowMaker) -> None:
    live = LiveFlows(maker.decode, 3, "north/n1")
    reading = live.read(observer.GetFlowsRequest(follow=True, blacklist=[pb.FlowFilter(source_port=["8"])]))
    live.extend(made(maker, event(source_port=6)))
    found: list[int] = []

    async def follow() -> None:
        async for step in live.steps(reading):
            found.extend(ports(maker, live.ring, list(step)))

    task = asyncio.create_task(follow())
    await asyncio.sleep(0)
    for n in (7, 8, 9):
        live.extend(made(maker, event(source_port=n)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    task.cancel()
    assert found == [6, 7, 9], "one that comes before the first line is read is not lost"


def test_the_rate_is_that_of_the_last_minute_and_namespaces_those_of_the_last_hour(maker: FlowMaker) -> None:
    live = LiveFlows(maker.decode, 7, "n1")
    for second in range(100):
        live.note_rate(float(second))
        live.extend(made(maker, *[event()] * (2 if second < 50 else 1)))
    live.note_rate(100.0)
    assert live.rate == pytest.approx((10 * 2 + 50 * 1) / 60)
    live.note_namespaces([("south", "b"), ("north", "z")], 10.0)
    live.note_namespaces([("north", "a")], 20.0)
    assert live.namespaces(3000.0) == [("north", "a"), ("north", "z"), ("south", "b")]
    assert live.namespaces(3615.0) == [("north", "a")]
