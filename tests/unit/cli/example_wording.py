# SPDX-License-Identifier: Apache-2.0
"""Policies in words of our own that use the same features as a published one.

A row says `kind | uses`. Kinds: CNP, CCNP, NP, Group, and rules, which is a list of rules without an object around it. `uses` are
sentences with a semicolon between them: `for SUBJECT`, `doc ODDITY`, or a section (`in`, `out`, `in-deny`, `out-deny`) and the
parts of one rule joined by `+`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Fields = dict[str, Any]

_PORT = {"port": "4711", "protocol": "TCP"}
_CLUSTER = "io.cilium.k8s.policy.cluster"
_NAMESPACE = "k8s:io.kubernetes.pod.namespace"
_SECTIONS = {"in": "ingress", "out": "egress", "in-deny": "ingressDeny", "out-deny": "egressDeny"}


def _labels(**labels: str) -> Fields:
    return {"matchLabels": labels}


def _expression(key: str, operator: str, *values: str) -> Fields:
    return {"matchExpressions": [{"key": key, "operator": operator, **({"values": list(values)} if values else {})}]}


_PODS: Mapping[str, Any] = {
    "pods": [_labels(desk="tickets")],
    "any-pod": [{}],
    "pods-ns": [{"matchLabels": {_NAMESPACE: "harbour", "desk": "tickets"}}],
    "pods-ns-labels": [{"matchLabels": {"io.cilium.k8s.namespace.labels.quay": "east"}}],
    "pods-account": [{"matchLabels": {"io.cilium.k8s.policy.serviceaccount": "pilot"}}],
    "pods-cluster": [{"matchLabels": {_CLUSTER: "south", "desk": "tickets"}}],
    "pods-expr": [_expression(_NAMESPACE, "Exists"), _expression("desk", "In", "tickets", "cargo")],
    "pods-lower-in": [_expression("desk", "in", "tickets")],
    "pods-misplaced": [{"matchLabels": None, "desk": "tickets"}],
}
_PEERS: Mapping[str, tuple[str, Any]] = {
    "cidr": ("CIDR", ["198.51.100.0/24"]),
    "cidr-except": ("CIDRSet", [{"cidr": "198.51.0.0/16", "except": ["198.51.100.0/24"]}]),
    "group-ref": ("CIDRSet", [{"cidrGroupRef": "ferries"}]),
    "group-selector": ("CIDRSet", [{"cidrGroupSelector": _labels(of="ferries")}]),
    "nodes": ("Nodes", [_labels(deck="upper")]),
    "requires": ("Requires", [_labels(desk="tickets")]),
    "fqdn": ("FQDNs", [{"matchName": "tides.example"}]),
    "fqdn-pattern": ("FQDNs", [{"matchPattern": "*.tides.example"}]),
    "fqdn-deep": ("FQDNs", [{"matchPattern": "**.tides.example"}]),
    "service": ("Services", [{"k8sService": {"serviceName": "chandler", "namespace": "harbour"}}]),
    "service-labels": ("Services", [{"k8sServiceSelector": {"selector": _labels(trade="rope")}}]),
    "service-blank": ("Services", [{}]),
    "services-none": ("Services", []),
    "aws-group": ("Groups", [{"aws": {"securityGroupsIds": ["sg-1"]}}]),
}
_PORTS: Mapping[str, Any] = {
    "port": _PORT,
    "udp": {"port": "53", "protocol": "UDP"},
    "range": {**_PORT, "endPort": 4800},
    "port-0": {"port": "0", "protocol": "TCP"},
    "vrrp": {"protocol": "VRRP"},
    "bad-port": {"port": "ASK_SOMEBODY_WHICH_PORT_THIS_IS", "protocol": "TCP"},
}
_RULES: Mapping[str, Any] = {
    "http": {"http": [{"method": "GET", "path": "/tides"}]},
    "http-any": {"http": [{}]},
    "http-headers": {"http": [{"method": "PUT", "headers": ["X-Tide: high"]}]},
    "http-host": {"http": [{"host": "tides[.]example"}]},
    "http-capital": {"HTTP": [{"method": "GET"}]},
    "kafka-role": {"kafka": [{"role": "consume", "topic": "tides"}]},
    "kafka-key": {"kafka": [{"apiKey": "metadata"}, {"apiKey": "fetch", "topic": "tides"}]},
    "kafka-capital": {"kafka": [{"Role": "consume", "topic": "tides"}]},
    "l7proto": {"l7proto": "memcache", "l7": [{"command": "get"}]},
    "dns-all": {"dns": [{"matchPattern": "*"}]},
    "dns-names": {"dns": [{"matchName": "tides.example"}, {"matchPattern": "*.tides.example"}]},
    "dns-deep": {"dns": [{"matchPattern": "**.tides.example"}]},
}
_BESIDE_PORTS: Mapping[str, Fields] = {
    "sni": {"serverNames": ["tides.example"]},
    "listener": {"listener": {"envoyConfig": {"kind": "CiliumClusterwideEnvoyConfig", "name": "lock"}, "name": "gate"}},
    "tls": {
        "terminatingTLS": {"secret": {"namespace": "harbour", "name": "ours"}},
        "originatingTLS": {"secret": {"namespace": "harbour", "name": "theirs"}},
    },
}
_BESIDE_PEERS: Mapping[str, Fields] = {
    "none": {},
    "icmp": {"icmps": [{"fields": [{"type": 8, "family": "IPv4"}]}]},
    "icmp-both": {"icmps": [{"fields": [{"type": 8, "family": "IPv4"}, {"type": "EchoRequest", "family": "IPv6"}]}]},
    "authentication": {"authentication": {"mode": "required"}},
    "auth": {"auth": {"type": "null"}},
}
_SUBJECTS: Mapping[str, Fields] = {
    "pods": {"endpointSelector": _labels(desk="customs")},
    "all": {"endpointSelector": {}},
    "nodes": {"nodeSelector": _labels(deck="upper")},
    "all-nodes": {"nodeSelector": {}},
    "health": {"endpointSelector": {"matchLabels": {"reserved:health": ""}}},
    "init": {"endpointSelector": {"matchLabels": {"reserved:init": ""}}},
    "ingress": {"endpointSelector": _expression("reserved:ingress", "Exists")},
    "expr": {"endpointSelector": _expression(_NAMESPACE, "NotIn", "harbour")},
    "pods-of-cluster": {"endpointSelector": {"matchLabels": {_CLUSTER: "north", "desk": "customs"}}},
    "pod-selector": {"podSelector": _labels(desk="customs")},
}
_ODDITIES: Mapping[str, Callable[[Fields], Any]] = {
    "description beside spec": lambda document: document.update(description="of the harbour"),
    "description in metadata": lambda document: document["metadata"].update(description="of the harbour"),
    "apiversion": lambda document: document.update(apiversion=document.pop("apiVersion")),
    "v1": lambda document: document.update(apiVersion="cilium.io/v1"),
    "v2alpha1": lambda document: document.update(apiVersion="cilium.io/v2alpha1"),
    "extensions/v1beta1": lambda document: document.update(apiVersion="extensions/v1beta1"),
    "no list": lambda document: document["spec"].update(egress={"toCIDR": {"podSelector": {"ip": "198.51.100.1/32"}}}),
    "status": lambda document: document.update(status={"nodes": {"n1": {"ok": True}}}),
}


def document(kind: str, uses: str) -> Fields:
    """The policy as kubectl would be given it. Raises KeyError for a word that is not known here."""
    sentences = [sentence.strip() for sentence in uses.split(";")]
    made = _object(kind, sentences)
    for sentence in sentences:
        if sentence.startswith("doc "):
            _ODDITIES[sentence.removeprefix("doc ")](made)
    return made


def _object(kind: str, sentences: list[str]) -> Fields:
    if kind == "Group":
        spec = {"externalCIDRs": ["198.51.100.0/24", "203.0.113.0/24"]}
        return _named("cilium.io/v2", "CiliumCIDRGroup", spec=spec, labels={"of": "ferries"})
    if kind == "NP":
        rule = {"from": [{"podSelector": _labels(desk="tickets")}], "ports": [{"port": 4711, "protocol": "TCP"}]}
        spec = {"podSelector": _labels(desk="customs"), "ingress": [rule]}
        return _named("networking.k8s.io/v1", "NetworkPolicy", spec=spec)
    subject = next((s.removeprefix("for ") for s in sentences if s.startswith("for ")), "pods")
    spec = dict(_SUBJECTS[subject])
    for sentence in sentences:
        section, _, parts = sentence.partition(" ")
        if section in _SECTIONS:
            listed = spec.setdefault(_SECTIONS[section], [])
            if parts != "nothing":
                listed.append(_rule("from" if section.startswith("in") else "to", parts.split("+")))
    if kind == "rules":
        return _named("cilium.io/v2", "CiliumClusterwideNetworkPolicy", specs=[spec])
    long = {"CNP": "CiliumNetworkPolicy", "CCNP": "CiliumClusterwideNetworkPolicy"}[kind]
    return _named("cilium.io/v2", long, spec=spec)


def _named(version: str, kind: str, labels: Mapping[str, str] | None = None, **more: Any) -> Fields:
    metadata: Fields = {"name": "gangway", **({"labels": dict(labels)} if labels else {})}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **more}


def _rule(side: str, parts: list[str]) -> Fields:
    made: Fields = {}
    ports: list[Any] = []
    port_rule: Fields = {}
    for part in parts:
        if part in _PORTS:
            ports.append(_PORTS[part])
        elif part in _RULES:
            port_rule["rules"] = _RULES[part]
        elif part in _BESIDE_PORTS:
            port_rule.update(_BESIDE_PORTS[part])
        elif part in _PODS:
            made[f"{side}Endpoints"] = _PODS[part]
        elif part in _PEERS:
            name, value = _PEERS[part]
            made[f"{side}{name}"] = value
        elif part.startswith("entity:"):
            made[f"{side}Entities"] = part.removeprefix("entity:").split(",")
        else:
            made.update(_BESIDE_PEERS[part])
    if ports:
        made["toPorts"] = [{"ports": ports, **port_rule}]
    return made
