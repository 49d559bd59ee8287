# SPDX-License-Identifier: Apache-2.0
"""ClusterNetworkPolicy documents (policy.networking.k8s.io): ordered rules of the Admin and the Baseline tier.

A rule may have peers, protocols or fields that a newer version of the kind brought. The API demands that it fails closed then:
what accepts, accepts nobody by them; what denies or passes, denies all that may be meant. The rest of the policy stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from meshpolicy.context import PolicyContext
from meshpolicy.decode import DocumentNode
from meshpolicy.node_peer import node_peers, parse_node_selector
from meshpolicy.parse_kubernetes import namespace_requirements
from meshpolicy.parse_peers import NO_NAMES, parse_cidr_text
from meshpolicy.parse_selector import parse_selector
from meshpolicy.parse_tiered_ports import parse_protocols, unknown_field
from meshpolicy.peer import CidrSelector, FqdnSelector, PeerSelector
from meshpolicy.port import PortSpec
from meshpolicy.proxy_ports import DNS
from meshpolicy.reference import Direction, PolicyRef, RuleOrigin
from meshpolicy.rule import Policy, Rule
from meshpolicy.selector import KUBERNETES_SOURCE, LabelSelector, scope_cluster
from meshpolicy.tier import MAXIMUM_PRIORITY, MAXIMUM_RULES, Tier

_SPEC_FIELDS: Final = frozenset({"tier", "priority", "subject", "ingress", "egress"})
_SUBJECT_FIELDS: Final = frozenset({"namespaces", "pods"})
_PODS_FIELDS: Final = frozenset({"namespaceSelector", "podSelector"})
_EGRESS_PEER_FIELDS: Final = frozenset({"namespaces", "pods", "nodes", "networks", "domainNames"})
_WITHOUT_PORT_NAMES: Final = ("nodes", "networks", "domainNames")
_TIERS: Final = {"Admin": Tier.ADMIN, "Baseline": Tier.BASELINE}
_ACTIONS: Final = ("Accept", "Deny", "Pass")
_CLOSED: Final = "the rule denies all that it may mean"
_CONSEQUENCE: Final = {"Accept": "the rule accepts nothing by it", "Deny": _CLOSED, "Pass": _CLOSED}
_SECTIONS: Final = (("ingress", "from", Direction.INGRESS), ("egress", "to", Direction.EGRESS))
_MOST_ENTRIES: Final = 25
_LONGEST_NAME: Final = 100
_DOMAIN_NAME: Final = re.compile(
    r"(\*\.)?([a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.)+[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.?"
)
_LONGEST_DOMAIN: Final = 255


@dataclass(slots=True)
class _Document:
    """What accumulates while one document is read."""

    context: PolicyContext
    key: PolicyRef
    tier: Tier
    tier_name: str
    priority: int
    subject: LabelSelector
    problems: list[str] = field(default_factory=list)


class _Peers(NamedTuple):
    """One peer. `denied` may be meant, which is not known: a rule that accepts does not mean them. None is everybody."""

    selectors: tuple[PeerSelector, ...]
    denied: tuple[PeerSelector, ...] | None = ()


def parse_tiered_policy(root: DocumentNode, key: PolicyRef, context: PolicyContext) -> Policy:
    """Read spec. Raises PolicyError for what the schema of the kind refuses too."""
    spec = root.get("spec")
    if spec is None:
        root.fail("spec is missing", "write spec with tier, priority, subject and rules")
    spec.only(_SPEC_FIELDS)
    tier, priority = spec.text_of("tier"), spec.get("priority")
    if tier not in _TIERS:
        spec.child("tier", tier).fail(f"unknown tier {tier!r}", "write Admin or Baseline")
    number = -1 if priority is None else priority.number()
    if not 0 <= number <= MAXIMUM_PRIORITY:
        spec.child("priority").fail("no priority", f"write a number from 0 (first) to {MAXIMUM_PRIORITY}")
    document = _Document(context, key, _TIERS[tier], tier, number, _parse_subject(spec))
    rules: list[Rule] = []
    for name, word, direction in _SECTIONS:
        nodes = spec.list_of(name)
        if len(nodes) > MAXIMUM_RULES:
            spec.child(name).fail(f"{len(nodes)} rules", f"write at most {MAXIMUM_RULES}, or two policies")
        for place, node in enumerate(nodes):
            rules.extend(_parse_rule(node, word, direction, place, document))
    warnings = () if rules else ("spec: there are neither ingress nor egress rules, the policy has no effect",)
    return Policy(key, tuple(rules), tuple(document.problems), warnings)


def _parse_subject(spec: DocumentNode) -> LabelSelector:
    subject = spec.get("subject")
    if subject is None:
        spec.fail("subject is missing", "write subject with namespaces or pods")
    return _parse_pods(_only_one(subject, _SUBJECT_FIELDS), "")


def _only_one(node: DocumentNode, known: frozenset[str]) -> DocumentNode:
    """The one field that the value has."""
    given = sorted(name for name, value in node.only(known).mapping().items() if value is not None)
    if len(given) != 1:
        what = " and ".join(given) if given else "none of its fields"
        node.fail(f"{what} given", f"write exactly one of {', '.join(sorted(known))}")
    found = node.get(given[0])
    assert found is not None
    return found


def _parse_pods(node: DocumentNode, scope: str) -> LabelSelector:
    """`namespaces`, all pods of them, or `pods`, some pods of some namespaces. An empty scope is any cluster."""
    if node.name == "namespaces":
        return scope_cluster(LabelSelector(namespace_requirements(node)), scope)
    pods = node.only(_PODS_FIELDS).get("podSelector")
    if pods is None:
        node.fail(
            "podSelector is missing", 'write the labels of the pods that are meant; "podSelector: {}" is all of them'
        )
    namespaces = node.get("namespaceSelector") or node.child("namespaceSelector", {})
    selector = scope_cluster(parse_selector(pods, KUBERNETES_SOURCE), scope)
    return LabelSelector((*selector.requirements, *namespace_requirements(namespaces)))


def _parse_rule(
    node: DocumentNode, word: str, direction: Direction, place: int, document: _Document
) -> tuple[Rule, ...]:
    """The rule; beside it what it may mean, which is denied where the rule denies or passes."""
    action = node.text_of("action")
    if action not in _ACTIONS:
        node.child("action", action).fail(f"unknown action {action!r}", f"write {', '.join(_ACTIONS)}")
    is_known = _knows(node, frozenset({"name", "action", word, "protocols"}), action, document)
    items = _between(node, word)
    peers = [_parse_peer(item, direction, action, document) for item in items]
    ports, are_ports_known = _parse_ports(node, items, action, document)
    selectors = tuple(dict.fromkeys(selector for found in peers for selector in found.selectors))
    rule = Rule(
        _origin(node, document),
        document.subject,
        direction,
        selectors if is_known or action != "Accept" else (),
        ports,
        deny=action == "Deny",
        default_deny=False,
        tier=document.tier,
        priority=document.priority,
        place=place,
        passes=action == "Pass",
    )
    denied = None if any(found.denied is None for found in peers) else _denied(peers)
    if denied is not None and not (is_known and are_ports_known):
        denied = tuple(dict.fromkeys((*selectors, *denied)))
    if action == "Accept" or denied == ():
        return (rule,)
    closed = Rule(
        rule.origin, rule.subject, direction, denied, ports if are_ports_known else None, deny=True, default_deny=False,
        tier=rule.tier, priority=rule.priority, place=place,
    )  # fmt: skip
    return rule, closed


def _denied(peers: Iterable[_Peers]) -> tuple[PeerSelector, ...]:
    return tuple(dict.fromkeys(selector for found in peers for selector in found.denied or ()))


def _parse_ports(
    node: DocumentNode, items: Iterable[DocumentNode], action: str, document: _Document
) -> tuple[tuple[PortSpec, ...] | None, bool]:
    """The ports, None for every one; and whether no entry may mean others."""
    if node.get("protocols") is None:
        return None, True
    ports, unknown = parse_protocols(_between(node, "protocols"))
    document.problems += [f"{text}; {_CONSEQUENCE[action]}" for text in unknown]
    unnamed = [name for item in items for name in _WITHOUT_PORT_NAMES if item.get(name) is not None]
    if unnamed and any(spec.name for spec in ports):
        node.child("protocols").fail(f"a port name for {unnamed[0]}", "only pods have port names: write a number")
    return ports, not unknown


def _knows(node: DocumentNode, known: frozenset[str], action: str, document: _Document) -> bool:
    """Whether all its fields are known. If not, the policy says so."""
    text = unknown_field(node, known)
    if text:
        document.problems.append(f"{text}; {_CONSEQUENCE[action]}")
    return not text


def _origin(node: DocumentNode, document: _Document) -> RuleOrigin:
    """The rule's place, its own name if it has one, its tier and priority: what people look for in an explanation."""
    text = node.text_of("name")
    if len(text) > _LONGEST_NAME:
        node.child("name").fail(f"{len(text)} characters", f"write at most {_LONGEST_NAME}")
    name = f" {text}" if text and text.isprintable() else ""
    place = node.path.removeprefix("spec.")
    return RuleOrigin(document.key, f"{place}{name} ({document.tier_name}, priority {document.priority})")


