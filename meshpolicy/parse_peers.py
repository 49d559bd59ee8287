# SPDX-License-Identifier: Apache-2.0
"""from*/to* of Cilium policies: which peers one rule names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from meshpolicy.context import PolicyContext
from meshpolicy.decode import DocumentNode
from meshpolicy.entity import ENTITIES, entity_selectors
from meshpolicy.node_peer import node_peers, parse_node_selector
from meshpolicy.parse_l7 import check_dns_name
from meshpolicy.parse_selector import parse_selector
from meshpolicy.peer import CidrGroupSelector, CidrSelector, FqdnSelector, PeerSelector, ServiceSelector
from meshpolicy.prefix import Cidr, parse_address, parse_prefix
from meshpolicy.proxy_ports import DNS
from meshpolicy.reference import Direction
from meshpolicy.selector import LabelSelector, scope_peer

NO_NAMES: Final = "no DNS proxy says which addresses have the names; they select nobody"
_GROUP_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LONGEST_GROUP_NAME: Final = 253
_SHOWN: Final = 63
_CIDR_FIELDS: Final = ("cidr", "cidrGroupRef", "cidrGroupSelector")
_CIDR_RULE_FIELDS: Final = frozenset({*_CIDR_FIELDS, "except"})
_SERVICE_FIELDS: Final = frozenset({"k8sService", "k8sServiceSelector"})
_SERVICE_NAME_FIELDS: Final = frozenset({"serviceName", "namespace"})
_SERVICE_SELECTOR_FIELDS: Final = frozenset({"selector", "namespace"})
_GROUP_FIELDS: Final = frozenset({"aws"})
_AWS_FIELDS: Final = frozenset({"labels", "region", "securityGroupsIds", "securityGroupsNames"})


@dataclass(frozen=True, slots=True)
class PeerScope:
    """What peers of a document mean: its namespace (empty = clusterwide), whether it is about init pods, and the rule."""

    context: PolicyContext
    namespace: str
    subject_is_init: bool
    is_deny: bool = False
    direction: Direction = Direction.INGRESS


@dataclass(frozen=True, slots=True)
class Peers:
    """`selectors` None: the rule names no peer field at all. Empty: it names nobody."""

    selectors: tuple[PeerSelector, ...] | None
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def peer_fields(direction: Direction, *, is_deny: bool) -> tuple[str, ...]:
    """The peer fields that a rule of this kind may have."""
    word = "from" if direction is Direction.INGRESS else "to"
    common = tuple(word + kind for kind in ("Endpoints", "CIDR", "CIDRSet", "Entities", "Nodes", "Groups"))
    if direction is Direction.INGRESS:
        return common
    return (*common, "toServices") if is_deny else (*common, "toServices", "toFQDNs")


def parse_peers(rule: DocumentNode, direction: Direction, scope: PeerScope, *, is_deny: bool) -> Peers:
    """Read the one peer field of a rule. Raises PolicyError for two kinds, or for what the field cannot hold."""
    word = "from" if direction is Direction.INGRESS else "to"
    _check_removed(rule, word, is_deny=is_deny)
    scope = replace(scope, is_deny=is_deny, direction=direction)
    fields = {name: field for name in peer_fields(direction, is_deny=is_deny) if (field := rule.get(name)) is not None}
    used = [name for name, field in fields.items() if tuple(field.items())]
    if len(used) > 1:
        rule.fail(
            f"{used[0]} and {used[1]} in one rule",
            "write two rules if each is meant alone; within one, both would have to match",
        )
    nulls = tuple(
        f"{rule.path}.{name}: there is nothing below it, which means no condition: every peer is meant"
        for name in peer_fields(direction, is_deny=is_deny)
        if not fields and name in rule.mapping()
    )
    if not fields:
        return Peers(None, warnings=nulls)
    selectors: list[PeerSelector] = []
    problems: list[str] = []
    for name in used:
        for item in fields[name].items():
            selectors.extend(_PARSERS[name.removeprefix(word)](item, scope))
        unresolved = _UNRESOLVED.get(name.removeprefix(word))
        if unresolved is not None and is_deny:
            selectors.extend(unresolved.denied)
            problems.append(f"{fields[name].path}: {name} is not resolved yet; it denies {unresolved.denied_text}")
        elif unresolved is not None:
            problems.append(f"{fields[name].path}: {name} is not resolved yet; it selects nobody")
    if "toFQDNs" in used and DNS not in scope.context.proxied:
        problems.append(f"{fields['toFQDNs'].path}: {NO_NAMES}")
    # A field that is there but empty names nobody, and wins over a field that names somebody.
    empty = [field for name, field in fields.items() if name not in used]
    warnings = tuple(f"{field.path}: an empty list names nobody, so the rule has no peer" for field in empty)
    return Peers(() if empty else tuple(dict.fromkeys(selectors)), tuple(problems), warnings)


def _check_removed(rule: DocumentNode, word: str, *, is_deny: bool) -> None:
    if rule.list_of(f"{word}Requires"):
        rule.fail(
            f"{word}Requires is no longer part of the language",
            f"add the labels to each {word}Endpoints entry; where there is none, write one",
        )
    if is_deny and rule.list_of("toFQDNs"):
        rule.fail("toFQDNs in egressDeny", "names can only be allowed; deny the addresses with toCIDR")


def _parse_endpoint(node: DocumentNode, scope: PeerScope) -> tuple[LabelSelector, ...]:
    selector = parse_selector(node)
    context = scope.context
    return (
        scope_peer(selector, namespace=scope.namespace, scope=context.scope, subject_is_init=scope.subject_is_init),
    )


def _parse_cidr(node: DocumentNode, _scope: PeerScope) -> tuple[CidrSelector, ...]:
    text = node.text()
    try:
        return (CidrSelector(parse_prefix(text) if "/" in text else parse_address(text)),)
    except ValueError:
        node.fail(f"{text!r} is not an address or a prefix", 'write "10.0.0.0/8" or one address')


def _parse_cidr_rule(node: DocumentNode, _scope: PeerScope) -> tuple[PeerSelector, ...]:
    node.only(_CIDR_RULE_FIELDS)
    given = [name for name in _CIDR_FIELDS if node.mapping().get(name) not in (None, "")]
    if len(given) != 1:
        node.fail(
            f"{' and '.join(given) or 'neither cidr nor cidrGroupRef nor cidrGroupSelector'} is given",
            "write exactly one of cidr, cidrGroupRef and cidrGroupSelector",
        )
    excepts = tuple(_parse_strict(item) for item in node.list_of("except"))
    if given[0] == "cidrGroupRef":
        return (CidrGroupSelector(_parse_group_name(node), None, excepts),)
    field = node.get(given[0])
    assert field is not None
    if given[0] == "cidrGroupSelector":
        return (CidrGroupSelector("", parse_selector(field).requirements, excepts),)
    prefix = _parse_strict(field)
    for item, hole in zip(node.list_of("except"), excepts, strict=True):
        check_except(item, prefix, hole)
    return (CidrSelector(prefix, excepts),)


def _parse_group_name(node: DocumentNode) -> str:
    """As the schema has it: no other object can exist, so that such a rule would mean nobody for ever."""
    name = node.text_of("cidrGroupRef")
    if len(name) > _LONGEST_GROUP_NAME or not _GROUP_NAME.fullmatch(name):
        node.child("cidrGroupRef", name).fail(
            f"{name[:_SHOWN]!r} is not the name of a CiliumCIDRGroup",
            'write at most 253 lower-case letters, digits, "-" and "."',
        )
    return name


def _parse_strict(node: DocumentNode) -> Cidr:
    return parse_cidr_text(node, node.text())


def parse_cidr_text(node: DocumentNode, text: str) -> Cidr:
    """Read a prefix. Raises PolicyError naming the field."""
    try:
        return parse_prefix(text)
    except ValueError:
        node.fail(f"{text!r} is not a prefix", 'write "10.0.0.0/8"')


def check_except(node: DocumentNode, prefix: Cidr, hole: Cidr) -> None:
    """Refuse an exception that begins outside the prefix it is made from."""
    address = parse_address(node.text().partition("/")[0])
    if not prefix.covers(address):
        node.fail(f"{hole} is not inside {prefix}", f"except only parts of {prefix}")


def _parse_entity(node: DocumentNode, scope: PeerScope) -> tuple[LabelSelector, ...]:
    name = node.text()
    if name not in ENTITIES:
        node.fail(f"unknown entity {name!r}", f"write one of {', '.join(ENTITIES)}")
    return entity_selectors(name, scope.context.cluster)


def _parse_node(node: DocumentNode, scope: PeerScope) -> tuple[LabelSelector, ...]:
    selector = parse_node_selector(node)
    found = node_peers(selector, scope.direction, scope.context.scope)
    return (*found.selectors, *found.unknown) if scope.is_deny else found.selectors


def _parse_fqdn(node: DocumentNode, _scope: PeerScope) -> tuple[FqdnSelector, ...]:
    return (FqdnSelector(*check_dns_name(node, exclusive=True)),)


def _parse_service(node: DocumentNode, scope: PeerScope) -> tuple[ServiceSelector, ...]:
    """The services an entry names; none is nobody. Without a namespace: the policy's own; in a deny rule, every one."""
    node.only(_SERVICE_FIELDS)
    own = "" if scope.is_deny else scope.namespace
    name, selector = node.get("k8sService"), node.get("k8sServiceSelector")
    found: list[ServiceSelector] = []
    if name is not None:
        text = name.only(_SERVICE_NAME_FIELDS).text_of("serviceName")
        found.append(ServiceSelector(text, name.text_of("namespace") or own))
    if selector is not None:
        labels = selector.only(_SERVICE_SELECTOR_FIELDS).get("selector")
        if labels is None:
            selector.fail("selector is missing", "write the labels of the Services that are meant")
        requirements = parse_selector(labels).requirements
        found.append(ServiceSelector("", selector.text_of("namespace") or own, requirements))
    return tuple(found)


def _parse_group(node: DocumentNode, _scope: PeerScope) -> tuple[PeerSelector, ...]:
    aws = node.only(_GROUP_FIELDS).get("aws")
    if aws is not None:
        aws.only(_AWS_FIELDS)
    return ()


class _Unresolved(NamedTuple):
    """Peers that cannot be told yet: an allow rule selects nobody by them, a deny rule everybody they could mean."""

    denied: tuple[LabelSelector, ...]
    denied_text: str


_EVERYBODY: Final = _Unresolved((LabelSelector(),), "everybody")
_UNRESOLVED: Final[Mapping[str, _Unresolved]] = {
    "Groups": _EVERYBODY,
}


_PARSERS: Final[Mapping[str, Callable[[DocumentNode, PeerScope], tuple[PeerSelector, ...]]]] = {
    "Endpoints": _parse_endpoint,
    "CIDR": _parse_cidr,
    "CIDRSet": _parse_cidr_rule,
    "Entities": _parse_entity,
    "Nodes": _parse_node,
    "Groups": _parse_group,
    "Services": _parse_service,
    "FQDNs": _parse_fqdn,
}
