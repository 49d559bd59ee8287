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
    "a port without number": (cnp(ingress=[{"toPorts": [{"ports": [{"protocol": "TCP"}]}]}]), "Required value"),
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


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    document, text = REFUSED[name]
    assert text in "\n".join(complaints(document))


ACCEPTED: dict[str, Any] = {
    "an empty rule": cnp(ingress=[{}]),
    "host bits": cnp(egress=[{"toCIDR": ["10.1.2.3/8", "fd00::1/64"]}]),
    "ICMP by number and name": cnp(ingress=[{"icmps": [{"fields": [{"type": 8}, {"type": "EchoRequest"}]}]}]),
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
