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

from deploy.schema_parts import Schema, list_of, object_of, text_of
from deploy.tiered_policy_schema import tiered_policy

_NAME_PATTERN: Final = r"^([-a-zA-Z0-9_]+[.]?)+$"
_DNS_PATTERN: Final = r"^(([-a-zA-Z0-9_*]+[.]?)+|\*\*\.([-a-zA-Z0-9_*]+[.]?)*)$"
_SERVER_LABEL: Final = r"([*]{1,2}|[*]?[-a-zA-Z0-9_]+([*][-a-zA-Z0-9_]+)*[*]?)"
_SERVER_PATTERN: Final = rf"^{_SERVER_LABEL}([.]{_SERVER_LABEL})*[.]?$"
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


def _exactly_one(*names: str) -> list[Schema]:
    return [{"properties": {name: {}}, "required": [name]} for name in names]


def selector() -> Schema:
    """A label selector; keys may have a source ("k8s:app")."""
    expression = object_of(
        {
            "key": text_of(),
            "operator": text_of(enum=["In", "NotIn", "Exists", "DoesNotExist"]),
            "values": list_of(text_of()),
        },
        required=["key", "operator"],
    )
    value = text_of(maxLength=63, pattern=_LABEL_VALUE_PATTERN)
    return object_of(
        {"matchLabels": {"type": "object", "additionalProperties": value}, "matchExpressions": list_of(expression)},
    )


def _prefix_rule() -> Schema:
    return object_of(
        {
            "cidr": text_of(format="cidr"),
            "cidrGroupRef": text_of(
                maxLength=253, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
            ),
            "cidrGroupSelector": selector(),
            "except": list_of(text_of(format="cidr")),
        },
        oneOf=_exactly_one("cidr", "cidrGroupRef", "cidrGroupSelector"),
    )


def _dns_name(**more: Any) -> Schema:
    return object_of(
        {
            "matchName": text_of(maxLength=255, pattern=_NAME_PATTERN),
            "matchPattern": text_of(maxLength=255, pattern=_DNS_PATTERN),
        },
        **more,
    )


def _secret() -> Schema:
    return object_of({"namespace": text_of(), "name": text_of()}, required=["name"])


def _tls() -> Schema:
    return object_of(
        {"secret": _secret(), "trustedCA": text_of(), "certificate": text_of(), "privateKey": text_of()},
        required=["secret"],
    )


def _l7_rules() -> Schema:
    header = object_of(
        {
            "name": text_of(minLength=1),
            "value": text_of(),
            "mismatch": text_of(enum=["LOG", "ADD", "DELETE", "REPLACE"]),
            "secret": _secret(),
        },
        required=["name"],
    )
    http = object_of(
        {
            "path": text_of(),
            "method": text_of(),
            "host": text_of(),
            "headers": list_of(text_of()),
            "headerMatches": list_of(header),
        }
    )
    kafka = object_of({name: text_of() for name in ("role", "apiKey", "apiVersion", "clientID", "topic")})
    return object_of(
        {
            "http": list_of(http),
            "kafka": list_of(kafka),
            "dns": list_of(_dns_name()),
            "l7proto": text_of(),
            "l7": list_of({"type": "object", "additionalProperties": text_of()}),
        }
    )


def _port() -> Schema:
    return object_of(
        {
            "port": text_of(pattern=_PORT_PATTERN),
            "endPort": {"type": "integer", "format": "int32", "minimum": 0, "maximum": 65535},
            "protocol": text_of(enum=_PROTOCOLS),
        },
        anyOf=[
            {"properties": {"port": {}}, "required": ["port"]},
            {"properties": {"protocol": {"enum": _PROTOCOLS_WITHOUT_PORTS}}, "required": ["protocol"]},
        ],
    )


