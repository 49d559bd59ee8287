# SPDX-License-Identifier: Apache-2.0
"""The structural schema of ClusterNetworkPolicy (policy.networking.k8s.io/v1alpha2), with the parts it has as experimental."""

from __future__ import annotations

from typing import Final

from deploy.schema_parts import Schema, list_of, object_of, text_of

_ENTRIES: Final = {"minItems": 1, "maxItems": 25}
_ONE: Final = {"minProperties": 1, "maxProperties": 1}
_DOMAIN_NAME: Final = r"^(\*\.)?([a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.)+[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.?$"
_NO_PORT_NAMES: Final = (
    "!(self.to.exists(p, has(p.networks) || has(p.nodes) || has(p.domainNames)) && has(self.protocols)"
    " && self.protocols.exists(p, has(p.destinationNamedPort)))"
)


def _rule(rule: str, message: str) -> list[Schema]:
    return [{"rule": rule, "message": message}]


def _selector() -> Schema:
    expression = object_of(
        {"key": text_of(), "operator": text_of(), "values": list_of(text_of(), **{"x-kubernetes-list-type": "atomic"})},
        required=["key", "operator"],
    )
    return object_of(
        {
            "matchLabels": {"type": "object", "additionalProperties": text_of()},
            "matchExpressions": list_of(expression, **{"x-kubernetes-list-type": "atomic"}),
        },
        **{"x-kubernetes-map-type": "atomic"},
    )


def _pods() -> Schema:
    return object_of({"namespaceSelector": _selector(), "podSelector": _selector()}, required=["podSelector"])


def _number() -> Schema:
    return {"type": "integer", "format": "int32", "minimum": 1, "maximum": 65535}


def _protocols() -> Schema:
    ports = object_of({"start": _number(), "end": _number()}, required=["end", "start"])
    ports["x-kubernetes-validations"] = _rule("self.start < self.end", "start must be less than end")
    port = object_of({"number": _number(), "range": ports}, **_ONE)
    protocol = object_of({"destinationPort": port}, minProperties=1)
    named = {"destinationNamedPort": text_of()}
    return list_of(object_of({**dict.fromkeys(("tcp", "udp", "sctp"), protocol), **named}, **_ONE), **_ENTRIES)


def _peers(*, is_egress: bool) -> Schema:
    kinds: Schema = {"namespaces": _selector(), "pods": _pods()}
    if is_egress:
        network = text_of(maxLength=43, format="cidr")  # upstream's CEL function for it needs Kubernetes 1.31
        as_set = {**_ENTRIES, "x-kubernetes-list-type": "set"}
        kinds["nodes"] = _selector()
        kinds["networks"] = list_of(network, **as_set)
        kinds["domainNames"] = list_of(text_of(pattern=_DOMAIN_NAME), **as_set)
    return list_of(object_of(kinds, **_ONE), **_ENTRIES)


def _rules(word: str) -> Schema:
    rule = object_of(
        {
            "name": text_of(maxLength=100),
            "action": text_of(enum=["Accept", "Deny", "Pass"]),
            word: _peers(is_egress=word == "to"),
            "protocols": _protocols(),
        },
        required=["action", word],
    )
    if word == "to":
        text = "networks, nodes and domainNames cannot stand with destinationNamedPort: only pods have port names"
        rule["x-kubernetes-validations"] = _rule(_NO_PORT_NAMES, text)
    return list_of(rule, maxItems=25)


def _conditions() -> Schema:
    condition = object_of(
        {
            "lastTransitionTime": text_of(format="date-time"),
            "message": text_of(maxLength=32768),
            "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
            "reason": text_of(minLength=1, maxLength=1024, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"),
            "status": text_of(enum=["True", "False", "Unknown"]),
            "type": text_of(maxLength=316),
        },
        required=["lastTransitionTime", "message", "reason", "status", "type"],
    )
    return list_of(condition, **{"x-kubernetes-list-map-keys": ["type"], "x-kubernetes-list-type": "map"})


def tiered_policy() -> Schema:
    """The whole document."""
    spec = object_of(
        {
            "tier": text_of(enum=["Admin", "Baseline"]),
            "priority": {"type": "integer", "format": "int32", "minimum": 0, "maximum": 1000},
            "subject": object_of({"namespaces": _selector(), "pods": _pods()}, **_ONE),
            "ingress": _rules("from"),
            "egress": _rules("to"),
        },
        required=["priority", "subject", "tier"],
    )
    return object_of(
        {"spec": spec, "status": object_of({"conditions": _conditions()}, required=["conditions"])}, required=["spec"]
    )
