# SPDX-License-Identifier: Apache-2.0
"""The structural schemas of the policy CRDs, as data: `python -m deploy.policy_schema` writes them into deploy/crds.

They let the API server refuse a document as it does on Cilium (fields, enumerations, formats, bounds), before any agent
reads it. A test compares the files with this module, and every field here with what the parser reads.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import yaml

from deploy.tiered_policy_schema import tiered_policy

Schema = dict[str, Any]
_NAME_PATTERN: Final = r"^([-a-zA-Z0-9_]+[.]?)+$"
_DNS_PATTERN: Final = r"^(([-a-zA-Z0-9_*]+[.]?)+|\*\*\.([-a-zA-Z0-9_*]+[.]?)*)$"
_PORT_NUMBER: Final = r"6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[0-9]{1,4}"
_PORT_PATTERN: Final = rf"^({_PORT_NUMBER})|([a-zA-Z0-9]-?)*[a-zA-Z](-?[a-zA-Z0-9])*$"
_LABEL_VALUE_PATTERN: Final = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"
_ICMP_NAME: Final = r"^([0-9]|[1-9][0-9]|1[0-9][0-9]|2[0-4][0-9]|25[0-5]|[A-Z][A-Za-z0-9]*)$"
_ENTITIES: Final = [
    "all", "world", "world-ipv4", "world-ipv6", "cluster", "host", "init", "ingress", "unmanaged", "remote-node",
    "health", "none", "kube-apiserver",
]  # fmt: skip
_PROTOCOLS_WITHOUT_PORTS: Final = ["VRRP", "IGMP", "GRE", "IPIP", "IPV6", "ESP", "AH"]
_PROTOCOLS: Final = ["TCP", "UDP", "SCTP", *_PROTOCOLS_WITHOUT_PORTS, "ANY"]
MAXIMUM_PORTS: Final = 40


def _object(properties: Schema, *, required: list[str] | None = None, **more: Any) -> Schema:
    return {"type": "object", "properties": properties, **({"required": required} if required else {}), **more}


def _list(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def _text(**more: Any) -> Schema:
    return {"type": "string", **more}


def _exactly_one(*names: str) -> list[Schema]:
    return [{"properties": {name: {}}, "required": [name]} for name in names]


def selector() -> Schema:
    """A label selector; keys may have a source ("k8s:app")."""
    expression = _object(
        {
            "key": _text(),
            "operator": _text(enum=["In", "NotIn", "Exists", "DoesNotExist"]),
            "values": _list(_text()),
        },
        required=["key", "operator"],
    )
    value = _text(maxLength=63, pattern=_LABEL_VALUE_PATTERN)
    return _object(
        {"matchLabels": {"type": "object", "additionalProperties": value}, "matchExpressions": _list(expression)},
    )


def _prefix_rule() -> Schema:
    return _object(
        {
            "cidr": _text(format="cidr"),
            "cidrGroupRef": _text(
                maxLength=253, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
            ),
            "cidrGroupSelector": selector(),
            "except": _list(_text(format="cidr")),
        },
        oneOf=_exactly_one("cidr", "cidrGroupRef", "cidrGroupSelector"),
    )


def _dns_name(**more: Any) -> Schema:
    return _object(
        {
            "matchName": _text(maxLength=255, pattern=_NAME_PATTERN),
            "matchPattern": _text(maxLength=255, pattern=_DNS_PATTERN),
        },
        **more,
    )


def _secret() -> Schema:
    return _object({"namespace": _text(), "name": _text()}, required=["name"])


def _tls() -> Schema:
    return _object(
        {"secret": _secret(), "trustedCA": _text(), "certificate": _text(), "privateKey": _text()}, required=["secret"]
    )


def _l7_rules() -> Schema:
    header = _object(
        {
            "name": _text(minLength=1),
            "value": _text(),
            "mismatch": _text(enum=["LOG", "ADD", "DELETE", "REPLACE"]),
            "secret": _secret(),
        },
        required=["name"],
    )
    http = _object(
        {
            "path": _text(),
            "method": _text(),
            "host": _text(),
            "headers": _list(_text()),
            "headerMatches": _list(header),
        }
    )
    kafka = _object({name: _text() for name in ("role", "apiKey", "apiVersion", "clientID", "topic")})
    return _object(
        {
            "http": _list(http),
            "kafka": _list(kafka),
            "dns": _list(_dns_name()),
            "l7proto": _text(),
            "l7": _list({"type": "object", "additionalProperties": _text()}),
        }
    )


def _port() -> Schema:
    return _object(
        {
            "port": _text(pattern=_PORT_PATTERN),
            "endPort": {"type": "integer", "format": "int32", "minimum": 0, "maximum": 65535},
            "protocol": _text(enum=_PROTOCOLS),
        },
        anyOf=[
            {"properties": {"port": {}}, "required": ["port"]},
            {"properties": {"protocol": {"enum": _PROTOCOLS_WITHOUT_PORTS}}, "required": ["protocol"]},
        ],
    )


def _port_rule(*, is_deny: bool) -> Schema:
    ports = {"ports": _list(_port(), maxItems=MAXIMUM_PORTS)}
    if is_deny:
        return _object(ports)
    config = _object(
        {"kind": _text(enum=["CiliumEnvoyConfig", "CiliumClusterwideEnvoyConfig"]), "name": _text(minLength=1)},
        required=["name"],
    )
    listener = _object(
        {
            "envoyConfig": config,
            "name": _text(minLength=1),
            "priority": {"type": "integer", "minimum": 1, "maximum": 100},
        },
        required=["envoyConfig", "name"],
    )
    return _object(
        {
            **ports,
            "rules": _l7_rules(),
            "listener": listener,
            "serverNames": _list(_text(minLength=1)),
            "terminatingTLS": _tls(),
            "originatingTLS": _tls(),
        }
    )


def _icmp_rule() -> Schema:
    field = _object(
        {
            "family": _text(enum=["IPv4", "IPv6"], default="IPv4"),
            "type": {
                "anyOf": [{"type": "integer"}, {"type": "string"}],
                "pattern": _ICMP_NAME,
                "x-kubernetes-int-or-string": True,
            },
        },
        required=["type"],
    )
    return _object({"fields": _list(field, maxItems=MAXIMUM_PORTS)})


def _services() -> Schema:
    by_name = _object({"serviceName": _text(), "namespace": _text()})
    by_label = _object({"selector": selector(), "namespace": _text()}, required=["selector"])
    return _list(_object({"k8sService": by_name, "k8sServiceSelector": by_label}))


def _groups() -> Schema:
    aws = _object(
        {
            "labels": {"type": "object", "additionalProperties": _text()},
            "region": _text(),
            "securityGroupsIds": _list(_text()),
            "securityGroupsNames": _list(_text()),
        }
    )
    return _list(_object({"aws": aws}))


def rule(word: str, *, is_deny: bool) -> Schema:
    """One entry of ingress ("from") or egress ("to"), or of their Deny lists."""
    properties: Schema = {
        f"{word}Endpoints": _list(selector()),
        f"{word}CIDR": _list(_text(format="cidr")),
        f"{word}CIDRSet": _list(_prefix_rule()),
        f"{word}Entities": _list(_text(enum=_ENTITIES)),
        f"{word}Nodes": _list(selector()),
        f"{word}Groups": _groups(),
        "toPorts": _list(_port_rule(is_deny=is_deny)),
        "icmps": _list(_icmp_rule()),
    }
    if word == "to":
        properties["toServices"] = _services()
    if not is_deny:
        properties["authentication"] = _object(
            {"mode": _text(enum=["disabled", "required", "test-always-fail"])}, required=["mode"]
        )
        if word == "to":
            properties["toFQDNs"] = _list(_dns_name(oneOf=_exactly_one("matchName", "matchPattern")))
    return _object(properties)


def spec(*, is_clusterwide: bool) -> Schema:
    """One rule set: whom it is about, and what it allows and denies."""
    sections = {
        "ingress": rule("from", is_deny=False),
        "ingressDeny": rule("from", is_deny=True),
        "egress": rule("to", is_deny=False),
        "egressDeny": rule("to", is_deny=True),
    }
    subjects = ("endpointSelector", "nodeSelector") if is_clusterwide else ("endpointSelector",)
    label = _object({"key": _text(), "value": _text(), "source": _text()}, required=["key"])
    return _object(
        {
            **{name: selector() for name in subjects},
            **{name: _list(section) for name, section in sections.items()},
            "enableDefaultDeny": _object({"ingress": {"type": "boolean"}, "egress": {"type": "boolean"}}),
            "labels": _list(label),
            "description": _text(),
            "log": _object({"value": _text(maxLength=32)}),
        },
        anyOf=_exactly_one(*sections),
        oneOf=_exactly_one(*subjects),
    )


def policy(*, is_clusterwide: bool) -> Schema:
    """The whole document of a policy kind. `status` is the agents' own."""
    one = spec(is_clusterwide=is_clusterwide)
    status = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return _object({"spec": one, "specs": _list(one), "status": status})