def _port_rule(*, is_deny: bool) -> Schema:
    ports = {"ports": list_of(_port(), maxItems=MAXIMUM_PORTS)}
    if is_deny:
        return object_of(ports)
    config = object_of(
        {"kind": text_of(enum=["CiliumEnvoyConfig", "CiliumClusterwideEnvoyConfig"]), "name": text_of(minLength=1)},
        required=["name"],
    )
    listener = object_of(
        {
            "envoyConfig": config,
            "name": text_of(minLength=1),
            "priority": {"type": "integer", "minimum": 1, "maximum": 100},
        },
        required=["envoyConfig", "name"],
    )
    return object_of(
        {
            **ports,
            "rules": _l7_rules(),
            "listener": listener,
            "serverNames": list_of(text_of(minLength=1, maxLength=255, pattern=_SERVER_PATTERN)),
            "terminatingTLS": _tls(),
            "originatingTLS": _tls(),
        }
    )


def _icmp_rule() -> Schema:
    field = object_of(
        {
            "family": text_of(enum=["IPv4", "IPv6"], default="IPv4"),
            "type": {
                "anyOf": [{"type": "integer"}, {"type": "string"}],
                "pattern": _ICMP_NAME,
                "x-kubernetes-int-or-string": True,
            },
        },
        required=["type"],
    )
    return object_of({"fields": list_of(field, maxItems=MAXIMUM_PORTS)})


def _services() -> Schema:
    by_name = object_of({"serviceName": text_of(), "namespace": text_of()})
    by_label = object_of({"selector": selector(), "namespace": text_of()}, required=["selector"])
    return list_of(object_of({"k8sService": by_name, "k8sServiceSelector": by_label}))


def _groups() -> Schema:
    aws = object_of(
        {
            "labels": {"type": "object", "additionalProperties": text_of()},
            "region": text_of(),
            "securityGroupsIds": list_of(text_of()),
            "securityGroupsNames": list_of(text_of()),
        }
    )
    return list_of(object_of({"aws": aws}))


def rule(word: str, *, is_deny: bool) -> Schema:
    """One entry of ingress ("from") or egress ("to"), or of their Deny lists."""
    properties: Schema = {
        f"{word}Endpoints": list_of(selector()),
        f"{word}CIDR": list_of(text_of(format="cidr")),
        f"{word}CIDRSet": list_of(_prefix_rule()),
        f"{word}Entities": list_of(text_of(enum=_ENTITIES)),
        f"{word}Nodes": list_of(selector()),
        f"{word}Groups": _groups(),
        "toPorts": list_of(_port_rule(is_deny=is_deny)),
        "icmps": list_of(_icmp_rule()),
    }
    if word == "to":
        properties["toServices"] = _services()
    if not is_deny:
        properties["authentication"] = object_of(
            {"mode": text_of(enum=["disabled", "required", "test-always-fail"])}, required=["mode"]
        )
        if word == "to":
            properties["toFQDNs"] = list_of(_dns_name(oneOf=_exactly_one("matchName", "matchPattern")))
    return object_of(properties)


def spec(*, is_clusterwide: bool) -> Schema:
    """One rule set: whom it is about, and what it allows and denies."""
    sections = {
        "ingress": rule("from", is_deny=False),
        "ingressDeny": rule("from", is_deny=True),
        "egress": rule("to", is_deny=False),
        "egressDeny": rule("to", is_deny=True),
    }
    subjects = ("endpointSelector", "nodeSelector") if is_clusterwide else ("endpointSelector",)
    label = object_of({"key": text_of(), "value": text_of(), "source": text_of()}, required=["key"])
    return object_of(
        {
            **{name: selector() for name in subjects},
            **{name: list_of(section) for name, section in sections.items()},
            "enableDefaultDeny": object_of({"ingress": {"type": "boolean"}, "egress": {"type": "boolean"}}),
            "labels": list_of(label),
            "description": text_of(),
            "log": object_of({"value": text_of(maxLength=32)}),
        },
        anyOf=_exactly_one(*sections),
        oneOf=_exactly_one(*subjects),
    )


def policy(*, is_clusterwide: bool) -> Schema:
    """The whole document of a policy kind. `status` is the agents' own."""
    one = spec(is_clusterwide=is_clusterwide)
    status = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return object_of({"spec": one, "specs": list_of(one), "status": status})


def cidr_group() -> Schema:
    """A CiliumCIDRGroup."""
    prefixes = list_of(text_of(format="cidr"), minItems=0)
    return object_of({"spec": object_of({"externalCIDRs": prefixes}, required=["externalCIDRs"])}, required=["spec"])


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
