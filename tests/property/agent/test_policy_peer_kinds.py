# SPDX-License-Identifier: Apache-2.0
"""What a group, a DNS name or a Service stands for can be written out as ranges and pods, and policies mean the same by it.

Each seed mixes them with each other, with port names, and with policies of the other kinds; POLICY_KINDS_SEEDS=500 tries more.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Mapping
from typing import Any, Final

import pytest
from history_world import NORTH, SOUTH, TOLD, context_of
from kubernetes_histories import NAMESPACE_LABELS, kubernetes_spec
from policy_histories import APPS, CIDRS, GROUPS, HOSTS, NAMESPACES, NUMBERS, SERVICES, cilium_spec
from tiered_histories import tiered_spec

from meshmodel.identity import NumericIdentity, Reserved, world_of
from meshmodel.labels import pod_labels
from meshpolicy import Direction, Engine, ServicePeers, parse_cidr_group, parse_policy
from meshpolicy.dns_name import dns_rule
from meshpolicy.prefix import Cidr, parse_address, parse_prefix

SEEDS = int(os.environ.get("POLICY_KINDS_SEEDS", "40"))
KINDS: Final = {
    "CiliumNetworkPolicy": ("cilium.io/v2", cilium_spec),
    "NetworkPolicy": ("networking.k8s.io/v1", kubernetes_spec),
    "ClusterNetworkPolicy": ("policy.networking.k8s.io/v1alpha2", tiered_spec),
}
PACKETS: Final = ((6, 80), (6, 8080), (17, 53), (1, 8))
OUTSIDE: Final = (*TOLD, "10.1.9.9", "203.0.113.1", "fd00::7", "2001:db8::1")
NODES: Final = (Reserved.HOST, Reserved.REMOTE_NODE, Reserved.KUBE_APISERVER)
Document = dict[str, Any]


class Facts:
    """What there is beside policies: pods, each with a label of its own, groups, names of addresses, Services."""

    def __init__(self, pick: random.Random) -> None:
        self.pods = {
            number: (
                pick.choice(APPS),
                pick.choice(NAMESPACES),
                pick.choice([NORTH, SOUTH]),
                pick.choice([0, 80, 8080]),
            )
            for number in NUMBERS
        }
        self.of_namespace = {name: pick.choice(NAMESPACE_LABELS) for name in NAMESPACES}
        self.groups = {g: (pick.choice(APPS), pick.sample(CIDRS, pick.randint(0, 3))) for g in GROUPS}
        self.told = {name: pick.sample(TOLD, pick.randint(0, 2)) for name in HOSTS}
        self.services = [
            ServicePeers(
                namespace,
                name,
                (("app", pick.choice(APPS)),),
                frozenset(pick.sample(NUMBERS, pick.randint(0, 2))),
                frozenset(map(parse_address, pick.sample(TOLD, pick.randint(0, 2)))),
            )
            for namespace in NAMESPACES
            for name in SERVICES
        ]

    def engine(self, documents: Iterable[Document], context: Any) -> Engine:
        engine = Engine(context)
        for number, (app, namespace, cluster, port) in self.pods.items():
            labels = pod_labels(
                {"app": app, "id": str(number)}, namespace, self.of_namespace[namespace], "default", cluster
            )
            engine.set_identity(NumericIdentity(number), labels)
            engine.set_pod_ports(str(number), NumericIdentity(number), {"http": (port, 6)} if port else {})
        for group, (app, prefixes) in self.groups.items():
            metadata = {"name": group, "labels": {"app": app}}
            engine.set_cidr_group(parse_cidr_group({"metadata": metadata, "spec": {"externalCIDRs": prefixes}}))
        engine.set_services(self.services)
        for document in documents:
            engine.set_policy(parse_policy(document, context))
        names: dict[Cidr, set[str]] = {}
        for selector in engine.name_selectors():
            for address in self._addresses(selector.match_name, selector.match_pattern):
                names.setdefault(parse_address(address), set()).add(selector.label_key)
        engine.set_names({prefix: frozenset(keys) for prefix, keys in names.items()})
        return engine

    def _addresses(self, name: str, pattern: str) -> list[str]:
        rule = dns_rule(name, pattern)
        return sorted({a for host, found in self.told.items() if rule.matches(host) for a in found})

    def written_out(self, document: Document) -> Document:
        """The document without groups, names and Services."""
        if document["kind"] != "CiliumNetworkPolicy":
            return document
        spec = dict(document["spec"])
        for section in {"ingress", "ingressDeny", "egress", "egressDeny"} & spec.keys():
            spec[section] = [
                plain
                for rule in spec[section]
                for plain in self._plain_rules(
                    rule, document["metadata"]["namespace"], is_deny=section.endswith("Deny")
                )
            ]
        return {**document, "spec": spec}

    def _plain_rules(self, rule: Document, namespace: str, *, is_deny: bool) -> list[Document]:
        rest = {key: value for key, value in rule.items() if key not in ("toServices", "toFQDNs")}
        if "toFQDNs" in rule:
            found = [self._addresses(e.get("matchName", ""), e.get("matchPattern", "")) for e in rule["toFQDNs"]]
            return [{**rest, "toCIDR": sorted({f"{a}/32" for addresses in found for a in addresses})}]
        if "toServices" in rule:
            own = "" if is_deny else namespace
            meant = [s for entry in rule["toServices"] for s in self.services if _means(entry, s, own)]
            pods = sorted({number for service in meant for number in service.identities})
            ranges = sorted({str(prefix) for service in meant for prefix in service.addresses})
            return [{**rest, "toEndpoints": [self._only(number) for number in pods]}, {**rest, "toCIDR": ranges}]
        for key in {"fromCIDRSet", "toCIDRSet"} & rule.keys():
            return [{**rest, key: [plain for entry in rule[key] for plain in self._ranges(entry)]}]
        return [rule]

    def _only(self, number: int) -> Document:
        _, namespace, cluster, _ = self.pods[number]
        place = {"io.kubernetes.pod.namespace": namespace, "io.cilium.k8s.policy.cluster": cluster}
        return {"matchLabels": {"id": str(number), **place}}

    def _ranges(self, entry: Document) -> list[Document]:
        wanted = entry.get("cidrGroupSelector", {}).get("matchLabels", {}).get("app")
        by_name = entry.get("cidrGroupRef")
        found = [p for g, (app, prefixes) in self.groups.items() if by_name == g or wanted == app for p in prefixes]
        holes = entry.get("except", [])
        return [
            {"cidr": prefix, "except": [h for h in holes if parse_prefix(prefix).covers(parse_prefix(h))]}
            for prefix in found
        ]


def _means(entry: Document, service: ServicePeers, own: str) -> bool:
    ((kind, value),) = entry.items()
    if (value.get("namespace") or own) not in ("", service.namespace):
        return False
    if kind == "k8sService":
        return bool(value["serviceName"] == service.name)
    labels: Mapping[str, str] = value["selector"].get("matchLabels", {})
    return all(dict(service.labels).get(key.removeprefix("k8s:")) == wanted for key, wanted in labels.items())


def documents_of(pick: random.Random) -> list[Document]:
    found = {}
    for _ in range(pick.randint(2, 6)):
        kind = pick.choice(["CiliumNetworkPolicy", "CiliumNetworkPolicy", "CiliumNetworkPolicy", *KINDS])
        version, spec = KINDS[kind]
        metadata = {"name": pick.choice("pqrs")}
        if kind != "ClusterNetworkPolicy":
            metadata["namespace"] = pick.choice(NAMESPACES)
        document = {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec(pick)}
        found[kind, metadata.get("namespace"), metadata["name"]] = document
    return list(found.values())


def number_of(engine: Engine, address: str) -> NumericIdentity:
    """Of the longest range that policies name; else of the world."""
    own = parse_address(address)
    around = [(parse_prefix(text), number) for text, number in engine.prefixes().items()]
    found = [(prefix.bits, number) for prefix, number in around if prefix.covers(own)]
    if found:
        return max(found)[1]
    is_dual = engine.context.dual_stack and ":" not in address
    return NumericIdentity(Reserved.WORLD_IPV4 if is_dual else world_of(address))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_groups_names_and_services_mean_what_they_stand_for(seed: int) -> None:
    pick = random.Random(seed)
    facts, documents = Facts(pick), documents_of(pick)
    context = context_of(
        is_local=bool(seed & 1), families=("IPv4", "both", "dual stack")[seed // 2 % 3], has_proxies=bool(seed & 4)
    )
    written = facts.engine(documents, context)
    plain = facts.engine([facts.written_out(document) for document in documents], context)
    for subject, (*_, port) in facts.pods.items():
        ports = {"http": (port, 6)} if port else {}
        both = [engine.endpoint_policy(NumericIdentity(subject), ports) for engine in (written, plain)]
        for peer in (*NUMBERS, *NODES, *OUTSIDE):
            numbers = [number_of(e, peer) if isinstance(peer, str) else peer for e in (written, plain)]
            for direction in Direction:
                for packet in PACKETS:
                    found, expected = (
                        policy.verdict(direction, NumericIdentity(number), *packet)
                        for policy, number in zip(both, numbers, strict=True)
                    )
                    where = f"{direction.word} of {subject} with {peer} by {packet}: {found}, written out {expected}\n{documents}"
                    assert found.allowed == expected.allowed, where
                    looked = [bool(v.entry and v.entry.proxy_port) for v in (found, expected)]
                    assert looked[0] == looked[1], where