def cidr_group() -> Schema:
    """A CiliumCIDRGroup."""
    prefixes = _list(_text(format="cidr"), minItems=0)
    return _object({"spec": _object({"externalCIDRs": prefixes}, required=["externalCIDRs"])}, required=["spec"])


SCHEMAS: Final[dict[str, Schema]] = {
    "ciliumnetworkpolicies.yaml": policy(is_clusterwide=False),
    "ciliumclusterwidenetworkpolicies.yaml": policy(is_clusterwide=True),
    "ciliumcidrgroups.yaml": cidr_group(),
    "clusternetworkpolicies.yaml": tiered_policy(),
}
"""The schema of each file in deploy/crds that this module writes."""


class _Plain(yaml.SafeDumper):
    """Without anchors: the same part stands written out wherever it is used."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - the base class names it
        return True


def render(name: str, text: str) -> str:
    """The file with this module's schema in every version; everything else of it, comments included, as it stands."""
    head, mark, _ = text.partition("      openAPIV3Schema:\n")
    body = yaml.dump(SCHEMAS[name], Dumper=_Plain, sort_keys=False, width=110, default_flow_style=False)
    return head + mark + "".join(f"        {line}\n" for line in body.splitlines())


def main() -> None:
    """Write the files."""
    folder = Path(str(files("deploy") / "crds"))
    for name in SCHEMAS:
        path = folder / name
        path.write_text(render(name, path.read_text()))


if __name__ == "__main__":
    main()
