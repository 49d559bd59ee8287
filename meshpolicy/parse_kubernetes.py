# SPDX-License-Identifier: Apache-2.0
"""Kubernetes NetworkPolicy documents, translated to the same rules."""

from __future__ import annotations

import re
from typing import Final

from meshmodel.labels import NAMESPACE_LABEL
from meshpolicy.context import PolicyContext
from meshpolicy.decode import DocumentNode
from meshpolicy.parse_peers import check_except, parse_cidr_text
from meshpolicy.parse_selector import parse_selector
from meshpolicy.peer import CidrSelector, PeerSelector
from meshpolicy.port import MAXIMUM_PORT, PortSpec, parse_protocol
from meshpolicy.reference import Direction, PolicyRef, RuleOrigin
from meshpolicy.rule import Policy, Rule
from meshpolicy.selector import (
    KUBERNETES_SOURCE,
    NAMESPACE_LABEL_PREFIX,
    LabelSelector,
    Operator,
    Requirement,
    equals,
    scope_cluster,
)

_DIRECTIONS: Final = (
    ("ingress", "from", Direction.INGRESS, "Ingress"),
    ("egress", "to", Direction.EGRESS, "Egress"),
)
_SPEC_FIELDS: Final = frozenset({"podSelector", "ingress", "egress", "policyTypes"})
_PEER_FIELDS: Final = frozenset({"podSelector", "namespaceSelector", "ipBlock"})
_BLOCK_FIELDS: Final = frozenset({"cidr", "except"})
_PORT_FIELDS: Final = frozenset({"protocol", "port", "endPort"})
_PROTOCOLS: Final = ("TCP", "UDP", "SCTP")
_NUMBER: Final = re.compile(r"[0-9]{1,16}")


def parse_kubernetes_policy(root: DocumentNode, key: PolicyRef, context: PolicyContext) -> Policy:
    """Read spec. A direction that policyTypes names and that has no rule denies everything."""
    spec = root.get("spec") or DocumentNode({}, "spec")
    spec.only(_SPEC_FIELDS)
    warnings: list[str] = []
    pods = spec.get("podSelector") or DocumentNode({}, "spec.podSelector")
    subject = _in_namespace(_parse_pods(pods), key.namespace)
    types = _policy_types(spec)
    rules: list[Rule] = []
    for name, peer_field, direction, type_name in _DIRECTIONS:
        nodes = spec.list_of(name)
        if nodes and types and type_name not in types:
            warnings.append(f"spec.{name}: applies although policyTypes does not list {type_name}, as on Cilium")
        for node in nodes:
            node.only(frozenset({peer_field, "ports"}))
            peers = _parse_peers(node, peer_field, key.namespace, context)
            if peers is None and peer_field in node.mapping():
                warnings.append(f"{node.path}.{peer_field}: there is nothing below it, which means every peer")
            origin = RuleOrigin(key, node.path.removeprefix("spec."))
            rules.append(Rule(origin, subject, direction, peers, _parse_ports(node)))
        if not nodes and _is_isolated(direction, types):
            rules.append(Rule(RuleOrigin(key, name), subject, direction, peers=(), ports=()))
    return Policy(key, tuple(rules), warnings=tuple(warnings))


def _policy_types(spec: DocumentNode) -> tuple[str, ...]:
    types = spec.texts_of("policyTypes")
    for item in spec.list_of("policyTypes"):
        if item.text() not in ("Ingress", "Egress"):
            item.fail(f"unknown policy type {item.text()!r}", "write Ingress or Egress")
    return types


def _is_isolated(direction: Direction, types: tuple[str, ...]) -> bool:
    """Whether a direction without rules denies everything; ingress does unless only Egress is listed."""
    if direction is Direction.EGRESS:
        return "Egress" in types
    return "Ingress" in types or "Egress" not in types


def _in_namespace(selector: LabelSelector, namespace: str) -> LabelSelector:
    return selector.with_requirement(equals(KUBERNETES_SOURCE, NAMESPACE_LABEL, namespace))


