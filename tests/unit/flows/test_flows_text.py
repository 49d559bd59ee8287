# SPDX-License-Identifier: Apache-2.0
"""Flows are printed as `hubble observe` prints them: 77 lines that it printed, and what they do not show."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from agent.datapath.reasons import Reason
from flows.document import json_line, read_json
from flows.proto import flow_pb2 as pb
from flows.proto import observer_pb2 as observer
from flows.proto import relay_pb2 as relay
from flows.summary import icmp_summary, summarise
from flows.text import RULE_LABEL, Look, compact_line, dict_block, lost_line, status_line, table_lines
from flows.words import RESERVED, drop_text
from meshmodel.identity import Reserved, identity_name

SEEDS = [orjson.loads(row) for row in (Path(__file__).parent / "seed_flows.jsonl").read_bytes().splitlines()]


def seed(number: int) -> pb.Flow:
    flow = read_json(orjson.dumps(SEEDS[number]["flow"]), pb.Flow(), "flow")
    flow.Summary = summarise(flow)
    return flow


def find(part: str) -> pb.Flow:
    return seed(next(n for n, row in enumerate(SEEDS) if part in row["line"]))


def test_there_are_77_lines_of_eleven_kinds() -> None:
    assert len({row["line"] for row in SEEDS}) == len(SEEDS) == 77
    kinds = {
        "to-overlay", "to-stack", "to-endpoint", "to-proxy", "Policy denied", "policy-verdict:none INGRESS DENIED",
        "policy-verdict:none EGRESS DENIED", "policy-verdict:L3-L4 EGRESS ALLOWED", "post-xlate-fwd TRANSLATED",
        "pre-xlate-rev TRACED", "dns-request proxy", "http-response",
    }  # fmt: skip
    assert [kind for kind in kinds if not any(kind in row["line"] for row in SEEDS)] == []


@pytest.mark.parametrize("number", range(len(SEEDS)))
def test_a_line_of_the_seeds_is_printed_byte_for_byte(number: int) -> None:
    assert compact_line(seed(number)) == SEEDS[number]["line"]


def test_numbers_stand_for_names_where_they_are_asked_for() -> None:
    flow = find("github.com:80")
    assert " <> 140.82.114.3:80 (world) " in compact_line(flow, Look(numeric=True))
    flow.IP.destination = "fd00::1"
    assert " <> [fd00::1]:80 (world) " in compact_line(flow, Look(numeric=True))


def test_a_service_comes_before_dns_names_and_after_a_pod() -> None:
    flow = find("github.com:80")
    flow.destination_service.name, flow.destination_service.namespace = "web", "shop"
    assert " <> shop/web:80 (world) " in compact_line(flow)
    flow.destination.namespace, flow.destination.pod_name = "shop", "web-1"
    assert " <> shop/web-1:80 (world) " in compact_line(flow)
    flow.destination.cluster_name = "south"
    assert " <> south/shop/web-1:80 (world) " in compact_line(flow, Look(clusters=True))


def test_without_an_address_the_sides_are_those_of_the_link() -> None:
    flow = pb.Flow(verdict=pb.DROPPED)
    flow.time.FromSeconds(1)
    flow.ethernet.source, flow.ethernet.destination = "02:00:00:00:00:01", "02:00:00:00:00:02"
    flow.event_type.type, flow.event_type.sub_type = 1, 139
    said = "02:00:00:00:00:01 (unknown) <> 02:00:00:00:00:02 (unknown) Unsupported L3 protocol DROPPED ()"
    assert compact_line(flow) == f"Jan  1 00:00:01.000: {said}"


def test_who_decided_stands_after_the_verdict() -> None:
    flow = find("policy-verdict:none INGRESS DENIED")
    flow.ingress_denied_by.add(
        name="a", namespace="default", kind="CiliumNetworkPolicy", labels=[f"{RULE_LABEL}cnp/x y[0]"]
    )
    flow.ingress_denied_by.add(name="b")
    assert " DENIED (" in compact_line(flow)
    assert " DENIED BY a (CiliumNetworkPolicy), b (" in compact_line(flow, Look(policies=True))
    assert " DENIED BY cnp/x y[0], b (" in compact_line(flow, Look(rules=True))


@pytest.mark.parametrize(
    ("verdict", "word"),
    [
        (pb.FORWARDED, "ALLOWED"),
        (pb.REDIRECTED, "ALLOWED"),
        (pb.DROPPED, "DENIED"),
        (pb.ERROR, "DENIED"),
        (pb.AUDIT, "AUDITED"),
    ],
)
def test_a_policy_verdict_has_words_of_its_own(verdict: pb.Verdict.ValueType, word: str) -> None:
    flow = find("policy-verdict:L3-L4 EGRESS ALLOWED")
    flow.verdict = verdict
    assert f" policy-verdict:L3-L4 EGRESS {word} (UDP)" in compact_line(flow)


def test_trace_ids_and_authentication_stand_around_the_summary() -> None:
    flow = find("(UDP)")
    flow.ip_trace_id.trace_id, flow.auth_type = 7, pb.SPIRE
    assert compact_line(flow).endswith("(IP Trace ID: 7; UDP; Auth: SPIRE)")


def test_a_block_has_its_keys_aligned_and_a_table_its_columns() -> None:
    flow = find("to-endpoint FORWARDED (ICMPv4 EchoReply)")
    assert dict_block(flow, Look(nodes=True)).splitlines() == [
        "  TIMESTAMP: Nov  6 02:52:28.104",
        "       NODE: node-1",
        "     SOURCE: default/server-default",
        "DESTINATION: default/client",
        "       TYPE: to-endpoint",
        "    VERDICT: FORWARDED",
        "    SUMMARY: ICMPv4 EchoReply",
    ]
    assert table_lines([flow]) == [
        "TIMESTAMP             SOURCE                   DESTINATION      TYPE          VERDICT     SUMMARY",
        "Nov  6 02:52:28.104   default/server-default   default/client   to-endpoint   FORWARDED   ICMPv4 EchoReply",
    ]


def test_lost_events_and_what_a_relay_says_of_nodes_have_lines() -> None:
    answer = observer.GetFlowsResponse(node_name="n1")
    answer.time.FromSeconds(1)
    answer.lost_events.source, answer.lost_events.num_events_lost = pb.HUBBLE_RING_BUFFER, 7
    assert lost_line(answer) == "Jan  1 00:00:01.000 EVENTS LOST: HUBBLE_RING_BUFFER CPU(0) 7"
    names = [f"tion/node-{n}" for n in range(9)]
    status = relay.NodeStatusEvent(state_change=relay.NODE_UNAVAILABLE, node_names=names[:1])
    answer = observer.GetFlowsResponse(node_name="relay", node_status=status, time=answer.time)
    assert status_line(answer) == "Jan  1 00:00:01.000 [relay]: 1 nodes are unavailable: tion/node-0"
    answer.node_status.node_names[:] = names
    assert status_line(answer).endswith("tion/node-0, tion/node-1, tion/node-2, tion/node-3 (and 5 more)")
    answer.node_status.state_change, answer.node_status.message = relay.NODE_ERROR, "no"
    assert '[relay]: Error "no" on 9 nodes: tion/node-0' in status_line(answer)


@pytest.mark.parametrize(
    ("l7", "words"),
    [
        ({"type": "REQUEST", "http": {"protocol": "HTTP/1.1", "method": "GET", "url": "http://a/b"}}, "HTTP/1.1 GET http://a/b"),
        (
            {"type": "RESPONSE", "dns": {"query": "a.b.", "qtypes": ["A"], "ips": ["1.2.3.4", "1.2.3.5"], "ttl": 30,
                                         "cnames": ["c."], "observation_source": "proxy"}},
            'DNS Answer "1.2.3.4,1.2.3.5" CNAMEs: "c." TTL: 30 (Proxy a.b. A)',
        ),
        (
            {"type": "RESPONSE", "dns": {"query": "a.b.", "qtypes": ["A"], "rcode": 3, "observation_source": "proxy"}},
            "DNS Answer RCode: Non-Existent Domain (Proxy a.b. A)",
        ),
    ],
)  # fmt: skip
def test_messages_are_summed_up(l7: dict[str, object], words: str) -> None:
    assert summarise(read_json(orjson.dumps({"l7": l7}), pb.Flow(), "flow")) == words


def test_icmp_messages_are_named() -> None:
    assert icmp_summary(3, 3) == "ICMPv4 DestinationUnreachable(Port)"
    assert icmp_summary(200, 0) == "ICMPv4 200"
    assert icmp_summary(128, 0, version=6) == "ICMPv6 EchoRequest"


def test_json_has_the_names_of_the_fields_and_reads_back() -> None:
    flow = seed(0)
    answer = observer.GetFlowsResponse(flow=flow, node_name="n1")
    text = json_line(answer)
    assert "\n" not in text
    assert {"node_name", "flow"} == orjson.loads(text).keys()
    assert orjson.loads(text)["flow"]["event_type"]["type"] == flow.event_type.type
    assert read_json(text, observer.GetFlowsResponse(), "answer") == answer


def test_reserved_identities_are_named_as_everywhere_else() -> None:
    assert {number: RESERVED[number] for number in (0, *Reserved)} == {n: identity_name(n) for n in (0, *Reserved)}  # type: ignore[arg-type]


def test_every_reason_of_our_datapath_has_its_words() -> None:
    assert [reason for reason in Reason if reason.dropped and drop_text(reason) != reason.text] == []
    assert [reason for reason in Reason if not reason.text] == []
