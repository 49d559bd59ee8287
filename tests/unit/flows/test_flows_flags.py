# SPDX-License-Identifier: Apache-2.0
"""What a request says for the flags of `hubble observe`, and which of them contradict each other."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from flows.document import json_line, read_json
from flows.errors import FilterError
from flows.filters import compile_filter
from flows.flags import _SINGLES, SIDED, SINGLE, SWITCHES, FilterFlag, Lists, make_lists, takes_value
from flows.proto import flow_pb2 as pb


def lists(text: str) -> Lists:
    """`pod=a not verdict=DROPPED ipv4`."""
    return make_lists([FilterFlag(*word.partition("=")[::2]) for word in text.split()])


def said(found: list[pb.FlowFilter]) -> list[dict[str, Any]]:
    return [orjson.loads(json_line(each)) for each in found]


@pytest.mark.parametrize(
    ("flags", "whitelist"),
    [
        ("", []),
        ("pod=client", [{"source_pod": ["client"]}, {"destination_pod": ["client"]}]),
        ("from-pod=a/b to-port=80", [{"source_pod": ["a/b"], "destination_port": ["80"]}]),
        (
            "pod=client protocol=icmp verdict=dropped identity=16946",
            [
                {"source_pod": ["client"], "source_identity": [16946], "protocol": ["icmp"], "verdict": ["DROPPED"]},
                {"destination_pod": ["client"], "destination_identity": [16946], "protocol": ["icmp"], "verdict": ["DROPPED"]},
            ],
        ),
        ("verdict=DROPPED verdict=ERROR", [{"verdict": ["DROPPED", "ERROR"]}]),
        ("namespace=shop", [{"source_pod": ["shop/"]}, {"destination_pod": ["shop/"]}]),
        ("from-namespace=shop to-pod=web", [{"destination_pod": ["web"]}]),
        ("namespace=shop pod=web", [{"source_pod": ["shop/web"]}, {"destination_pod": ["shop/web"]}]),
        ("namespace=shop pod=shop/web", [{"source_pod": ["shop/web"]}, {"destination_pod": ["shop/web"]}]),
        ("to-namespace=shop to-service=web", [{"destination_service": ["shop/web"]}]),
        ("all-namespaces pod=web", [{"source_pod": ["web"]}, {"destination_pod": ["web"]}]),
        ("from-identity=world", [{"source_identity": [2]}]),
        ("to-workload=Deployment/web", [{"destination_workload": [{"kind": "Deployment", "name": "web"}]}]),
        ("from-cluster=north", [{"source_cluster_name": ["north"]}]),
        ("type=trace:to-overlay", [{"event_type": [{"type": 4, "match_sub_type": True, "sub_type": 4}]}]),
        ("type=drop:133 type=l7", [{"event_type": [{"type": 1, "match_sub_type": True, "sub_type": 133}, {"type": 129}]}]),
        ("tcp-flags=syn,ack", [{"tcp_flags": [{"SYN": True, "ACK": True}]}]),
        ("drop-reason-desc=POLICY_DENIED drop-reason-desc=181", [{"drop_reason_desc": ["POLICY_DENIED", "POLICY_DENY"]}]),
        ("traffic-direction=egress ip-version=6", [{"traffic_direction": ["EGRESS"], "ip_version": ["IPv6"]}]),
        ("ipv4 unencrypted", [{"ip_version": ["IPv4"], "encrypted": [False]}]),
        ("http-header=X-A:1 http-status=4+", [{"http_header": [{"key": "X-A", "value": "1"}], "http_status_code": ["4+"]}]),
        ("snat-ip=10.0.0.0/8 interface=eth0 ip-trace-id=7",
         [{"source_ip_xlated": ["10.0.0.0/8"], "interface": [{"name": "eth0"}], "ip_trace_id": ["7"]}]),
    ],
)  # fmt: skip
def test_flags_make_the_filters_that_hubble_makes(flags: str, whitelist: list[dict[str, Any]]) -> None:
    assert said(lists(flags).whitelist) == whitelist
    for wanted in whitelist:
        compile_filter(read_json(orjson.dumps(wanted), pb.FlowFilter(), "filter"))


def test_not_is_about_the_next_flag_only() -> None:
    found = lists("not verdict=DROPPED pod=a not namespace=kube-system")
    assert said(found.whitelist) == [{"source_pod": ["a"]}, {"destination_pod": ["a"]}]
    assert said(found.blacklist) == [
        {"source_pod": ["kube-system/"], "verdict": ["DROPPED"]},
        {"destination_pod": ["kube-system/"], "verdict": ["DROPPED"]},
    ]


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ("pod=a from-pod=b", "--pod: cannot be combined with --from-pod"),
        ("identity=1 to-identity=2", "--identity: cannot be combined with --to-identity"),
        ("namespace=a to-pod=b", "--namespace: cannot be combined with --to-pod"),
        ("namespace=a all-namespaces", "cannot be combined with --all-namespaces"),
        ("from-ip=10.0.0.1 from-pod=a", "--from-pod: cannot be combined with --from-ip"),
        ("ipv4 ipv6", "--ipv4: cannot be combined with --ipv6"),
        ("not", "--not: no filter follows it"),
        ("not not pod=a", "--not: given twice"),
        ("namespace=a pod=b/c", "'b/c' is not in namespace 'a'"),
        ("verdict=LOST", "--verdict: 'LOST' is not one of AUDIT, DROPPED"),
        ("type=trace:nowhere", "--type: 'nowhere' is no number up to 255"),
        ("tcp-flags=SYN,X", "'X' is not one of ACK"),
        ("identity=me", "--identity: 'me' is no number"),
        ("http-header=a", "'a' is not NAME:VALUE"),
        ("from-port=80-90", "source_port: '80-90' is no port"),
        ("http-path=(", "no RE2 expression"),
    ],
)
def test_what_contradicts_itself_or_means_nothing_is_refused(flags: str, why: str) -> None:
    with pytest.raises(FilterError) as caught:
        lists(flags)
    assert why in str(caught.value)


def test_every_flag_does_something() -> None:
    assert set(_SINGLES) == {*SINGLE, *SWITCHES}
    names = [*(f"{side}{name}" for name in SIDED for side in ("", "from-", "to-")), *SINGLE, *SWITCHES]
    assert sorted(name for name in names if not takes_value(name)) == [
        "all-namespaces", "encrypted", "from-all-namespaces", "ipv4", "ipv6", "to-all-namespaces", "unencrypted",
    ]  # fmt: skip