def _parse_pods(node: DocumentNode) -> LabelSelector:
    """A podSelector in a place where the namespace is the policy's own, whatever the selector says."""
    return parse_selector(node, KUBERNETES_SOURCE, but=(KUBERNETES_SOURCE, NAMESPACE_LABEL))


def _parse_peers(
    rule: DocumentNode, field: str, namespace: str, context: PolicyContext
) -> tuple[PeerSelector, ...] | None:
    items = rule.list_of(field)
    if not items:
        return None
    return tuple(dict.fromkeys(_parse_peer(item, namespace, context) for item in items))


def _parse_peer(node: DocumentNode, namespace: str, context: PolicyContext) -> PeerSelector:
    node.only(_PEER_FIELDS)
    pods, namespaces, block = (node.get(name) for name in ("podSelector", "namespaceSelector", "ipBlock"))
    if block is not None:
        if pods is not None or namespaces is not None:
            node.fail("ipBlock together with a selector", "write two list entries if each is meant alone")
        return _parse_ip_block(block)
    if pods is None and namespaces is None:
        node.fail("a peer that names nobody", "write podSelector, namespaceSelector or ipBlock")
    if namespaces is None:
        assert pods is not None
        return _in_namespace(scope_cluster(_parse_pods(pods), context.scope), namespace)
    selector = parse_selector(pods, KUBERNETES_SOURCE) if pods is not None else LabelSelector()
    selector = scope_cluster(selector, context.scope)
    return LabelSelector((*selector.requirements, *namespace_requirements(namespaces)))


def namespace_requirements(node: DocumentNode) -> tuple[Requirement, ...]:
    """Conditions on the labels of a pod's namespace. What has no namespace, as the world, never satisfies them."""
    selector = parse_selector(node, KUBERNETES_SOURCE)
    found = tuple(
        Requirement(KUBERNETES_SOURCE, NAMESPACE_LABEL_PREFIX + part.key, part.operator, part.values)
        for part in selector.requirements
    )
    if any(part.operator in (Operator.IN, Operator.EXISTS) for part in found):
        return found
    return (*found, Requirement(KUBERNETES_SOURCE, NAMESPACE_LABEL, Operator.EXISTS))


def _parse_ip_block(node: DocumentNode) -> CidrSelector:
    field = node.only(_BLOCK_FIELDS).get("cidr")
    if field is None:
        node.fail("cidr is missing", 'write cidr: "10.0.0.0/8"')
    prefix = parse_cidr_text(field, field.text())
    holes = []
    for item in node.list_of("except"):
        hole = parse_cidr_text(item, item.text())
        check_except(item, prefix, hole)
        holes.append(hole)
    return CidrSelector(prefix, tuple(holes))


def _parse_ports(rule: DocumentNode) -> tuple[PortSpec, ...] | None:
    items = rule.list_of("ports")
    return tuple(_parse_port(item) for item in items) if items else None


def _parse_port(node: DocumentNode) -> PortSpec:
    name = node.only(_PORT_FIELDS).text_of("protocol") or "TCP"
    if name not in _PROTOCOLS:
        node.child("protocol", name).fail(f"unknown protocol {name!r}", "write TCP, UDP or SCTP")
    protocol = parse_protocol(name)[0]
    port, end = node.get("port"), node.get("endPort")
    if port is None:
        if end is not None:
            end.fail("endPort without port", "write port, the first of the range")
        return PortSpec(protocol)
    if isinstance(port.value, str) and not _NUMBER.fullmatch(port.value):
        if end is not None:
            end.fail("endPort with a named port", "write the port as a number")
        return PortSpec(protocol, name=port.value.lower())
    first = int(port.value) if isinstance(port.value, str) else port.number()
    last = first if end is None else end.number()
    if not 0 < first <= MAXIMUM_PORT:
        port.fail(f"{first} is not a port", f"write a number from 1 to {MAXIMUM_PORT}")
    if not first <= last <= MAXIMUM_PORT:
        node.child("endPort").fail(f"{last} is not a port from {first} on", "write the last of the range")
    return PortSpec(protocol, first, last)