def _between(node: DocumentNode, name: str) -> tuple[DocumentNode, ...]:
    """The entries of a list that has one to 25 of them."""
    found = node.list_of(name)
    if not 1 <= len(found) <= _MOST_ENTRIES:
        node.child(name).fail(f"{len(found)} entries", f"write 1 to {_MOST_ENTRIES}")
    return found


def _parse_peer(node: DocumentNode, direction: Direction, action: str, document: _Document) -> _Peers:
    known = _SUBJECT_FIELDS if direction is Direction.INGRESS else _EGRESS_PEER_FIELDS
    if all(node.get(name) is None for name in known):
        text = unknown_field(node, known) or f"{node.path}: names no peer"
        document.problems.append(f"{text}; {_CONSEQUENCE[action]}")
        return _Peers((), None)
    found = _only_one(node, known)
    scope = document.context.scope
    match found.name:
        case "namespaces":  # upstream does not scope these; what denies is as wide as there, what opens is not
            return _Peers((_parse_pods(found, "" if action == "Deny" else scope),))
        case "pods":
            return _Peers((_parse_pods(found, scope),))
        case "networks":
            return _Peers(tuple(_parse_network(item) for item in _between(node, "networks")))
        case "nodes":
            return _Peers(*node_peers(parse_node_selector(found), direction, scope))
    if action != "Accept":
        found.fail(f"domainNames in a rule that says {action}", "names can only be accepted; write networks")
    if DNS not in document.context.proxied:
        document.problems.append(f"{found.path}: {NO_NAMES}")
    return _Peers(tuple(_parse_name(item) for item in _between(node, "domainNames")))


def _parse_network(node: DocumentNode) -> CidrSelector:
    return CidrSelector(parse_cidr_text(node, node.text()))


def _parse_name(node: DocumentNode) -> FqdnSelector:
    text = node.text()
    if len(text) > _LONGEST_DOMAIN or not _DOMAIN_NAME.fullmatch(text):
        node.fail(f"{text!r} is not a domain name", 'write "example.org" or "*.example.org"')
    return FqdnSelector("", f"*{text}") if text.startswith("*") else FqdnSelector(text, "")
