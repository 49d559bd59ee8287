# SPDX-License-Identifier: Apache-2.0
"""The CRDs of policies refuse what the parser refuses for its fields, before it is stored, and nothing that is valid."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest
import yaml

from deploy.policy_schema import SCHEMAS, render
from lab.devkube.api.structural import prune, violations
from meshpolicy import PolicyContext, PolicyError, parse_policy

FILES = {
    "CiliumNetworkPolicy": "ciliumnetworkpolicies.yaml",
    "CiliumClusterwideNetworkPolicy": "ciliumclusterwidenetworkpolicies.yaml",
    "CiliumCIDRGroup": "ciliumcidrgroups.yaml",
    "ClusterNetworkPolicy": "clusternetworkpolicies.yaml",
}
WEB = {"endpointSelector": {"matchLabels": {"app": "web"}}}


def read(name: str) -> str:
    return (files("deploy") / "crds" / name).read_text()


def schema_of(kind: str) -> dict[str, Any]:
    (version,) = yaml.safe_load(read(FILES[kind]))["spec"]["versions"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return schema


def complaints(document: dict[str, Any]) -> list[str]:
    """What an API server says about the document: fields it does not know, then values it refuses."""
    kept = yaml.safe_load(yaml.safe_dump(document))
    schema = schema_of(document["kind"])
    unknown = [f'unknown field "{path}"' for path in prune(schema, kept)]
    return unknown + [f"{cause.field}: {cause.text}" for cause in violations(schema, kept)]


def cnp(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "p"},
        "spec": {**WEB, **spec},
    }


def kcnp(**spec: Any) -> dict[str, Any]:
    whole = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, **spec}
    return {"kind": "ClusterNetworkPolicy", "metadata": {"name": "p"}, "spec": whole}


def tiered(**fields: Any) -> dict[str, Any]:
    return kcnp(egress=[{"action": "Deny", "to": [{"namespaces": {}}], **fields}])


def tcp(**port: Any) -> dict[str, Any]:
    return tiered(protocols=[{"tcp": {"destinationPort": port}}])


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_file_is_what_the_module_writes(name: str) -> None:
    assert read(name) == render(name, read(name))


REFUSED = {
    "a misspelt selector": (cnp(endpointSelector={"matchlabels": {"app": "web"}}, ingress=[{}]), "matchlabels"),
    "labels beside the selector": (cnp(ingress=[{"fromEndpoints": [{"app": "db"}]}]), "fromEndpoints[0].app"),
    "excepts": (cnp(egress=[{"toCIDRSet": [{"cidr": "0.0.0.0/0", "excepts": ["169.254.169.254/32"]}]}]), "excepts"),
    "a switch in capitals": (cnp(ingress=[{}], enableDefaultDeny={"Ingress": False}), "enableDefaultDeny.Ingress"),
    "a bare address": (cnp(egress=[{"toCIDR": ["10.0.0.1"]}]), "must be of type cidr"),
    "an unknown entity": (cnp(ingress=[{"fromEntities": ["wrold"]}]), "Unsupported value"),
    "no section": (cnp(), "must validate at least one schema"),
    "a cidr and a group": (
        cnp(egress=[{"toCIDRSet": [{"cidr": "10.0.0.0/8", "cidrGroupRef": "g"}]}]),
        "must validate one and only one schema",
    ),
    "a port without number": (cnp(ingress=[{"toPorts": [{"ports": [{"protocol": "TCP"}]}]}]), "at least one schema"),
    "a port of nothing": (cnp(ingress=[{"toPorts": [{"ports": [{}]}]}]), "at least one schema"),
    "a port as number": (cnp(ingress=[{"toPorts": [{"ports": [{"port": 80}]}]}]), "must be of type string"),
    "an end port too high": (
        cnp(ingress=[{"toPorts": [{"ports": [{"port": "80", "endPort": 70_000}]}]}]),
        "less than or equal to 65535",
    ),
    "41 ports": (cnp(ingress=[{"toPorts": [{"ports": [{"port": "80"}] * 41}]}]), "at most 40 items"),
    "an operator": (
        cnp(ingress=[{"fromEndpoints": [{"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}]}]),
        "Unsupported value",
    ),
    "nodes from a namespace": (
        {"kind": "CiliumNetworkPolicy", "metadata": {}, "spec": {"nodeSelector": {}, "ingress": [{}]}},
        "nodeSelector",
    ),
    "L7 rules that deny": (
        cnp(ingressDeny=[{"toPorts": [{"ports": [{"port": "80"}], "rules": {"http": [{}]}}]}]),
        "rules",
    ),
    "a group that is no list": (
        {"kind": "CiliumCIDRGroup", "metadata": {}, "spec": {"externalCIDRs": "10.0.0.0/8"}},
        "must be of type array",
    ),
}
TIERED_REFUSED = {
    "another tier": (kcnp(tier="Normal"), "Unsupported value"),
    "a priority above 1000": (kcnp(priority=1001), "less than or equal to 1000"),
    "a priority below 0": (kcnp(priority=-1), "greater than or equal to 0"),
    "no priority": (
        {"kind": "ClusterNetworkPolicy", "spec": {"tier": "Admin", "subject": {"pods": {}}}},
        "Required value",
    ),
    "two subjects": (kcnp(subject={"namespaces": {}, "pods": {"podSelector": {}}}), "at most 1 properties"),
    "a subject of nobody": (kcnp(subject={}), "at least 1 properties"),
    "pods without a selector": (kcnp(subject={"pods": {"namespaceSelector": {}}}), "Required value"),
    "another action": (tiered(action="Allow"), "Unsupported value"),
    "no peer": (tiered(to=[]), "at least 1 items"),
    "a peer of nobody": (tiered(to=[{}]), "at least 1 properties"),
    "two kinds in one peer": (tiered(to=[{"namespaces": {}, "nodes": {}}]), "at most 1 properties"),
    "26 rules": (kcnp(ingress=[{"action": "Deny", "from": [{"namespaces": {}}]}] * 26), "at most 25 items"),
    "26 networks": (tiered(to=[{"networks": [f"10.{n}.0.0/16" for n in range(26)]}]), "at most 25 items"),
    "no network": (tiered(to=[{"networks": ["10.0.0.1"]}]), "must be of type cidr"),
    "no name": (tiered(action="Accept", to=[{"domainNames": ["*example.org"]}]), "should match"),
    "networks on ingress": (kcnp(ingress=[{"action": "Deny", "from": [{"networks": ["::/0"]}]}]), "networks"),
    "a long name": (tiered(name="n" * 101), "at most 100 chars"),
    "a misspelt field": (tiered(protocol=[]), "protocol"),
    "a protocol without port": (tiered(protocols=[{"tcp": {}}]), "at least 1 properties"),
    "no protocols": (tiered(protocols=[]), "at least 1 items"),
    "port 0": (tcp(number=0), "greater than or equal to 1"),
    "a number and a range": (tcp(number=1, range={"start": 1, "end": 2}), "at most 1 properties"),
    "a range without end": (tcp(range={"start": 1}), "Required value"),
    "a port as text": (tcp(number="80"), "must be of type integer"),
}
BY_CEL = {
    "an empty range": tcp(range={"start": 80, "end": 80}),
    "a port name of a network": tiered(to=[{"networks": ["10.0.0.0/8"]}], protocols=[{"destinationNamedPort": "http"}]),
}
"""What the schema's CEL rules refuse; the lab's API server does not evaluate those."""


FAIL_CLOSED = {"a peer of nobody", "networks on ingress", "a misspelt field"}
"""What another version of the kind may have: the rule fails closed, and the policy says so."""


@pytest.mark.parametrize("name", TIERED_REFUSED)
def test_what_the_schema_refuses_of_a_tiered_policy_the_parser_refuses_or_closes(name: str) -> None:
    document, text = TIERED_REFUSED[name]
    assert text in "\n".join(complaints(document))
    whole = {"metadata": {"name": "p"}, **document}
    if name in FAIL_CLOSED:
        assert parse_policy(whole, PolicyContext("north")).problems
        return
    with pytest.raises(PolicyError):
        parse_policy(whole, PolicyContext("north"))


@pytest.mark.parametrize("name", BY_CEL)
def test_what_a_cel_rule_refuses_the_parser_refuses_too(name: str) -> None:
    assert complaints(BY_CEL[name]) == []
    with pytest.raises(PolicyError):
        parse_policy(BY_CEL[name], PolicyContext("north"))


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    document, text = REFUSED[name]
    assert text in "\n".join(complaints(document))


ACCEPTED: dict[str, Any] = {
    "an empty rule": cnp(ingress=[{}]),
    "host bits": cnp(egress=[{"toCIDR": ["10.1.2.3/8", "fd00::1/64"]}]),
    "ICMP by number and name": cnp(ingress=[{"icmps": [{"fields": [{"type": 8}, {"type": "EchoRequest"}]}]}]),
    "a protocol that has no ports": cnp(
        ingress=[{"toPorts": [{"ports": [{"protocol": "VRRP"}, {"port": "0", "protocol": "GRE"}]}]}]
    ),
    "port names": cnp(ingress=[{"toPorts": [{"ports": [{"port": "http-alt", "protocol": "TCP"}]}]}]),
    "HTTP": cnp(
        ingress=[{"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{"method": "GET"}]}}]}]
    ),
    "DNS": cnp(
        egress=[
            {"toPorts": [{"ports": [{"port": "53", "protocol": "ANY"}], "rules": {"dns": [{"matchPattern": "*"}]}}]}
        ]
    ),
    "names": cnp(egress=[{"toFQDNs": [{"matchName": "example.org"}, {"matchPattern": "*.example.org"}]}]),
    "services": cnp(egress=[{"toServices": [{"k8sService": {"serviceName": "a", "namespace": "b"}}]}]),
    "authentication": cnp(ingress=[{"fromEndpoints": [{}], "authentication": {"mode": "required"}}]),
    "a cluster": cnp(
        ingress=[{"fromEndpoints": [{"matchLabels": {"k8s:io.cilium.k8s.policy.cluster": "north", "app": "x"}}]}]
    ),
    "tiers": kcnp(
        ingress=[
            {
                "name": "metrics",
                "action": "Pass",
                "from": [{"pods": {"namespaceSelector": {"matchLabels": {"team": "red"}}, "podSelector": {}}}],
                "protocols": [{"tcp": {"destinationPort": {"range": {"start": 9000, "end": 9100}}}}],
            }
        ],
        egress=[
            {"action": "Accept", "to": [{"domainNames": ["*.example.org"]}, {"nodes": {}}]},
            {"action": "Deny", "to": [{"networks": ["0.0.0.0/0", "::/0"]}]},
        ],
    ),
    "tiers without rules": kcnp(tier="Baseline", priority=1000),
    "specs": {"kind": "CiliumNetworkPolicy", "metadata": {"name": "p"}, "specs": [{**WEB, "egressDeny": [{}]}]},
    "a host policy": {
        "kind": "CiliumClusterwideNetworkPolicy",
        "metadata": {"name": "p"},
        "spec": {"nodeSelector": {}, "ingress": [{"fromEntities": ["cluster"]}]},
    },
    "TLS": cnp(
        egress=[
            {"toPorts": [{"ports": [{"port": "443"}], "terminatingTLS": {"secret": {"name": "a", "namespace": "b"}}}]}
        ]
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted_by_the_schema_and_by_the_parser(name: str) -> None:
    assert complaints(ACCEPTED[name]) == []
    parse_policy(ACCEPTED[name], PolicyContext("north"))


def _fields(schema: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, inner in (schema.get("properties") or {}).items():
        here = (*path, name)
        found.append(here)
        found += _fields(inner, here) + _fields(inner.get("items") or {}, (*here, "[]"))
    return found


def _document_with(path: tuple[str, ...]) -> dict[str, Any]:
    """The smallest document that has this field: null in it, empty around it."""
    value: Any = None
    for part in reversed(path[1:]):
        value = [value] if part == "[]" else {part: value}
    return {"kind": "CiliumClusterwideNetworkPolicy", "metadata": {"name": "p"}, "spec": value}


@pytest.mark.parametrize("path", [p for p in _fields(schema_of("CiliumClusterwideNetworkPolicy")) if p[0] == "spec"])
def test_the_parser_knows_every_field_of_the_schema(path: tuple[str, ...]) -> None:
    try:
        parse_policy(_document_with(path), PolicyContext("north"))
        refusal = ""
    except PolicyError as exc:
        refusal = str(exc)
    assert "unknown field" not in refusal
