# SPDX-License-Identifier: Apache-2.0
"""`policy eval`: the case format."""

from __future__ import annotations

from typing import Any

import pytest

from meshpolicy.evaluate import CaseError, evaluate, evaluate_case

POD = "k8s:io.kubernetes.pod.namespace=default"
OPEN_HTTP = """
kind: CiliumNetworkPolicy
metadata: {name: open, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress: [{toPorts: [{ports: [{port: http, protocol: TCP}]}]}]
"""
BROKEN = "kind: CiliumNetworkPolicy\nmetadata: {name: broken}\nspec: {endpointSelector: {}}\n"


def case(**fields: Any) -> dict[str, Any]:
    ids = {"server": ["k8s:app=server", POD], "client": ["k8s:app=client", POD], "world": ["reserved:world"]}
    return {"cluster": "north", "scope": "", "ids": ids, "policies": [], "flows": [], **fields}


def test_a_list_of_cases_gives_a_list_of_answers() -> None:
    flows = [["client", "server", "TCP", 80], ["world", "server", "tcp", 81]]
    answers = evaluate([case(policies=[OPEN_HTTP], flows=flows), case(flows=flows)])
    assert answers == [
        {"errors": [], "verdicts": [["allowed", "allowed"], ["allowed", "denied"]]},
        {"errors": [], "verdicts": [["allowed", "allowed"], ["allowed", "allowed"]]},
    ]


def test_an_invalid_policy_is_an_error_without_effect() -> None:
    answer: Any = evaluate(case(policies=[BROKEN, "a: [", OPEN_HTTP], flows=[["client", "server", "TCP", 81]]))
    assert answer["verdicts"] == [["allowed", "denied"]]
    assert len(answer["errors"]) == 2
    assert answer["errors"][0].startswith("spec: there is no rule")
    assert "not YAML" in answer["errors"][1]


def test_a_policy_that_names_too_many_ranges_is_kept_closed_and_the_answer_says_so() -> None:
    spec = {"endpointSelector": {}, "egress": [{"toCIDR": [f"10.0.{n >> 8}.{n & 255}" for n in range(32_769)]}]}
    many = {"kind": "CiliumNetworkPolicy", "metadata": {"name": "many"}, "spec": spec}
    answer: Any = evaluate(case(policies=[many], flows=[["client", "10.0.0.1", "TCP", 80]]))
    assert answer["verdicts"] == [["denied", "allowed"]]
    assert "is kept closed: it names 32769 address ranges" in answer["errors"][0]


def test_a_part_that_nobody_can_enforce_yet_is_denied_and_the_answer_says_so() -> None:
    topics = {"ports": [{"port": "9092", "protocol": "TCP"}], "rules": {"kafka": [{"topic": "orders"}]}}
    spec = {"endpointSelector": {"matchLabels": {"app": "server"}}, "ingress": [{"toPorts": [topics]}]}
    written = {"kind": "CiliumNetworkPolicy", "metadata": {"name": "topics"}, "spec": spec}
    answer: Any = evaluate(case(policies=[written], flows=[["client", "server", "TCP", 9092]]))
    assert answer["verdicts"] == [["allowed", "denied"]]
    assert answer["errors"] == []
    assert "a list of kafka rules cannot be enforced yet" in answer["notEnforced"][0]


def test_several_documents_in_one_text_all_count() -> None:
    answer: Any = evaluate(case(policies=[f"{OPEN_HTTP}---\n{BROKEN}---\n"], flows=[["client", "server", "TCP", 81]]))
    assert (len(answer["errors"]), answer["verdicts"]) == (1, [["allowed", "denied"]])


def test_named_ports_default_to_http_80_and_can_be_given() -> None:
    flows = [["client", "server", "TCP", 80], ["client", "server", "TCP", 8080]]
    default: Any = evaluate(case(policies=[OPEN_HTTP], flows=flows))
    given: Any = evaluate(case(policies=[OPEN_HTTP], flows=flows, namedPorts={"server": {"http": [8080, "TCP"]}}))
    none: Any = evaluate(case(policies=[OPEN_HTTP], flows=flows, namedPorts={}))
    assert [side for _, side in default["verdicts"]] == ["allowed", "denied"]
    assert [side for _, side in given["verdicts"]] == ["denied", "allowed"]
    assert [side for _, side in none["verdicts"]] == ["denied", "denied"]


