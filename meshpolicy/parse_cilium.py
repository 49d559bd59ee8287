# SPDX-License-Identifier: Apache-2.0
"""CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy and CiliumCIDRGroup documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from meshmodel.labels import NAMESPACE_LABEL
from meshpolicy.context import PolicyContext
from meshpolicy.decode import DocumentNode
from meshpolicy.errors import PolicyError, refusing_faults
from meshpolicy.node_peer import parse_host_subject
from meshpolicy.parse_peers import PeerScope, parse_cidr_text, parse_peers, peer_fields
from meshpolicy.parse_ports import parse_ports
from meshpolicy.parse_selector import parse_selector
from meshpolicy.parse_version import check_version
from meshpolicy.peer import PeerSelector
from meshpolicy.prefix import Cidr, parse_address
from meshpolicy.reference import Direction, PolicyKind, PolicyRef, RuleOrigin
from meshpolicy.rule import CidrGroup, Policy, Rule
from meshpolicy.selector import (
    KUBERNETES_SOURCE,
    RESERVED_SOURCE,
    LabelSelector,
    Operator,
    Requirement,
    equals,
)

_SECTIONS: Final = (
    ("ingress", Direction.INGRESS, False),
    ("ingressDeny", Direction.INGRESS, True),
    ("egress", Direction.EGRESS, False),
    ("egressDeny", Direction.EGRESS, True),
)
_SPEC_FIELDS: Final = frozenset(
    {
        "endpointSelector",
        "nodeSelector",
        *(name for name, _, _ in _SECTIONS),
        "enableDefaultDeny",
        "labels",
        "description",
        "log",
    }
)
_SWITCH_FIELDS: Final = frozenset({"ingress", "egress"})
_LOG_FIELDS: Final = frozenset({"value"})
_LABEL_FIELDS: Final = frozenset({"key", "value", "source"})
_MODE_FIELDS: Final = frozenset({"mode"})
_GROUP_FIELDS: Final = frozenset({"apiVersion", "kind", "metadata", "spec", "status"})
_GROUP_SPEC_FIELDS: Final = frozenset({"externalCIDRs"})
_LONGEST_LOG_VALUE: Final = 32


@dataclass(slots=True)
class _Document:
    """What accumulates while one document is read."""

    context: PolicyContext
    key: PolicyRef
    rules: list[Rule] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def parse_cilium_policy(root: DocumentNode, key: PolicyRef, context: PolicyContext) -> Policy:
    """Read spec and specs. Raises PolicyError; one bad spec refuses the whole document."""
    document = _Document(context, key)
    spec, specs = root.get("spec"), root.get("specs")
    if spec is None and specs is None:
        root.fail("there is neither spec nor specs", "write spec with a selector and at least one rule")
    if spec is not None:
        _parse_spec(spec, document)
    for item in specs.items() if specs is not None else ():
        _parse_spec(item, document)
    if not document.rules and not document.problems:
        document.warnings.append("specs: the list is empty, the policy has no effect")
    return Policy(key, tuple(document.rules), tuple(document.problems), tuple(document.warnings))


def _parse_spec(spec: DocumentNode, document: _Document) -> None:
    spec.only(_SPEC_FIELDS)
    if not any(spec.list_of(name) for name, _, _ in _SECTIONS):
        spec.fail(
            "there is no rule: ingress, ingressDeny, egress and egressDeny are missing or empty",
            'write "ingress: [{}]" to deny all ingress',
        )
    subject, is_host = _parse_subject(spec, document)
    _check_log(spec)
    for label in spec.list_of("labels"):
        label.only(_LABEL_FIELDS)
    is_init = any((part.source, part.key) == (RESERVED_SOURCE, "init") for part in subject.requirements)
    scope = PeerScope(document.context, document.key.namespace, is_init)
    for name, direction, is_deny in _SECTIONS:
        default_deny = _default_deny(spec, direction, document)
        for node in spec.list_of(name):
            rule = Rule(
                RuleOrigin(document.key, node.path.removeprefix("spec.")),
                subject,
                direction,
                peers=(),
                ports=(),
                deny=is_deny,
                default_deny=default_deny,
                is_host=is_host,
            )
            document.rules.extend(_parse_rule(node, rule, scope, document, is_host=is_host))


def _parse_rule(
    node: DocumentNode, rule: Rule, scope: PeerScope, document: _Document, *, is_host: bool
) -> tuple[Rule, ...]:
    """The rule itself, and beside it the part of it that cannot be enforced as written."""
    fields = peer_fields(rule.direction, is_deny=rule.deny)
    word = "from" if rule.direction is Direction.INGRESS else "to"
    removed = (f"{word}Requires", *(("toFQDNs",) if word == "to" else ()))  # refused with a reason of their own
    node.only(frozenset({*fields, *removed, "toPorts", "icmps", "authentication"}))
    peers = parse_peers(node, rule.direction, scope, is_deny=rule.deny)
    is_ingress = rule.direction is Direction.INGRESS
    ports = parse_ports(
        node,
        is_ingress=is_ingress,
        is_deny=rule.deny,
        is_host=is_host,
        proxied=document.context.proxied,
    )
    document.problems.extend((*peers.problems, *ports.problems))
    document.warnings.extend((*peers.warnings, *ports.warnings))
    # Neither peers nor ports: the rule names nobody. Ports alone: everybody, on these ports.
    named = peers.selectors if peers.selectors is not None or ports.is_restricted else ()
    plain = tuple(ports.plain) if ports.is_restricted else None
    rule = replace(rule, peers=_without_everyone(named), ports=plain, l7=tuple(ports.l7))
    if _needs_authentication(node) and not rule.deny:
        document.problems.append(
            f"{node.path}.authentication: mutual authentication cannot be enforced yet; "
            "the rule stays denied unless another rule allows it"
        )
        of_proxy = (spec for part in ports.proxied for spec in part.specs)
        every = (*ports.plain, *ports.unenforced, *of_proxy) if ports.is_restricted else None
        return replace(rule, ports=()), replace(rule, ports=every, unenforced=True)
    looking = tuple(
        replace(rule, ports=part.specs, http=part.http, dns=part.dns, servers=part.servers) for part in ports.proxied
    )
    if not ports.unenforced:
        return rule, *looking
    return rule, *looking, replace(rule, ports=tuple(ports.unenforced), unenforced=True)


def _without_everyone(peers: tuple[PeerSelector, ...] | None) -> tuple[PeerSelector, ...] | None:
    """None, the form of "every peer", if an empty label selector is among the peers."""
    return None if peers is not None and LabelSelector() in peers else peers


def _needs_authentication(node: DocumentNode) -> bool:
    field_node = node.get("authentication")
    if field_node is None:
        return False
    mode = field_node.only(_MODE_FIELDS).text_of("mode")
    if mode not in ("disabled", "required", "test-always-fail"):
        field_node.fail(f"unknown mode {mode!r}", "write required; disabled asks for no authentication")
    return mode != "disabled"


def _parse_subject(spec: DocumentNode, document: _Document) -> tuple[LabelSelector, bool]:
    endpoint, node = spec.get("endpointSelector"), spec.get("nodeSelector")
    if endpoint is None and node is None:
        spec.fail(
            "endpointSelector is missing",
            'write the labels of the pods that are meant; "endpointSelector: {}" is every pod',
        )
    if endpoint is not None and node is not None:
        spec.fail("endpointSelector and nodeSelector together", "write two policies")
    if node is not None:
        if document.key.kind != PolicyKind.CLUSTERWIDE:
            node.fail("a namespaced policy cannot select nodes", "use a CiliumClusterwideNetworkPolicy")
        return parse_host_subject(node), True
    assert endpoint is not None
    if document.key.kind == PolicyKind.CLUSTERWIDE:
        return parse_selector(endpoint), False
    own = equals(KUBERNETES_SOURCE, NAMESPACE_LABEL, document.key.namespace)
    selector = parse_selector(endpoint, but=(own.source, own.key))
    document.warnings.extend(_namespace_warnings(endpoint, selector, own))
    return selector.with_requirement(own), False


def _namespace_warnings(node: DocumentNode, selector: LabelSelector, own: Requirement) -> tuple[str, ...]:
    """What a subject selector that names another namespace than the policy's comes to."""
    labels = node.get("matchLabels")
    replaced = (labels.mapping() if labels else {}).get(f"{own.source}:{own.key}", own.values[0])
    found = []
    if replaced != own.values[0]:
        found.append(f"{node.path}: namespace {replaced} is replaced by {own}: a policy selects its own namespace only")
    found.extend(
        f"{node.path}: {part} contradicts the policy's namespace {own.values[0]}; it selects no pod"
        for part in selector.requirements
        if part.key == own.key and part.operator is Operator.IN and own.values[0] not in part.values
    )
    return tuple(found)


