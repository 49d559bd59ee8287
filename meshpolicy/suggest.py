# SPDX-License-Identifier: Apache-2.0
"""The smallest CiliumNetworkPolicies that allow connections that were seen. Pure.

One policy for each workload: the pods of a namespace that have the same label by which people name workloads. A rule names
peers by the same labels, their namespace and always their cluster, so that its meaning does not depend on what a selector
without one means. Peers with equal ports share a rule. A direction of which nothing was seen is left open.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from meshmodel.identity import Reserved, identity_name, is_of_nodes, is_of_range, is_reserved
from meshmodel.labels import (
    CLUSTER_LABEL,
    K8S,
    NAMESPACE_LABEL,
    OWNED_PREFIX,
    SERVICE_ACCOUNT_LABEL,
    Labels,
    find_label,
)
from meshmodel.protocol import ICMP, ICMPV6, PROTOCOL_NAMES
from meshpolicy.reference import Direction

WORKLOAD_LABELS: Final = ("app", "app.kubernetes.io/name", "name", "k8s-app")
MOST_ADDRESSES: Final = 16
"""Addresses outside of clusters that one workload's rules name one by one; of more, the world is allowed."""
_ENTITIES: Final[Mapping[int, str]] = {
    Reserved.REMOTE_NODE: "remote-node", Reserved.KUBE_APISERVER: "kube-apiserver", Reserved.HEALTH: "health",
    Reserved.INGRESS: "ingress", Reserved.INIT: "init", Reserved.UNMANAGED: "unmanaged", Reserved.HOST: "host",
}  # fmt: skip
_WORLD: Final[frozenset[int]] = frozenset((Reserved.WORLD, Reserved.WORLD_IPV4, Reserved.WORLD_IPV6))
_FAMILIES: Final = {ICMP: "IPv4", ICMPV6: "IPv6"}
Selector = Mapping[str, Any]


class SeenConnection(NamedTuple):
    """New connections of one pod with one peer. `port` is the type where `protocol` is ICMP's; `own` are the pod's labels.

    `peer` is None where the peer's labels are not known any more. `tag` is the caller's, handed back.
    """

    direction: Direction
    own: Labels
    peer: Labels | None
    peer_identity: int
    peer_address: str
    protocol: int
    port: int
    tag: object = None


class SuggestedRule(NamedTuple):
    """A rule as a document has it, and what it was made of."""

    direction: Direction
    rule: Mapping[str, Any]
    seen: tuple[SeenConnection, ...]


class SuggestedPolicy(NamedTuple):
    """A policy without its rules, and the rules in the order in which they stand in it."""

    frame: Mapping[str, Any]
    rules: tuple[SuggestedRule, ...]

    @property
    def document(self) -> dict[str, Any]:
        """The whole."""
        spec = dict(self.frame["spec"])
        for direction in Direction:
            found = [each.rule for each in self.rules if each.direction is direction]
            if found:
                spec[direction.word] = found
        return {**self.frame, "spec": spec}


class Suggestions(NamedTuple):
    """Policies by namespace and name, and connections for which no rule can be written, each with the reason."""

    policies: tuple[SuggestedPolicy, ...]
    left_out: tuple[tuple[SeenConnection, str], ...]


def suggest(seen: Iterable[SeenConnection]) -> Suggestions:
    """Policies that allow all that was seen, but what the node itself sends to its pods: that is always allowed."""
    workloads: dict[tuple[str, tuple[tuple[str, str], ...]], list[SeenConnection]] = defaultdict(list)
    left_out: list[tuple[SeenConnection, str]] = []
    for each in seen:
        own = workload_of(each.own)
        namespace = _value(each.own, NAMESPACE_LABEL)
        if each.peer_identity == Reserved.HOST and each.direction is Direction.INGRESS:
            continue
        if not own or not namespace:
            left_out.append((each, "the pod has no label by which a policy could select it alone"))
        elif reason := _unnameable(each):
            left_out.append((each, reason))
        else:
            workloads[namespace, tuple(own.items())].append(each)
    names: set[tuple[str, str]] = set()
    policies = []
    for (namespace, labels), rows in sorted(workloads.items(), key=lambda item: item[0]):
        name = _name(namespace, labels[0][1], names)
        frame = {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumNetworkPolicy",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"endpointSelector": {"matchLabels": dict(labels)}},
        }
        rules = [rule for way in Direction for rule in _rules(way, [row for row in rows if row.direction is way])]
        policies.append(SuggestedPolicy(frame, tuple(rules)))
    return Suggestions(tuple(policies), tuple(left_out))