RANGES = """
kind: NetworkPolicy
metadata: {name: ranges, namespace: default}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.9.0.0/16]}}]}]
"""


def test_outsiders_are_world_and_the_ranges_they_are_in() -> None:
    ids = {**case()["ids"], "listed": ["reserved:world"], "empty": []}
    ips = {"listed": "10.1.1.1", "empty": "10.9.1.1", "only-ip": "10.2.2.2", "client": "10.3.3.3"}
    names = ["listed", "empty", "only-ip", "10.4.4.4", "192.0.2.1", "world", "client", "host"]
    answer: Any = evaluate(
        case(ids=ids, ips=ips, policies=[RANGES], flows=[[name, "server", "TCP", 1] for name in names])
    )
    allowed = [name for name, (_, side) in zip(names, answer["verdicts"], strict=True) if side == "allowed"]
    assert allowed == ["listed", "only-ip", "10.4.4.4", "host"]
    six = """
kind: CiliumNetworkPolicy
metadata: {name: six, namespace: default}
spec: {endpointSelector: {matchLabels: {app: server}}, ingress: [{fromEntities: [world-ipv6]}]}
"""
    flows = [[name, "server", "TCP", 1] for name in ("2001:db8::1", "192.0.2.1")]
    found: Any = evaluate(case(policies=[RANGES, six], flows=flows))
    assert [side for _, side in found["verdicts"]] == ["allowed", "denied"]


def test_the_scope_is_the_cluster_that_unscoped_peers_mean() -> None:
    text = """
kind: CiliumNetworkPolicy
metadata: {name: p, namespace: default}
spec: {endpointSelector: {matchLabels: {app: server}}, ingress: [{fromEndpoints: [{}]}]}
"""
    ids = {
        "server": ["k8s:app=server", POD],
        "near": [POD, "k8s:io.cilium.k8s.policy.cluster=north"],
        "far": [POD, "k8s:io.cilium.k8s.policy.cluster=south"],
    }
    flows = [["near", "server", "TCP", 80], ["far", "server", "TCP", 80]]
    sides = {
        scope: [side for _, side in answer["verdicts"]]
        for scope in ("", "north")
        for answer in [evaluate(case(ids=ids, scope=scope, policies=[text], flows=flows))]  # type: ignore[index]
    }
    assert sides == {"": ["allowed", "allowed"], "north": ["allowed", "denied"]}


def test_two_documents_of_one_name_both_count() -> None:
    deny = OPEN_HTTP.replace("ingress:", "ingressDeny:")
    answer: Any = evaluate(case(policies=[OPEN_HTTP, deny], flows=[["client", "server", "TCP", 80]]))
    assert answer["verdicts"] == [["allowed", "denied"]]


@pytest.mark.parametrize(
    "broken",
    [
        "text",
        case(flows=[["client", "server", "TCP"]]),
        case(flows=[["nobody", "server", "TCP", 80]]),
        case(flows=[["client", "server", "XYZ", 80]]),
        case(flows=[["client", "server", "TCP", 65536]]),
        case(ids=[]),
        case(ids={"a": ["k8s:"]}),
        case(ips={"a": "x"}),
        case(cluster=1),
    ],
)
def test_a_malformed_case_is_refused(broken: object) -> None:
    with pytest.raises(CaseError):
        evaluate(broken)


def test_a_deny_rule_whose_peers_cannot_be_told_denies_everybody() -> None:
    """Selecting nobody, as an allow rule does then, would open what the policy closes."""
    spec = {"endpointSelector": {}, "egress": [{"toEntities": ["all"]}], "egressDeny": [{"toGroups": [{"aws": {}}]}]}
    document = {"kind": "CiliumNetworkPolicy", "metadata": {"name": "p"}, "spec": spec}
    pod = ["k8s:io.kubernetes.pod.namespace=default"]
    case = {"ids": {"a": [*pod, "k8s:app=a"]}, "policies": [document], "flows": [["a", "192.0.2.1", "TCP", 80]]}
    assert evaluate_case(case)["verdicts"] == [["denied", "allowed"]]


