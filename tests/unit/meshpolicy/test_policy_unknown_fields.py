# SPDX-License-Identifier: Apache-2.0
"""A field or version that does not exist refuses its document, at every level, in a short message."""

from __future__ import annotations

from typing import Any

import pytest
from policy_documents import ALL, CONTEXT, TCP80, cnp, egress, ingress, netpol, ports

from meshpolicy import PolicyError, parse_cidr_group, parse_policy

UNKNOWN: dict[str, tuple[dict[str, Any], str]] = {
    "document": ({**cnp(**ALL, ingress=[{}]), "sepc": {}}, "sepc"),
    "spec": (cnp(**ALL, ingres=[{}], egress=[{}]), "spec.ingres"),
    "selector": (
        cnp(endpointSelector={"matchlabels": {"app": "web"}}, ingress=[{}]),
        "spec.endpointSelector.matchlabels",
    ),
    "peer": (ingress(fromEndpoints=[{"app": "db"}]), "spec.ingress[0].fromEndpoints[0].app"),
    "expression": (
        ingress(fromEndpoints=[{"matchExpressions": [{"key": "a", "operator": "Exists", "value": ["b"]}]}]),
        "spec.ingress[0].fromEndpoints[0].matchExpressions[0].value",
    ),
    "rule": (ingress(fromEndpoint=[{}]), "spec.ingress[0].fromEndpoint"),
    "deny rule": (cnp(**ALL, ingressDeny=[{"fromEndpoint": [{}]}]), "spec.ingressDeny[0].fromEndpoint"),
    "prefix": (egress(toCIDRSet=[{"cidr": "0.0.0.0/0", "excepts": []}]), "spec.egress[0].toCIDRSet[0].excepts"),
    "group selector": (
        egress(toCIDRSet=[{"cidrGroupSelector": {"matchLabel": {}}}]),
        "spec.egress[0].toCIDRSet[0].cidrGroupSelector.matchLabel",
    ),
    "name": (egress(toFQDNs=[{"matchname": "a.b"}]), "spec.egress[0].toFQDNs[0].matchname"),
    "service": (egress(toServices=[{"k8sservice": {}}]), "spec.egress[0].toServices[0].k8sservice"),
    "default deny": (cnp(**ALL, ingress=[{}], enableDefaultDeny={"Ingress": False}), "spec.enableDefaultDeny.Ingress"),
    "port rule": (ingress(toPorts=[{"port": []}]), "spec.ingress[0].toPorts[0].port"),
    "deny port rule": (
        cnp(**ALL, ingressDeny=[{"toPorts": [{"rules": {}}]}]),
        "spec.ingressDeny[0].toPorts[0].rules",
    ),
    "port": (ingress(toPorts=ports({"port": "80", "endport": 90})), "spec.ingress[0].toPorts[0].ports[0].endport"),
    "rules": (ingress(toPorts=ports(TCP80, rules={"HTTP": []})), "spec.ingress[0].toPorts[0].rules.HTTP"),
    "http": (
        ingress(toPorts=ports(TCP80, rules={"http": [{"paths": "/"}]})),
        "spec.ingress[0].toPorts[0].rules.http[0].paths",
    ),
    "header": (
        ingress(toPorts=ports(TCP80, rules={"http": [{"headerMatches": [{"name": "a", "values": "b"}]}]})),
        "spec.ingress[0].toPorts[0].rules.http[0].headerMatches[0].values",
    ),
    "ICMP": (
        ingress(icmps=[{"fields": [{"type": 8, "familiy": "IPv6"}]}]),
        "spec.ingress[0].icmps[0].fields[0].familiy",
    ),
    "authentication": (
        ingress(fromEndpoints=[{}], authentication={"mod": "disabled"}),
        "spec.ingress[0].authentication.mod",
    ),
    "log": (cnp(**ALL, ingress=[{}], log={"values": "x"}), "spec.log.values"),
    "Kubernetes document": (
        {"kind": "NetworkPolicy", "metadata": {"name": "p"}, "specs": {"podSelector": {}}},
        "specs",
    ),
    "Kubernetes spec": (netpol(podselector={}), "spec.podselector"),
    "Kubernetes rule": (netpol(ingress=[{"form": []}]), "spec.ingress[0].form"),
    "Kubernetes peer": (
        netpol(ingress=[{"from": [{"podSelector": {}, "nsSelector": {}}]}]),
        "spec.ingress[0].from[0].nsSelector",
    ),
    "Kubernetes block": (
        netpol(egress=[{"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "excepts": ["169.254.169.254/32"]}}]}]),
        "spec.egress[0].to[0].ipBlock.excepts",
    ),
    "Kubernetes port": (netpol(ingress=[{"ports": [{"ports": 80}]}]), "spec.ingress[0].ports[0].ports"),
}
"""One misspelt field per level of the languages, and its path."""


@pytest.mark.parametrize("level", UNKNOWN)
def test_a_misspelt_field_refuses_the_document_at_every_level(level: str) -> None:
    document, where = UNKNOWN[level]
    with pytest.raises(PolicyError, match="unknown field") as caught:
        parse_policy(document, CONTEXT)
    assert caught.value.where == where


def test_a_misspelt_field_is_told_what_was_meant() -> None:
    with pytest.raises(PolicyError, match="write matchLabels"):
        parse_policy(cnp(endpointSelector={"matchlabels": {"app": "web"}}, ingress=[{}]), CONTEXT)


@pytest.mark.parametrize(
    ("kind", "version"),
    [
        ("CiliumNetworkPolicy", "cilium.io/v3"),
        ("CiliumNetworkPolicy", "networking.k8s.io/v1"),
        ("NetworkPolicy", "extensions/v1beta1"),
        ("CiliumClusterwideNetworkPolicy", "v2"),
    ],
)
def test_another_version_is_refused(kind: str, version: str) -> None:
    spec = {"podSelector": {}} if kind == "NetworkPolicy" else {**ALL, "ingress": [{}]}
    with pytest.raises(PolicyError) as caught:
        parse_policy({"apiVersion": version, "kind": kind, "metadata": {"name": "p"}, "spec": spec}, CONTEXT)
    assert caught.value.where == "apiVersion"


def test_a_message_is_short_whatever_the_document_holds() -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy(ingress(**{"x" * 900_000: 1}), CONTEXT)
    assert len(str(caught.value)) < 1_000


def test_a_bad_prefix_of_a_group_is_left_out_and_named() -> None:
    document = {"metadata": {"name": "g"}, "spec": {"externalCIDRs": ["10.0.0.0/8", "x/8", 7, "192.0.2.1"]}}
    group = parse_cidr_group(document)
    assert [str(prefix) for prefix in group.prefixes] == ["10.0.0.0/8", "192.0.2.1/32"]
    assert [problem.partition(":")[0] for problem in group.problems] == [
        "spec.externalCIDRs[1]",
        "spec.externalCIDRs[2]",
    ]