def workload_of(labels: Labels) -> dict[str, str]:
    """The label by which people name a workload; else its service account, else all labels of its own; empty: it has none."""
    for key in (*WORKLOAD_LABELS, SERVICE_ACCOUNT_LABEL):
        found = find_label(labels, key, K8S)
        if found is not None and found.value:
            return {key: found.value}
    return {
        x.key: x.value
        for x in labels
        if x.source == K8S and not x.key.startswith(OWNED_PREFIX) and x.key != NAMESPACE_LABEL
    }


def _unnameable(each: SeenConnection) -> str:
    number = each.peer_identity
    if number in _ENTITIES or number in _WORLD or is_of_range(number) or is_of_nodes(number):
        return ""
    if is_reserved(number):
        return f"its peer is {identity_name(number)}"
    if each.peer is None:
        return "the labels of its peer are not known any more"
    return "" if workload_of(each.peer) else "its peer has no label by which a rule could name it alone"


def _rules(direction: Direction, seen: Sequence[SeenConnection]) -> Iterable[SuggestedRule]:
    outside = {each.peer_address for each in seen if _is_outside(each)}
    peers: dict[tuple[str, str], list[SeenConnection]] = defaultdict(list)
    values: dict[tuple[str, str], Any] = {}
    for each in seen:
        kind, value = _peer(each, names_world=len(outside) > MOST_ADDRESSES)
        key = kind, repr(value)
        values[key] = value
        peers[key].append(each)
    shared: dict[tuple[str, frozenset[tuple[int, int]]], list[tuple[str, str]]] = defaultdict(list)
    for key, rows in peers.items():
        shared[key[0], frozenset((row.protocol, row.port) for row in rows)].append(key)
    for (kind, ports), keys in sorted(shared.items(), key=lambda item: (item[0][0], sorted(item[0][1]))):
        side = "from" if direction is Direction.INGRESS else "to"
        listed = [values[key] for key in sorted(keys)]
        named = [row for key in sorted(keys) for row in peers[key]]
        for part in _ports(ports):
            allowed = {pair for pair in ports if (pair[0] in _FAMILIES) == ("icmps" in part)}
            seen_here = tuple(row for row in named if (row.protocol, row.port) in allowed)
            yield SuggestedRule(direction, {f"{side}{kind}": listed, **part}, seen_here)


def _peer(each: SeenConnection, *, names_world: bool) -> tuple[str, Any]:
    if each.peer_identity in _ENTITIES:
        return "Entities", _ENTITIES[each.peer_identity]
    if is_of_nodes(each.peer_identity):
        return "Entities", "remote-node"
    if _is_outside(each):
        if names_world:
            return "Entities", "world"
        return "CIDR", f"{each.peer_address}/{128 if ':' in each.peer_address else 32}"
    labels = each.peer or ()
    selector = {
        **{f"{K8S}:{key}": value for key, value in workload_of(labels).items()},
        f"{K8S}:{NAMESPACE_LABEL}": _value(labels, NAMESPACE_LABEL),
        f"{K8S}:{CLUSTER_LABEL}": _value(labels, CLUSTER_LABEL),
    }
    return "Endpoints", {"matchLabels": {key: value for key, value in selector.items() if value}}


def _ports(ports: frozenset[tuple[int, int]]) -> Iterable[dict[str, Any]]:
    """Ports and ICMP types cannot stand in one rule. A protocol without ports is not told apart from all of them."""
    plain = sorted(pair for pair in ports if pair[0] not in _FAMILIES)
    kinds = sorted(pair for pair in ports if pair[0] in _FAMILIES)
    named = [pair for pair in plain if pair[0] in PROTOCOL_NAMES and pair[1]]
    if len(named) < len(plain):
        yield {}
    elif plain:
        yield {
            "toPorts": [{"ports": [{"port": str(port), "protocol": PROTOCOL_NAMES[number]} for number, port in named]}]
        }
    if kinds:
        yield {"icmps": [{"fields": [{"family": _FAMILIES[number], "type": kind} for number, kind in kinds]}]}


def _is_outside(each: SeenConnection) -> bool:
    return each.peer_identity in _WORLD or is_of_range(each.peer_identity)


def _name(namespace: str, workload: str, taken: set[tuple[str, str]]) -> str:
    """A name for an object that no other policy here has."""
    base = re.sub(r"[^a-z0-9]+", "-", workload.lower()).strip("-")[:50].strip("-") or "pods"
    name, number = f"allow-seen-{base}", 2
    while (namespace, name) in taken:
        name, number = f"allow-seen-{base}-{number}", number + 1
    taken.add((namespace, name))
    return name


def _value(labels: Labels, key: str) -> str:
    found = find_label(labels, key)
    return found.value if found is not None else ""