@pytest.mark.parametrize("field", ["policys", "policy", "Policies", "flow", "namedports", "IDs"])
def test_a_misspelt_field_of_a_case_is_refused(field: str) -> None:
    with pytest.raises(CaseError, match=f"unknown field '{field}' of a case"):
        evaluate({**case(), field: []})
    assert evaluate({**case(), "id": 7, "comment": "its author's own"}) == {"errors": [], "verdicts": []}


def test_an_entry_that_is_no_document_is_not_passed_over() -> None:
    with pytest.raises(CaseError, match=r"policies\[1\] is no document"):
        evaluate(case(policies=[OPEN_HTTP, [OPEN_HTTP]]))


def test_a_message_about_a_case_is_short() -> None:
    with pytest.raises(CaseError) as caught:
        evaluate(case(flows=[["x" * 70_000]]))
    assert len(str(caught.value)) < 300


TO_NAMES = """
kind: CiliumNetworkPolicy
metadata: {name: names, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress:
  - toFQDNs: [{matchName: Example.org}]
    toPorts: [{ports: [{port: "443", protocol: TCP}]}]
  - toFQDNs: [{matchPattern: "*.svc.cluster.local"}, {matchPattern: "*.shop.example.org"}]
"""
FQDNS = {
    "example.org.": ["203.0.113.7", "203.0.113.8"],
    "api.shop.example.org": ["203.0.113.9"],
    "other.org": ["203.0.113.10"],
    "db.svc.cluster.local": ["203.0.113.11"],
}


def test_names_as_peers_mean_the_addresses_that_the_case_gives_them() -> None:
    flows = [
        ["client", "203.0.113.7", "TCP", 443],
        ["client", "203.0.113.7", "TCP", 80],
        ["client", "api", "UDP", 9],
        ["client", "203.0.113.9", "TCP", 80],
        ["client", "203.0.113.10", "TCP", 443],
        ["client", "203.0.113.11", "TCP", 443],
        ["server", "203.0.113.10", "TCP", 443],
    ]
    ids = {**case()["ids"], "api": ["reserved:world"]}
    answer: Any = evaluate(
        case(policies=[TO_NAMES], flows=flows, ids=ids, ips={"api": "203.0.113.9"}, fqdns=FQDNS, name="a case")
    )
    assert answer["errors"] == []
    assert [egress for egress, _ in answer["verdicts"]] == [
        "allowed", "denied", "allowed", "allowed", "denied", "denied", "allowed",
    ]  # fmt: skip


def test_a_name_and_a_range_may_both_mean_an_address() -> None:
    denied = TO_NAMES.replace("  egress:", "  egressDeny: [{toCIDR: [203.0.113.8/32]}]\n  egress:")
    flows = [["client", f"203.0.113.{n}", "TCP", 443] for n in (7, 8)]
    answer: Any = evaluate(case(policies=[denied], flows=flows, fqdns=FQDNS))
    assert [egress for egress, _ in answer["verdicts"]] == ["allowed", "denied"]


@pytest.mark.parametrize(
    ("fqdns", "said"),
    [
        ({"a b": ["203.0.113.7"]}, "is no DNS name"),
        ({"a.org": "203.0.113.7"}, "fqdns.a.org must be a list"),
        ({"a.org": ["x"]}, "fqdns.a.org: "),
        (["a.org"], "fqdns must be an object"),
    ],
)
def test_names_of_a_case_that_cannot_be_read_are_refused(fqdns: object, said: str) -> None:
    with pytest.raises(CaseError, match=said):
        evaluate(case(fqdns=fqdns))


def test_a_staged_policy_of_a_case_is_left_out() -> None:
    staged = OPEN_HTTP.replace(
        "namespace: default}", 'namespace: default, annotations: {mesh.clustermesh.io/staged: "true"}}'
    )
    flow = ["client", "server", "TCP", 81]
    answer: Any = evaluate([case(policies=[text], flows=[flow]) for text in (OPEN_HTTP, staged)])
    assert [one["verdicts"] for one in answer] == [[["allowed", "denied"]], [["allowed", "allowed"]]]
