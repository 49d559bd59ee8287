# SPDX-License-Identifier: Apache-2.0
"""What is counted of flows has Hubble's names, is the same as counting each flow, and is bounded."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import httpx
import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.observe.flow_metrics import add_flow_metrics, collect
from flows import meter as meters
from flows.document import read_json
from flows.errors import RequestError
from flows.measure import FAMILIES, FAMILIES_OF, parse_measures
from flows.meter import FlowMeter
from flows.proto import flow_pb2 as pb
from flows.ring import FlowEntry, Lost
from meshkit.health import Health
from meshkit.http import make_app
from meshkit.metrics import Registry
from meshkit.rest import Rest
from tests.support.flow_entries import decode

ALL = "flow drop tcp icmp policy flows-to-world port-distribution dns http"
SEEDS = [
    read_json(orjson.dumps(orjson.loads(line)["flow"]), pb.Flow(), "seed")
    for line in (Path(__file__).parent / "seed_flows.jsonl").read_text().splitlines()
]


def entry(flow: pb.Flow, sides: object = None, head: object = None) -> FlowEntry:
    return FlowEntry(0, sides, head, flow.SerializeToString())  # type: ignore[arg-type]


def counted(meter: FlowMeter) -> dict[str, dict[tuple[str, ...], float]]:
    return {each.name: each.counts for each in meter.families() if each.counts}


def metered(text: str, *flows: pb.Flow) -> dict[str, dict[tuple[str, ...], float]]:
    meter = FlowMeter(parse_measures(text), decode)
    meter.note([entry(flow) for flow in flows], 0)
    return counted(meter)


def test_the_flows_of_the_seeds_are_counted_as_hubble_counts_them() -> None:
    found = metered(ALL, *SEEDS)
    assert sum(found["flows_processed"].values()) == len(SEEDS)
    dropped = [flow for flow in SEEDS if flow.verdict == pb.DROPPED]
    assert sum(found["drop"].values()) == len(dropped) > 10
    assert {labels[0] for labels in found["drop"]} <= {*pb.DropReason.keys()}
    assert found["flows_processed"]["Trace", "to-overlay", "FORWARDED"] > 1
    assert {flag for flag, _ in found["tcp_flags"]} == {"SYN", "FIN"}
    assert ("egress", "L3-L4", "forwarded") in found["policy_verdicts"]
    assert found["dns_queries"] == {("A",): 1.0} or ("A",) in found["dns_queries"]
    assert {labels[2] for labels in found["http_requests"]} == {"200"}


def test_counting_by_pairs_is_counting_each_flow() -> None:
    """Of entries whose sides and head say who is equal, in any order, with folding in between; against a twin."""
    chance = random.Random(7)
    plain = [flow for flow in SEEDS if not flow.HasField("l7")]
    measures = parse_measures(
        "flow drop:sourceContext=namespace|identity tcp policy:labelsContext=destination_namespace"
    )
    meter, twin = FlowMeter(measures, decode), Counter[tuple[str, tuple[str, ...]]]()
    number = 0
    for _ in range(50):
        batch = [chance.randrange(len(plain)) for _ in range(20)]
        meter.note([entry(plain[n], f"side {n}", f"head {n}") for n in batch], number)
        number += len(batch)
        if not chance.randrange(5):
            list(meter.families())
        for flow in (plain[n] for n in batch):
            for measure in measures:
                for name, labels, value in measure.samples(flow):
                    twin[name, labels] += int(value)
    assert {(name, key): n for name, held in counted(meter).items() for key, n in held.items()} == dict(twin)


def test_an_equal_pair_is_decoded_once_and_what_is_lost_is_no_flow() -> None:
    decoded = []

    def watched(item: FlowEntry, number: int) -> pb.Flow:
        decoded.append(number)
        return decode(item, number)

    flow = pb.Flow(verdict=pb.FORWARDED)
    meter = FlowMeter(parse_measures("flow"), watched)
    meter.note([entry(flow, "a", "b")] * 1000 + [Lost(0, 1, 5)], 10)
    assert decoded == [10]
    assert counted(meter)["flows_processed"] == {("Unknown", "UNKNOWN", "FORWARDED"): 1000.0}
    ports = FlowMeter(parse_measures("port-distribution"), watched)
    flow.l4.TCP.destination_port, flow.is_reply.value = 80, False
    other = pb.Flow.FromString(flow.SerializeToString())
    other.l4.TCP.destination_port = 81
    ports.note([entry(flow, "a", "b"), entry(other, "a", "b")], 0)
    assert counted(ports)["port_distribution"] == {("TCP", "80"): 1.0, ("TCP", "81"): 1.0}


def test_a_context_says_the_first_thing_that_is_known() -> None:
    flow = pb.Flow(verdict=pb.DROPPED, drop_reason_desc=pb.POLICY_DENIED, traffic_direction=pb.INGRESS)
    flow.source.namespace, flow.source.pod_name, flow.source.cluster_name = "shop", "web-1", "south"
    flow.destination.identity, flow.IP.destination = 2, "192.0.2.1"
    text = "drop:sourceContext=workload|pod;destinationContext=dns|reserved-identity"
    text += ";labelsContext=source_cluster,traffic_direction"
    assert metered(text, flow)["drop"] == {("POLICY_DENIED", "UNKNOWN", "shop/web-1", "world", "south", "ingress"): 1.0}
    (measure,) = parse_measures(text)
    assert measure.context_labels == ("source", "destination", "source_cluster", "traffic_direction")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("drops", "there is no measure 'drops'; there are flow, drop"),
        ("drop drop", "given twice"),
        ("drop:context=pod", "no option 'context'"),
        ("drop:sourceContext=name", "write one or more of identity"),
        ("drop:sourceContext=", "write one or more of"),
        ("tcp:labelsContext=source_ip,source_ip", "each once"),
    ],
)
def test_a_measure_that_means_nothing_is_refused(text: str, why: str) -> None:
    with pytest.raises(RequestError, match=why):
        parse_measures(text)


def test_series_are_bounded_and_what_is_left_out_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meters, "MOST_SERIES", 3)
    flows = [pb.Flow(verdict=pb.DROPPED, IP=pb.IP(source=f"192.0.2.{n}")) for n in range(5)]
    meter = FlowMeter(parse_measures("drop:sourceContext=ip"), decode)
    meter.note([entry(flow) for flow in flows + flows[:1]], 0)
    assert len(counted(meter)["drop"]) == 3
    assert meter.left_out == 2


def test_the_exposition_can_be_read_and_a_duration_is_a_histogram() -> None:
    answer = pb.Flow(verdict=pb.FORWARDED, traffic_direction=pb.INGRESS)
    answer.l7.type, answer.l7.latency_ns = pb.RESPONSE, 30_000_000
    answer.l7.http.code, answer.l7.http.method, answer.l7.http.protocol = 200, "GET", "HTTP/1.1"
    meter = FlowMeter(parse_measures(ALL), decode)
    meter.note([entry(flow) for flow in (*SEEDS, answer, answer)], 0)
    registry = Registry("hubble", process=False)
    registry.add_source(lambda: collect(meter, 7))
    found = {family.name: family for family in text_string_to_metric_families(registry.exposition().decode())}
    assert {f"hubble_{name}" for name in FAMILIES} <= set(found)
    assert {name for names in FAMILIES_OF.values() for name in names} == set(FAMILIES)
    buckets = {
        sample.labels["le"]: sample.value
        for sample in found["hubble_http_request_duration_seconds"].samples
        if sample.name.endswith("_bucket") and sample.labels["reporter"] == "server"
    }
    assert (buckets["0.025"], buckets["0.05"], buckets["+Inf"]) == (0.0, 2.0, 2.0)
    assert [sample.value for sample in found["hubble_lost_events"].samples] == [7.0]


async def test_the_agent_answers_with_the_exposition() -> None:
    app = make_app("x", "1", Health(), Registry())
    meter = FlowMeter(parse_measures("drop"), decode)
    add_flow_metrics(Rest(app), meter, lambda: 0)
    meter.note([entry(pb.Flow(verdict=pb.DROPPED, drop_reason_desc=pb.POLICY_DENIED))], 0)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://agent") as client:
        answer = await client.get("/v1/flows/metrics")
    assert 'hubble_drop_total{protocol="UNKNOWN",reason="POLICY_DENIED"} 1.0' in answer.text
    assert answer.headers["content-type"].startswith("text/plain")
