# SPDX-License-Identifier: Apache-2.0
"""What the page is told of a flow: cards and arrows by Hubble's rules, why it was decided, and what a filter asks for."""

from __future__ import annotations

import pytest
import yaml

from flows.errors import FilterError
from flows.proto import flow_pb2 as pb
from flows.selection import FlowSelection
from flows.text import RULE_LABEL
from meshmodel.labels import CLUSTER_LABEL, NAMESPACE_LABEL
from relay.page.allowing import allowing_policy
from relay.page.cards import card_of, title_of
from relay.page.flow_rows import LONGEST, flow_row, path_of
from relay.page.why import explain_command, sentences
from relay.page.wish import FlowWish, make_request, one_flow


def _end(**fields: object) -> pb.Endpoint:
    return pb.Endpoint(**{"identity": 4711, "namespace": "shop", "cluster_name": "north", **fields})  # type: ignore[arg-type]


def _flow(verdict: pb.Verdict.ValueType = pb.FORWARDED, **fields: object) -> pb.Flow:
    found = pb.Flow(
        verdict=verdict,
        source=_end(pod_name="web-1", labels=["k8s:app=web"]),
        destination=_end(pod_name="db-1", identity=4712, cluster_name="south", labels=["k8s:app=db"]),
        **fields,  # type: ignore[arg-type]
    )
    found.l4.TCP.source_port, found.l4.TCP.destination_port = 40000, 5432
    return found


def test_pods_of_one_identity_are_one_card_and_those_of_another_cluster_are_another() -> None:
    one = card_of(_end(pod_name="a"), [], "10.0.0.1", sends=True)[0]
    assert one == card_of(_end(pod_name="b"), [], "10.0.0.2", sends=False)[0]
    assert one != card_of(_end(pod_name="a", cluster_name="south"), [], "10.0.0.1", sends=True)[0]


def test_the_world_is_told_apart_by_name_and_by_whether_it_sends() -> None:
    world = pb.Endpoint(identity=2)
    assert card_of(world, ["github.com"], "192.0.2.1", sends=False) == ("github.com-receiver", "github.com")
    assert card_of(world, ["github.com"], "192.0.2.1", sends=True) == ("github.com-sender", "github.com")
    assert card_of(world, [], "192.0.2.1", sends=False) == ("world-receiver", "world")
    assert card_of(pb.Endpoint(), [], "192.0.2.1", sends=False) == ("192.0.2.1-receiver", "192.0.2.1")
    worker = pb.Endpoint(identity=2, workloads=[pb.Workload(name="nightly", kind="Job")])
    assert card_of(worker, ["github.com"], "", sends=True) == ("nightly-sender", "nightly")


@pytest.mark.parametrize(
    ("labels", "title"),
    [
        (["k8s:name=n", "k8s:app=a"], "a"),
        (["k8s:k8s-app=dns", "k8s:functionName=f"], "f"),
        (["k8s:k8s-app=dns"], "dns"),
        (["k8s:tier=x"], "pod-1"),
        (["k8s:app="], "pod-1"),
    ],
)
def test_a_card_has_the_name_that_people_gave(labels: list[str], title: str) -> None:
    assert title_of(_end(pod_name="pod-1", labels=labels)) == title


def test_an_answer_makes_no_arrow_and_a_drop_of_unknown_direction_does() -> None:
    answer, asked, dropped = _flow(), _flow(), _flow(pb.DROPPED)
    answer.is_reply.value, asked.is_reply.value = True, False
    assert flow_row(answer).link == flow_row(_flow()).link == "", "who asked is not known of the second"
    assert flow_row(asked).link == flow_row(dropped).link == "north/shop/4711 TCP south/shop/4712 5432"
    assert (flow_row(answer).reply, flow_row(asked).reply, flow_row(dropped).reply) == (True, False, None)


def test_what_others_chose_is_cut_and_a_flow_of_nothing_is_a_row() -> None:
    long = _flow(Summary="x" * 10_000)
    long.source.labels.extend("k8s:" + "y" * 5000 for _ in range(500))
    row = flow_row(long)
    assert len(row.summary) == LONGEST
    assert len(row.source.labels) == 24
    assert max(map(len, row.source.labels)) == LONGEST
    assert flow_row(pb.Flow()).verdict == "VERDICT_UNKNOWN"
    assert flow_row(pb.Flow(verdict=99)).verdict == "99"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "path"),
    [("http://a/b/c?d=e", "/b/c"), ("http://a", "/"), ("/x", "/x"), ("", "/"), ("http://a/b?u=http://c/d", "/b")],
)
def test_calls_are_told_apart_by_path(url: str, path: str) -> None:
    assert path_of(url) == path


def test_why_names_the_rule_that_denied_and_says_when_none_allowed() -> None:
    denied = _flow(pb.DROPPED, drop_reason_desc=pb.POLICY_DENY, traffic_direction=pb.INGRESS)
    denied.ingress_denied_by.add(name="p", labels=[f"{RULE_LABEL}CiliumNetworkPolicy shop/p ingressDeny[0]"])
    assert sentences(denied)[:2] == [
        "Denied by CiliumNetworkPolicy shop/p ingressDeny[0], in force for shop/db-1 (ID:4712) of cluster south.",
        "It goes from cluster north to cluster south.",
    ]
    unnamed = _flow(pb.DROPPED, drop_reason_desc=pb.POLICY_DENIED, traffic_direction=pb.EGRESS)
    assert sentences(unnamed)[0] == (
        "No rule allows it. Policies select shop/web-1 (ID:4711) of cluster north, so only what their rules name may leave."
    )
    assert sentences(_flow(pb.DROPPED, drop_reason_desc=pb.INVALID_IDENTITY))[0] == "Dropped: Invalid identity."
    allowed = _flow()
    allowed.egress_allowed_by.add(name="out", namespace="shop", kind="NetworkPolicy")
    assert sentences(allowed)[0] == "Allowed by NetworkPolicy shop/out."


