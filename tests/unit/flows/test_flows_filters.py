# SPDX-License-Identifier: Apache-2.0
"""What each filter lets through, and what it refuses to mean."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from flows.document import read_json
from flows.errors import FilterError, RequestError
from flows.filters import compile_filter
from flows.proto import flow_pb2 as pb
from flows.selection import FlowSelection

FLOW: dict[str, Any] = {
    "uuid": "u-1",
    "verdict": "DROPPED",
    "drop_reason_desc": "POLICY_DENIED",
    "IP": {"source": "10.1.0.5", "destination": "10.2.0.9", "ipVersion": "IPv4", "source_xlated": "192.0.2.7"},
    "l4": {"TCP": {"source_port": 40000, "destination_port": 80, "flags": {"SYN": True, "ACK": True}}},
    "source": {
        "identity": 65543, "namespace": "default", "pod_name": "xwing-1", "cluster_name": "north",
        "labels": ["k8s:app=x-wing", "k8s:rank=3", "other:app=y"], "workloads": [{"name": "xwing", "kind": "Deployment"}],
    },
    "destination": {"identity": 2, "labels": ["reserved:world"]},
    "destination_names": ["api.github.com"],
    "destination_service": {"name": "rebel-base", "namespace": "shop"},
    "event_type": {"type": 1, "sub_type": 133},
    "traffic_direction": "EGRESS",
    "node_name": "north/k8s-1.example",
    "node_labels": ["zone=a"],
    "trace_context": {"parent": {"trace_id": "abc"}},
    "interface": {"index": 4, "name": "lxc1"},
    "ip_trace_id": {"trace_id": 9},
    "l7": {
        "type": "REQUEST",
        "http": {"code": 404, "method": "GET", "url": "http://host/public?q=1", "headers": [{"key": "X-A", "value": "1"}]},
    },
}  # fmt: skip


def flow(**changes: Any) -> pb.Flow:
    return read_json(orjson.dumps({**FLOW, **changes}), pb.Flow(), "flow")


def passes(wanted: dict[str, Any], found: pb.Flow | None = None) -> bool:
    return compile_filter(read_json(orjson.dumps(wanted), pb.FlowFilter(), "filter")).passes(found or flow())


@pytest.mark.parametrize(
    ("yes", "no"),
    [
        ({"source_ip": ["10.9.9.9", "10.1.0.0/16"]}, {"source_ip": ["10.2.0.9"]}),
        ({"destination_ip": ["10.2.0.9"]}, {"destination_ip": ["fd00::/8"]}),
        ({"source_ip_xlated": ["192.0.2.0/24"]}, {"source_ip_xlated": ["10.1.0.5"]}),
        ({"source_pod": ["default/xw"]}, {"source_pod": ["other/xw", "default/y"]}),
        ({"source_pod": ["xwing"]}, {"destination_pod": ["xwing", "default/"]}),
        ({"source_pod": ["default/"]}, {"source_pod": ["defaul/"]}),
        ({"source_pod": ["/xwing"]}, {"source_pod": ["wing"]}),
        ({"destination_service": ["shop/rebel"]}, {"source_service": ["shop/"]}),
        ({"destination_fqdn": ["*.github.com."]}, {"destination_fqdn": ["*.com", "github.com"]}),
        ({"source_label": ["app in (x-wing, z)"]}, {"source_label": ["app notin (x-wing, y)"]}),
        ({"source_label": ["k8s:app=x-wing,rank>2"]}, {"source_label": ["k8s:app=y"]}),
        ({"source_label": ["other:app==y"]}, {"source_label": ["k8s:app!=x-wing"]}),
        ({"source_label": ["any:app,!gone"]}, {"source_label": ["!app"]}),
        ({"source_label": ["rank<4"]}, {"source_label": ["rank>3"]}),
        ({"destination_label": ["reserved:world"]}, {"destination_label": ["k8s:world"]}),
        ({"source_identity": [7, 65543]}, {"destination_identity": [65543]}),
        ({"source_workload": [{"name": "xwing"}]}, {"source_workload": [{"name": "xwing", "kind": "Job"}]}),
        ({"source_cluster_name": ["north"]}, {"source_cluster_name": ["nor*"]}),
        ({"ip_version": ["IPv4"]}, {"ip_version": ["IPv6"]}),
        ({"node_name": ["k8s-*.example"]}, {"node_name": ["k8s-*"]}),
        ({"node_name": ["north/"]}, {"node_name": ["south/*.example"]}),
        ({"node_name": ["nor*/k8s-1.example"]}, {"node_name": ["default/k8s-1.example"]}),
        ({"node_labels": ["zone=a"]}, {"node_labels": ["zone=b"]}),
        ({"verdict": ["FORWARDED", "DROPPED"]}, {"verdict": ["AUDIT"]}),
        ({"drop_reason_desc": ["POLICY_DENIED"]}, {"drop_reason_desc": ["POLICY_DENY"]}),
        ({"event_type": [{"type": 1}]}, {"event_type": [{"type": 4}]}),
        ({"event_type": [{"type": 1, "match_sub_type": True, "sub_type": 133}]},
         {"event_type": [{"type": 1, "match_sub_type": True, "sub_type": 0}]}),
        ({"reply": [False]}, {"reply": [True]}),
        ({"protocol": ["TCP"]}, {"protocol": ["udp", "dns"]}),
        ({"protocol": ["http"]}, {"protocol": ["icmp"]}),
        ({"tcp_flags": [{"RST": True}, {"SYN": True, "ACK": True}]}, {"tcp_flags": [{"SYN": True, "FIN": True}]}),
        ({"traffic_direction": ["EGRESS"]}, {"traffic_direction": ["INGRESS"]}),
        ({"source_port": ["40000"]}, {"source_port": ["80"]}),
        ({"destination_port": ["80", "443"]}, {"destination_port": ["443"]}),
        ({"uuid": ["u-1"]}, {"uuid": ["u-2"]}),
        ({"trace_id": ["abc"]}, {"trace_id": ["ab"]}),
        ({"ip_trace_id": [9]}, {"ip_trace_id": [8]}),
        ({"encrypted": [False]}, {"encrypted": [True]}),
        ({"interface": [{"name": "lxc1"}]}, {"interface": [{"name": "lxc1", "index": 5}]}),
        ({"http_status_code": ["404"]}, {"http_status_code": ["400"]}),
        ({"http_status_code": ["4+"]}, {"http_status_code": ["50+"]}),
        ({"http_method": ["get"]}, {"http_method": ["POST"]}),
        ({"http_path": ["^/pub"]}, {"http_path": ["q=1"]}),
        ({"http_url": [r"host/.*\?q="]}, {"http_url": ["^/pub"]}),
        ({"http_header": [{"key": "x-a", "value": "1"}]}, {"http_header": [{"key": "x-a", "value": "2"}]}),
    ],
    ids=lambda wanted: orjson.dumps(wanted).decode()[:60],
)  # fmt: skip
def test_a_value_lets_through_what_it_says(yes: dict[str, Any], no: dict[str, Any]) -> None:
    assert passes(yes)
    assert not passes(no)


def test_values_are_alternatives_and_fields_are_not() -> None:
    assert passes({"verdict": ["AUDIT", "DROPPED"], "source_pod": ["b", "x"]})
    assert not passes({"verdict": ["DROPPED"], "source_pod": ["b"]})


def test_every_field_of_a_filter_is_compiled() -> None:
    from flows.filters import _FIELDS

    assert set(_FIELDS) == {field.name for field in pb.FlowFilter.DESCRIPTOR.fields}


def test_a_dns_query_is_searched_for() -> None:
    asked = flow(l7={"type": "REQUEST", "dns": {"query": "api.github.com."}})
    assert passes({"dns_query": ["git.*com"]}, asked)
    assert not passes({"dns_query": ["^github"]}, asked)
    assert not passes({"dns_query": [""]}), "no DNS at all"


def test_what_is_not_known_to_be_a_reply_counts_as_none_only_if_it_was_dropped() -> None:
    assert passes({"reply": [False]})
    assert not passes({"reply": [True, False]}, flow(verdict="TRACED"))
    assert passes({"reply": [True]}, flow(verdict="FORWARDED", is_reply=True))


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ({"source_ip": ["10.0.0"]}, "source_ip: '10.0.0' is neither an address nor a network"),
        ({"source_pod": [""]}, "is not namespace/name"),
        ({"destination_service": ["a/b/c"]}, "is not namespace/name"),
        ({"source_label": ["a in b"]}, "is no requirement such as app=web"),
        ({"source_label": [""]}, "an empty selector selects nothing"),
        ({"source_label": ["a=b,"]}, "ends with a comma"),
        ({"source_label": ["a>b"]}, "compares whole numbers"),
        ({"source_label": ["a in (b c)"]}, "is no value of a label"),
        ({"source_fqdn": ["a b"]}, "names have letters"),
        ({"node_name": ["/"]}, "an empty name of a node"),
        ({"protocol": ["tpc"]}, "protocol: 'tpc' is not one of dns, http, icmp"),
        ({"source_port": ["80-90"]}, "'80-90' is no port"),
        ({"http_status_code": ["4xx"]}, "neither a status such as 200 nor a prefix"),
        ({"http_path": ["("]}, "is no RE2 expression: missing )"),
        ({"http_url": ["(a)\\1"]}, "is no RE2 expression"),
        ({"dns_query": ["a" * 5000]}, "an expression of 5000 characters; the limit is 4096"),
        ({"tcp_flags": [{}]}, "no flag is named"),
        ({"source_workload": [{}]}, "a workload has a name, a kind, or both"),
        ({"interface": [{}]}, "an interface has a name, an index, or both"),
        ({"uuid": ["u"] * 1001}, "more than 1000 values"),
    ],
)
def test_what_means_nothing_is_refused_with_field_and_reason(wanted: dict[str, Any], why: str) -> None:
    with pytest.raises(FilterError) as caught:
        passes(wanted)
    assert why in str(caught.value)


def test_a_field_of_a_later_version_is_refused_and_not_passed_over() -> None:
    later = pb.FlowFilter.FromString(b"\xba\x3e\x03\x0a\x01\x31")  # field 999, an expression
    with pytest.raises(FilterError, match="fields 999 are not known here"):
        compile_filter(later)
    with pytest.raises(RequestError, match="no field named"):
        passes({"source_pood": ["a"]})


def test_an_expression_that_explodes_elsewhere_is_answered_at_once() -> None:
    """Backtracking would take 2^5000 steps."""
    long = flow(l7={"type": "REQUEST", "http": {"url": "http://h/" + "a" * 5000}})
    assert not passes({"http_url": ["(a|a)*(a*)*b$"]}, long)


def test_the_blacklist_is_taken_from_the_whitelist() -> None:
    mine, dropped, other = (
        pb.FlowFilter(source_pod=["xw"]),
        pb.FlowFilter(verdict=[pb.DROPPED]),
        pb.FlowFilter(uuid=["u-2"]),
    )
    assert FlowSelection().passes(flow())
    assert FlowSelection([mine, other]).passes(flow())
    assert not FlowSelection([mine], [dropped]).passes(flow())
    assert FlowSelection([mine], [other]).passes(flow())
    assert not FlowSelection([], [dropped]).passes(flow())
    with pytest.raises(FilterError, match="more than 100 in one request"):
        FlowSelection([mine] * 101)