def _default_deny(spec: DocumentNode, direction: Direction, document: _Document) -> bool:
    switch = spec.get("enableDefaultDeny")
    if switch is None:
        return True
    flag = switch.only(_SWITCH_FIELDS).get(direction.word)
    if flag is None:
        return True
    if flag.flag() and not any(spec.list_of(name) for name, section, _ in _SECTIONS if section is direction):
        warning = f"{flag.path}: has no effect without {direction.word} rules"
        if warning not in document.warnings:
            document.warnings.append(warning)
    return flag.flag()


def _check_log(spec: DocumentNode) -> None:
    log = spec.get("log")
    if log is None:
        return
    value = log.only(_LOG_FIELDS).text_of("value")
    if len(value) > _LONGEST_LOG_VALUE or not (value.isascii() and value.isprintable()):
        log.child("value", value).fail(
            "too long or not printable", f"write at most {_LONGEST_LOG_VALUE} printable characters"
        )


def parse_cidr_group(document: Mapping[str, object]) -> CidrGroup:
    """Read a CiliumCIDRGroup. Prefixes that do not parse are left out and reported. Raises PolicyError."""
    return refusing_faults(lambda: _parse_group_document(document))


def _parse_group_document(document: Mapping[str, object]) -> CidrGroup:
    root = DocumentNode(document, "").only(_GROUP_FIELDS)
    check_version(root, PolicyKind.CIDR_GROUP)
    metadata, spec = root.get("metadata"), root.get("spec")
    name = metadata.text_of("name") if metadata else ""
    if not name:
        root.fail("metadata.name is missing", "name the group")
    if spec is None or spec.only(_GROUP_SPEC_FIELDS).get("externalCIDRs") is None:
        (spec or root).fail("externalCIDRs is missing", "list the prefixes in spec.externalCIDRs; [] is none")
    prefixes: list[Cidr] = []
    problems: list[str] = []
    for item in spec.list_of("externalCIDRs"):
        try:
            text = item.text()
            prefixes.append(parse_cidr_text(item, text if "/" in text else str(parse_address(text))))
        except (PolicyError, ValueError) as exc:
            problems.append(f"{item.path}: {exc}" if not isinstance(exc, PolicyError) else str(exc))
    labels = metadata.get("labels") if metadata else None
    texts = {str(key): str(value) for key, value in labels.mapping().items()} if labels else {}
    return CidrGroup(name, texts, tuple(dict.fromkeys(prefixes)), tuple(problems))
