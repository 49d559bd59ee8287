# SPDX-License-Identifier: Apache-2.0
"""What an error advises opens nothing when it is followed, and what stands for nothing is not read as everybody."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from policy_documents import ALL, CONTEXT, TCP80, ccnp, cnp, egress, ingress, netpol, ports

from meshpolicy import PolicyError, parse_cidr_group, parse_policy
from meshpolicy.lint import Severity, lint

EXPRESSION = {"key": "env", "operator": "Exists", "values": ["prod"]}
HTTP = {"http": [{"method": "GET"}]}
ADVICE: dict[str, tuple[dict[str, Any], str, str]] = {
    "labels beside a selector": (ingress(fromEndpoints=[{"app": "db"}]), "matchLabels", "remove"),
    "another word for a peer": (ingress(sources=[{}], toPorts=ports(TCP80)), "fromEndpoints", "remove"),
    "another word for a Kubernetes peer": (netpol(ingress=[{"source": [], "ports": [{"port": 80}]}]), "from", "remove"),
    "a word for ingressDeny": (cnp(**ALL, ingress=[{}], denyIngress=[{}]), "ingressDeny", "write ingress"),
    "a word for egressDeny": (cnp(**ALL, egress=[{}], egressDrop=[{}]), "egressDeny", "write egress"),
    "values of Exists": (ingress(fromEndpoints=[{"matchExpressions": [EXPRESSION]}]), "write In", "remove"),
    "an empty server name": (egress(toPorts=ports(TCP80, serverNames=[""])), "write the name", "remove"),
    "HTTP rules of a host": (
        ccnp(nodeSelector={}, ingress=[{"toPorts": ports(TCP80, rules=HTTP)}]),
        "if all that is behind them may be used",
        "remove",
    ),
    "requirements alone": (
        ingress(fromRequires=[{}], toPorts=ports(TCP80)),
        "where there is none, write one",
        "remove",
    ),
    "requests of named servers": (
        egress(toPorts=ports(TCP80, serverNames=["a.example"], rules=HTTP)),
        "only if every request",
        "remove",
    ),
    "a listener beside rules": (
        egress(toPorts=ports(TCP80, listener={"name": "l", "envoyConfig": {"name": "e"}}, rules=HTTP)),
        "says all that may pass",
        "remove",
    ),
    "a listener on ingress": (
        ingress(toPorts=ports(TCP80, listener={"name": "l", "envoyConfig": {"name": "e"}})),
        "say what may come in",
        "remove",
    ),
    "no subject": (cnp(ingress=[{"fromEntities": ["all"]}]), "the labels of the pods", 'write "endpointSelector: {}"'),
    "pods and a block": (
        netpol(ingress=[{"from": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}]}]),
        "if each is meant alone",
        "write two list entries:",
    ),
    "pods and a range": (ingress(fromEndpoints=[{}], fromCIDR=["10.0.0.0/8"]), "if each is meant alone", "remove"),
    "a name and a pattern": (
        egress(toFQDNs=[{"matchName": "a.example", "matchPattern": "*"}]),
        "if each is meant alone",
        "remove",
    ),
    "ICMP beside ports": (
        ingress(fromEndpoints=[{}], toPorts=ports(TCP80), icmps=[{"fields": [{"type": 8}]}]),
        "with the same peers",
        "remove",
    ),
}
"""A refused document, what the advice says, and with what no part of it begins."""


@pytest.mark.parametrize("case", ADVICE)
def test_advice_never_takes_a_condition_away(case: str) -> None:
    document, said, never = ADVICE[case]
    with pytest.raises(PolicyError) as caught:
        parse_policy(document, CONTEXT)
    assert said in caught.value.fix
    assert not caught.value.fix.startswith(never)


def test_dns_advice_opens_the_port_of_dns_only() -> None:
    every_port = {"port": "0", "protocol": "UDP"}
    (found,) = lint([egress(toEntities=["world"], toPorts=ports(every_port))], CONTEXT)
    assert found.code == "dns-without-tcp"
    assert '"53" with protocol: TCP' in found.fix


NULLS: dict[str, tuple[dict[str, Any], str]] = {
    "peer": (ingress(fromEndpoints=[None]), "spec.ingress[0].fromEndpoints[0]"),
    "node": (egress(toNodes=[{}, None]), "spec.egress[0].toNodes[1]"),
    "rule": (cnp(**ALL, ingress=[None]), "spec.ingress[0]"),
    "port rule": (ingress(fromEndpoints=[{}], toPorts=[None]), "spec.ingress[0].toPorts[0]"),
    "group": (cnp(**ALL, egressDeny=[{"toGroups": [None]}]), "spec.egressDeny[0].toGroups[0]"),
    "Kubernetes rule": (netpol(ingress=[None]), "spec.ingress[0]"),
    "Kubernetes port": (netpol(ingress=[{"ports": [None]}]), "spec.ingress[0].ports[0]"),
}


@pytest.mark.parametrize("case", NULLS)
def test_a_dash_with_nothing_behind_it_is_refused(case: str) -> None:
    document, where = NULLS[case]
    with pytest.raises(PolicyError, match="an entry without a value") as caught:
        parse_policy(document, CONTEXT)
    assert caught.value.where == where


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"externalCIDRs": ["10.0.0.0/8"]}, "externalCIDRs"),
        ({"sepc": {"externalCIDRs": ["10.0.0.0/8"]}}, "sepc"),
        ({}, "document"),
        ({"spec": {}}, "spec"),
        ({"spec": {"externalCIDRs": None}}, "spec"),
    ],
)
def test_a_group_without_its_list_is_refused_as_by_its_schema(fields: dict[str, Any], where: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_cidr_group({"kind": "CiliumCIDRGroup", "metadata": {"name": "g"}, **fields})
    assert caught.value.where == where


@pytest.mark.parametrize(
    ("document", "path"),
    [
        (ingress(fromEndpoints=None, toPorts=ports(TCP80)), "spec.ingress[0].fromEndpoints"),
        (egress(toCIDR=None), "spec.egress[0].toCIDR"),
        (netpol(ingress=[{"from": None}]), "spec.ingress[0].from"),
    ],
)
def test_a_peer_field_with_nothing_below_it_is_a_warning(document: dict[str, Any], path: str) -> None:
    assert any(f.severity is Severity.WARNING and path in f.message for f in lint([document], CONTEXT))


@pytest.mark.parametrize(
    "kind", ["", "ciliumnetworkpolicy", "CiliumNetworkPolicies", "NetworkPolciy", "CiliumCidrGroup"]
)
def test_a_misspelt_kind_is_an_error(kind: str) -> None:
    (found,) = lint([{**ingress(fromEndpoints=[{}]), "kind": kind}], CONTEXT)
    assert (found.severity, found.code) == (Severity.ERROR, "invalid")


@pytest.mark.parametrize("kind", ["Deployment", "GlobalNetworkPolicy", "CiliumEgressGatewayPolicy", "CiliumNodeConfig"])
def test_another_kind_is_skipped(kind: str) -> None:
    (found,) = lint([{"kind": kind, "metadata": {"name": "x"}}], CONTEXT)
    assert (found.severity, found.code) == (Severity.NOTE, "not-a-policy")


def test_a_file_of_values_is_no_object_that_lacks_its_kind() -> None:
    (found,) = lint([{"image": {"tag": "1"}, "replicas": 2}], CONTEXT)
    assert found.code == "not-a-policy"


BAD = ingress(fromEndpoint=[{}])
WITHOUT_KIND = {key: value for key, value in BAD.items() if key != "kind"}


@pytest.mark.parametrize(
    ("document", "where"),
    [
        ({"kind": "List", "items": [7]}, "items[0]"),
        ({"kind": "List", "items": [None]}, "items[0]"),
        ({"kind": "CiliumNetworkPolicyList", "items": {"a": 1}}, "items"),
        ({"kind": "List", "items": [{"kind": "List", "items": [BAD]}]}, "fromEndpoint"),
        ({"kind": "CiliumNetworkPolicyList", "items": [WITHOUT_KIND]}, "fromEndpoint"),
    ],
)
def test_no_object_of_a_list_is_passed_over(document: dict[str, Any], where: str) -> None:
    if "List" in document["kind"] and document["kind"] != "List":
        document = {"apiVersion": "cilium.io/v2", **document}
    (found,) = lint([document], CONTEXT)
    assert found.severity is Severity.ERROR
    assert found.where.endswith(where)


def test_a_key_that_yaml_makes_a_boolean_is_refused() -> None:
    with pytest.raises(PolicyError, match="the key is no string but True"):
        parse_policy(ingress(fromEndpoints=[{"matchLabels": {True: "a"}}]), CONTEXT)


def test_a_value_that_yaml_makes_a_boolean_is_quoted_as_it_stands() -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy(ingress(fromEndpoints=[{"matchLabels": {"country": False}}]), CONTEXT)
    assert "False" not in caught.value.fix


def test_a_group_with_a_bad_prefix_is_an_error_as_for_the_api_server() -> None:
    group = {"kind": "CiliumCIDRGroup", "metadata": {"name": "g"}, "spec": {"externalCIDRs": ["300.0.0.0/8"]}}
    (found,) = lint([group], CONTEXT)
    assert found.severity is Severity.ERROR


def labelled(labels: object) -> dict[str, Any]:
    return cnp(endpointSelector={"matchLabels": labels}, ingress=[{"fromEndpoints": [{"matchLabels": labels}]}])


def test_a_field_without_a_value_is_read_as_the_api_server_does_and_lint_says_what_it_opens() -> None:
    assert parse_policy(labelled(None), CONTEXT) == parse_policy(labelled({}), CONTEXT)
    found = [finding for finding in lint([labelled(None)], CONTEXT) if finding.code == "no-value"]
    assert [finding.where.partition(": ")[2] for finding in found] == [
        "spec.endpointSelector.matchLabels",
        "spec.ingress[0].fromEndpoints[0].matchLabels",
    ]
    assert all(finding.severity is Severity.WARNING for finding in found)
    assert not [finding for finding in lint([labelled({})], CONTEXT) if finding.code == "no-value"]
    text = "kind: List\napiVersion: v1\nitems:\n- " + orjson.dumps(ingress(fromEndpoints=[{}], toPorts=None)).decode()
    assert [f.where.rpartition(".")[2] for f in lint([text], CONTEXT) if f.code == "no-value"] == ["toPorts"]


@pytest.mark.parametrize(("prefix", "inner"), [("::ffff:10.0.0.0/104", "10.0.0.0/8"), ("::ffff:0:0/96", "0.0.0.0/0")])
def test_ipv6_prefixes_of_ipv4_addresses_select_nobody_and_lint_says_so(prefix: str, inner: str) -> None:
    group = {"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup", "metadata": {"name": "g"}}
    documents = [cnp(**ALL, egressDeny=[{"toCIDR": [prefix]}]), {**group, "spec": {"externalCIDRs": [prefix]}}]
    found = [finding for finding in lint(documents, CONTEXT) if finding.code == "ipv4-mapped"]
    assert [finding.where for finding in found] == ["cnp/default/p egressDeny[0]", "CiliumCIDRGroup g"]
    denying, group_of_anybody = found
    assert f"write {inner}" in denying.fix
    (allowing,) = lint([cnp(**ALL, egress=[{"toCIDR": [prefix]}])], CONTEXT)
    assert all(inner not in finding.fix for finding in (allowing, group_of_anybody)), "it would open what is closed"
    assert "or keep it: a rule without peers means everybody, and a direction without rules is open" in allowing.fix
    assert "leave out" not in allowing.fix, "the only rule of its direction closes it"
    wide = cnp(**ALL, egressDeny=[{"toCIDR": ["::/0"]}, {"toCIDR": ["64:ff9b::/96"]}, {"toCIDR": ["10.0.0.0/8"]}])
    assert not [finding for finding in lint([wide], CONTEXT) if finding.code == "ipv4-mapped"]


@pytest.mark.parametrize("name", ["VPN", "vpn_1", "-vpn", "vpn.", "a" * 254, "a b"])
def test_a_group_that_cannot_exist_is_refused_as_by_the_schema(name: str) -> None:
    with pytest.raises(PolicyError, match="is not the name of a CiliumCIDRGroup"):
        parse_policy(ingress(fromCIDRSet=[{"cidrGroupRef": name}]), CONTEXT)
    parse_policy(ingress(fromCIDRSet=[{"cidrGroupRef": "vpn-1.example"}]), CONTEXT)


def test_a_list_of_rules_is_told_where_rules_belong() -> None:
    (finding,) = lint(['[{"endpointSelector": {}, "ingress": [{}]}]'], CONTEXT)
    assert (finding.severity, finding.message) == (Severity.ERROR, "a list, not an object")
    assert finding.fix.startswith("write rules below specs of a CiliumNetworkPolicy")
