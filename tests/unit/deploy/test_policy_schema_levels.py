# SPDX-License-Identifier: Apache-2.0
"""At every level that the schemas of policies have, an unknown field refuses the document: by the API server, and by us.

Objects come from older API servers, too. The levels are read off the schemas, so that a new one is tried.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Final

import pytest

from deploy.policy_schema import SCHEMAS
from lab.devkube.api.structural import prune, violations
from meshpolicy import PolicyContext, PolicyError, parse_cidr_group, parse_policy

Level = tuple[str, ...]
NORTH: Final = PolicyContext("north")
UNKNOWN: Final = "anotherField"
VALUES: Final[dict[str, Any]] = {
    "action": "Accept", "cidr": "10.0.0.0/8", "key": "a", "kind": "CiliumEnvoyConfig", "matchName": "example.org",
    "mode": "disabled", "name": "a", "namespace": "b", "number": 80, "operator": "Exists", "port": "80", "priority": 1,
    "serviceName": "a", "start": 80, "end": 90, "tier": "Admin", "type": 8, "protocol": "TCP", "topic": "a", "value": "b",
    "externalCIDRs": ["10.0.0.0/8"], "namespaces": {}, "from": [{"namespaces": {}}], "to": [{"namespaces": {}}],
    "selector": {}, "subject": {"namespaces": {}}, "aws": {"region": "a"}, "secret": {"name": "a", "namespace": "b"},
    "podSelector": {}, "namespaceSelector": {}, "destinationPort": {"number": 80}, "endpointSelector": {},
    "envoyConfig": {"name": "a"}, "method": "GET", "region": "a", "ingress": [{}], "k8sService": {"serviceName": "a"},
    "nodeSelector": {}, "tcp": {"destinationPort": {"number": 80}}, "ports": [{"port": "80", "protocol": "TCP"}],
}  # fmt: skip
"""What stands in a field that has to be there."""
NEEDED: Final[dict[str, tuple[str, ...]]] = {
    "fromCIDRSet": ("cidr",), "toCIDRSet": ("cidr",), "toFQDNs": ("matchName",), "dns": ("matchName",),
    "destinationPort": ("number",), "k8sService": ("serviceName",), "subject": ("namespaces",), "pods": ("podSelector",),
    "spec": ("endpointSelector", "ingress"), "specs": ("endpointSelector", "ingress"), "toServices": ("k8sService",),
    "from": ("namespaces",), "to": ("namespaces",), "toPorts": ("ports",), "headerMatches": ("value",),
    "secret": ("namespace",), "fields": ("type",), "ports": ("port",), "protocols": ("tcp",), "range": ("start", "end"),
    "tcp": ("destinationPort",), "udp": ("destinationPort",), "sctp": ("destinationPort",),
    "kafka": ("topic",), "log": ("value",), "aws": ("region",), "terminatingTLS": ("secret",),
}  # fmt: skip
"""What an object of this name has beside what its schema requires; of several of a kind that exclude each other, one."""
KINDS: Final = {
    "ciliumnetworkpolicies.yaml": "CiliumNetworkPolicy",
    "ciliumclusterwidenetworkpolicies.yaml": "CiliumClusterwideNetworkPolicy",
    "ciliumcidrgroups.yaml": "CiliumCIDRGroup",
    "clusternetworkpolicies.yaml": "ClusterNetworkPolicy",
}
FEWEST: Final = dict.fromkeys(KINDS, 190) | {"ciliumcidrgroups.yaml": 2, "clusternetworkpolicies.yaml": 50}
"""How many levels there are, so that no mistake here leaves them out."""
ON_INGRESS: Final = "on ingress"
"""The schema has DNS rules and listeners there, the parser has not, whatever they say."""
EXCLUSIVE: Final = frozenset(
    {"toCIDRSet", "fromCIDRSet", "destinationPort", "subject", "from", "to", "protocols", "toServices"}
)
"""Objects of which one field alone may be there."""


def levels(schema: dict[str, Any], path: Level = ()) -> Iterator[Level]:
    """Every object of the schema whose fields it names; "[]" is an entry of a list."""
    if "properties" in schema:
        yield path
    for name, inner in (schema.get("properties") or {}).items():
        yield from levels(inner, (*path, name))
    if "items" in schema:
        yield from levels(schema["items"], (*path, "[]"))


def instance(schema: dict[str, Any], path: Level, name: str, place: list[Any]) -> Any:
    """The smallest valid value of a schema that has the level; the level itself is appended to `place`."""
    if "items" in schema:
        return [instance(schema["items"], path[1:], name, place)]
    found: dict[str, Any] = {}
    given = (*(schema.get("required") or ()), *NEEDED.get(name, ()))
    if path and name in EXCLUSIVE:
        given = ()
    known = set(given) & schema["properties"].keys() - {*path[:1], "spec"}
    if "endpointSelector" not in schema["properties"]:
        known -= {"ingress"}
    found.update({field: copy.deepcopy(VALUES[field]) for field in known})
    if path:
        if path[0] == "nodeSelector":
            del found["endpointSelector"]
        found[path[0]] = instance(schema["properties"][path[0]], path[1:], path[0], place)
    else:
        place.append(found)
    return found


def document_with(kind: str, schema: dict[str, Any], level: Level) -> tuple[dict[str, Any], dict[str, Any]]:
    """A document with this level, and the object in it that is the level."""
    place: list[Any] = []
    document = instance(schema, level, "", place)
    version = "policy.networking.k8s.io/v1alpha2" if kind == "ClusterNetworkPolicy" else "cilium.io/v2"
    metadata = {"name": "p"} | ({"namespace": "default"} if kind == "CiliumNetworkPolicy" else {})
    document |= {"apiVersion": version, "kind": kind, "metadata": metadata}
    if level[:1] not in (("spec",), ("specs",)):
        document["spec"] = instance(schema["properties"]["spec"], (), "spec", [])
    return document, place[0]


def refusal_of(document: dict[str, Any]) -> str:
    """Why our parser refuses the document, or a tiered one in part, which fails closed; empty if it does neither."""
    try:
        if document["kind"] == "CiliumCIDRGroup":
            parse_cidr_group(document)
            return ""
        found = parse_policy(document, NORTH)
    except PolicyError as exc:
        return str(exc)
    return "; ".join(found.problems) if document["kind"] == "ClusterNetworkPolicy" else ""


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_unknown_field_refuses_the_document_at_every_level(name: str) -> None:
    schema, kind, found = SCHEMAS[name], KINDS[name], list[str]()
    tried = [level for level in levels(schema) if level[:1] != ("status",)]
    for level in tried:
        document, place = document_with(kind, schema, level)
        assert (prune(schema, copy.deepcopy(document)), [*violations(schema, document)]) == ([], []), level
        before = refusal_of(document)
        place[UNKNOWN] = {}
        assert len(prune(schema, copy.deepcopy(document))) == 1, level
        after = refusal_of(document)
        if UNKNOWN not in after and ON_INGRESS not in before:
            found.append(f"{'.'.join(level)}: {after or 'accepted'}")
    assert found == []
    assert len(tried) >= FEWEST[name]