def test_the_command_can_be_pasted_into_a_shell() -> None:
    assert explain_command(_flow()) == "clustermesh explain policy --from shop/web-1 --to shop/db-1 --port 5432/TCP"
    hostile = _flow()
    hostile.source.pod_name = "x; rm -rf /"
    assert "--from 'shop/x; rm -rf /' --to" in explain_command(hostile)
    hostile.source.pod_name = ""
    assert explain_command(hostile) == ""


def _denied(**fields: object) -> pb.Flow:
    own = [f"k8s:{CLUSTER_LABEL}=south", f"k8s:{NAMESPACE_LABEL}=shop"]
    found = _flow(pb.DROPPED, drop_reason_desc=pb.POLICY_DENIED, traffic_direction=pb.INGRESS, **fields)
    found.destination.labels.extend(own)
    found.source.labels.extend([f"k8s:{CLUSTER_LABEL}=north", f"k8s:{NAMESPACE_LABEL}=shop"])
    return found


def test_a_flow_that_no_rule_allowed_is_shown_with_the_policy_that_would() -> None:
    document = yaml.safe_load(allowing_policy(_denied()))
    assert document["spec"]["endpointSelector"] == {"matchLabels": {"app": "db"}}
    (rule,) = document["spec"]["ingress"]
    assert rule["fromEndpoints"][0]["matchLabels"][f"k8s:{CLUSTER_LABEL}"] == "north"
    assert rule["toPorts"] == [{"ports": [{"port": "5432", "protocol": "TCP"}]}]
    outside = _denied()
    outside.source.CopyFrom(pb.Endpoint(identity=2))
    outside.IP.source = "192.0.2.7"
    assert yaml.safe_load(allowing_policy(outside))["spec"]["ingress"][0]["fromCIDR"] == ["192.0.2.7/32"]


def test_nothing_is_suggested_where_no_rule_would_help() -> None:
    denied, forged, other, passed = _denied(), _denied(), _denied(), _denied()
    denied.drop_reason_desc = pb.POLICY_DENY
    forged.source.labels.append("k8s:=x")
    other.drop_reason_desc = pb.INVALID_SOURCE_IP
    passed.verdict = pb.FORWARDED
    for flow in (denied, forged, other, passed, pb.Flow(verdict=pb.DROPPED)):
        assert allowing_policy(flow) == ""


@pytest.mark.parametrize(
    ("asked", "passes"),
    [
        ({"verdict": "DROPPED,ERROR"}, False),
        ({"verdict": "DROPPED,FORWARDED"}, True),
        ({"namespace": "shop"}, True),
        ({"namespace": "other"}, False),
        ({"namespace": "other", "pod": "shop/web"}, True),
        ({"pod": "db-1", "namespace": "shop"}, True),
        ({"label": "app in (db,x)"}, True),
        ({"label": "app=none"}, False),
        ({"cluster": "south", "port": "5432"}, True),
        ({"cluster": "south", "port": "80"}, False),
        ({"status": "5+"}, False),
        ({"dns": "db.*"}, True),
        ({"dns": "db"}, False),
        ({"dns": "db.example", "cluster": "north"}, True),
        ({"dns": "db.example", "cluster": "west"}, False),
    ],
)
def test_filters_mean_either_side_and_all_of_them(asked: dict[str, str], passes: bool) -> None:
    flow = _flow(destination_names=["db.example"])
    request = make_request(FlowWish(**asked), 2)  # type: ignore[arg-type]
    assert FlowSelection(request.whitelist, request.blacklist).passes(flow) is passes


def test_a_dns_name_is_found_in_queries_too() -> None:
    query = pb.Flow()
    query.l7.dns.query = "api.example.com."
    for name, passes in (("api.example.com", True), ("*.example.com", True), ("example.com", False), ("*.com", False)):
        assert FlowSelection(make_request(FlowWish(dns=name), 1).whitelist).passes(query) is passes, name


def test_nodes_share_the_first_flows_and_since_says_where_to_go_on() -> None:
    assert make_request(FlowWish(first=2000), 8).number == 250
    assert make_request(FlowWish(first=3), 8).number == 1
    request = make_request(FlowWish(since_ms=1_700_000_000_123), 8)
    assert (request.number, request.since.ToMilliseconds(), request.follow) == (0, 1_700_000_000_123, True)


@pytest.mark.parametrize(
    "filters", [{"verdict": "NO"}, {"label": "a in ("}, {"port": "x"}, {"status": "6x"}, {"dns": "(" * 9}]
)
def test_a_filter_that_means_nothing_is_refused(filters: dict[str, str]) -> None:
    with pytest.raises(FilterError):
        make_request(FlowWish(**filters), 1)  # type: ignore[arg-type]


def test_one_flow_is_asked_for_by_its_observers_number() -> None:
    flow = _flow(uuid="u-1", node_name="north/n1")
    for uuid, node, passes in (
        ("u-1", "north/n1", True),
        ("u-1", "", True),
        ("u-1", "north/n2", False),
        ("u-2", "", False),
    ):
        assert FlowSelection(one_flow(uuid, node).whitelist).passes(flow) is passes
