# SPDX-License-Identifier: Apache-2.0
"""The structural schema of ClusterNetworkPolicy (policy.networking.k8s.io/v1alpha2), with the parts it has as experimental."""

from __future__ import annotations

from typing import Any, Final

Schema = dict[str, Any]
_ENTRIES: Final = {"minItems": 1, "maxItems": 25}
_ONE: Final = {"minProperties": 1, "maxProperties": 1}
_DOMAIN_NAME: Final = r"^(\*\.)?([a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.)+[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.?$"
_NO_PORT_NAMES: Final = (
    "!(self.to.exists(p, has(p.networks) || has(p.nodes) || has(p.domainNames)) && has(self.protocols)"
    " && self.protocols.exists(p, has(p.destinationNamedPort)))"
)


def _object(properties: Schema, *, required: list[str] | None = None, **more: Any) -> Schema:
    return {"type": "object", "properties": properties, **({"required": required} if required else {}), **more}


def _list(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def _text(**more: Any) -> Schema:
    return {"type": "string", **more}


def _rule(rule: str, message: str) -> list[Schema]:
    return [{"rule": rule, "message": message}]


def _selector() -> Schema:
    expression = _object(
        {"key": _text(), "operator": _text(), "values": _list(_text(), **{"x-kubernetes-list-type": "atomic"})},
        required=["key", "operator"],
    )
    return _object(
        {
            "matchLabels": {"type": "object", "additionalProperties": _text()},
            "matchExpressions": _list(expression, **{"x-kubernetes-list-type": "atomic"}),
        },
        **{"x-kubernetes-map-type": "atomic"},
    )


def _pods() -> Schema:
    return _object({"namespaceSelector": _selector(), "podSelector": _selector()}, required=["podSelector"])


def _number() -> Schema:
    return {"type": "integer", "format": "int32", "minimum": 1, "maximum": 65535}


def _protocols() -> Schema:
    ports = _object({"start": _number(), "end": _number()}, required=["end", "start"])
    ports["x-kubernetes-validations"] = _rule("self.start < self.end", "start must be less than end")
    port = _object({"number": _number(), "range": ports}, **_ONE)
    protocol = _object({"destinationPort": port}, minProperties=1)
    named = {"destinationNamedPort": _text()}
    return _list(_object({**dict.fromkeys(("tcp", "udp", "sctp"), protocol), **named}, **_ONE), **_ENTRIES)


def _peers(*, is_egress: bool) -> Schema:
    kinds: Schema = {"namespaces": _selector(), "pods": _pods()}
    if is_egress:
        network = _text(maxLength=43, format="cidr")  # upstream's CEL function for it needs Kubernetes 1.31
        as_set = {**_ENTRIES, "x-kubernetes-list-type": "set"}
        kinds["nodes"] = _selector()
        kinds["networks"] = _list(network, **as_set)
        kinds["domainNames"] = _list(_text(pattern=_DOMAIN_NAME), **as_set)
    return _list(_object(kinds, **_ONE), **_ENTRIES)


def _rules(word: str) -> Schema:
    rule = _object(
        {
            "name": _text(maxLength=100),
            "action": _text(enum=["Accept", "Deny", "Pass"]),
            word: _peers(is_egress=word == "to"),
            "protocols": _protocols(),
        },
        required=["action", word],
    )
    if word == "to":
        text = "networks, nodes and domainNames cannot stand with destinationNamedPort: only pods have port names"
        rule["x-kubernetes-validations"] = _rule(_NO_PORT_NAMES, text)
    return _list(rule, maxItems=25)


def _conditions() -> Schema:
    condition = _object(
        {
            "lastTransitionTime": _text(format="date-time"),
            "message": _text(maxLength=32768),
            "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
            "reason": _text(minLength=1, maxLength=1024, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"),
            "status": _text(enum=["True", "False", "Unknown"]),
            "type": _text(maxLength=316),
        },
        required=["lastTransitionTime", "message", "reason", "status", "type"],
    )
    return _list(condition, **{"x-kubernetes-list-map-keys": ["type"], "x-kubernetes-list-type": "map"})


def tiered_policy() -> Schema:
    """The whole document."""
    spec = _object(
        {
            "tier": _text(enum=["Admin", "Baseline"]),
            "priority": {"type": "integer", "format": "int32", "minimum": 0, "maximum": 1000},
            "subject": _object({"namespaces": _selector(), "pods": _pods()}, **_ONE),
            "ingress": _rules("from"),
            "egress": _rules("to"),
        },
        required=["priority", "subject", "tier"],
    )
    return _object(
        {"spec": spec, "status": _object({"conditions": _conditions()}, required=["conditions"])}, required=["spec"]
    )
