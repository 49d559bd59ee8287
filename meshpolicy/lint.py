# SPDX-License-Identifier: Apache-2.0
"""What a policy's author should know before applying it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Final, NamedTuple

from meshmodel.identity import NumericIdentity
from meshmodel.labels import CLUSTER_LABEL, Labels
from meshpolicy.context import PolicyContext
from meshpolicy.documents import Document, load_documents
from meshpolicy.engine import Engine
from meshpolicy.errors import NotAPolicyError, PolicyError
from meshpolicy.lint_names import unseen_names
from meshpolicy.lint_refused import refusals
from meshpolicy.node_peer import selects_nodes
from meshpolicy.null_fields import null_fields
from meshpolicy.peer import CidrSelector, ServiceSelector
from meshpolicy.port import TCP, UDP
from meshpolicy.prefix import parse_prefix
from meshpolicy.range_shares import LIMITS, ShareLimits, without_room
from meshpolicy.reference import Direction, PolicyKind
from meshpolicy.rule import CidrGroup, Policy, Rule
from meshpolicy.rule_forms import rule_forms
from meshpolicy.selector import LabelSelector, scope_cluster

_DNS_PORT: Final = 53
_MAPPED: Final = parse_prefix("::ffff:0.0.0.0/96")
NOT_ENFORCED: Final = "not-enforced"
"""The code of what is valid and has no effect, or another one, as long as this mesh cannot enforce it."""


class Severity(StrEnum):
    """How much a finding matters: the policy has no effect, does something else than it says, or may surprise."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Finding(NamedTuple):
    """One remark. `code` is a stable short name, `where` the policy and the rule in it."""

    severity: Severity
    code: str
    where: str
    message: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.severity}: {self.where}: {self.message}" + (f"; {self.fix}" if self.fix else "")


def lint(
    documents: Iterable[Document],
    context: PolicyContext,
    identities: Mapping[NumericIdentity, Labels] | None = None,
    limits: ShareLimits = LIMITS,
) -> tuple[Finding, ...]:
    """All findings, in the order of the documents. Without identities, nothing is said about who is selected.

    `limits`: how many address ranges the agents let policies name.
    """
    kept = tuple(documents)
    policies: list[Policy] = []
    groups: list[CidrGroup] = []
    refused: list[PolicyError] = []
    findings: list[Finding] = []
    unscoped = load_documents(kept, replace(context, default_local_cluster=False))
    for item, wide in zip(load_documents(kept, context), unscoped, strict=True):
        if isinstance(item, PolicyError):
            refused.append(item)
            where = f"{item.document}: {item.where}" if item.document else item.where
            if isinstance(item, NotAPolicyError):
                findings.append(Finding(Severity.NOTE, "not-a-policy", item.document, "is no policy and is skipped"))
            else:
                findings.append(Finding(Severity.ERROR, "invalid", where, item.what, item.fix))
        elif isinstance(item, CidrGroup):
            groups.append(item)
            findings.extend(Finding(Severity.ERROR, "bad-prefix", item.name, text) for text in item.problems)
        else:
            policies.append(item)
            assert isinstance(wide, Policy)
            findings.extend(_lint_policy(item, wide, context))
    findings.extend(_without_value(kept, {item.document for item in refused}))
    for refusal in refusals(kept):
        severity, code = (Severity.ERROR, "refused") if refusal.is_refused else (Severity.WARNING, "left-out")
        findings.append(Finding(severity, code, refusal.where, refusal.what, refusal.fix))
    findings.extend(
        Finding(Severity.ERROR, "too-many-ranges", str(key), f"is {why}")
        for key, why in without_room([*groups, *policies], limits).items()
    )
    findings.extend(_of_no_address(policies, groups))
    findings.extend(_opposite_empties(policies))
    findings.extend(
        Finding(
            Severity.WARNING,
            "names-not-seen",
            str(rule.origin),
            f"nobody sees which addresses {names} has: no rule about DNS names lets it be asked for, so it is not reached",
            "give the egress rule for port 53 rules.dns with the same names, UDP and TCP",
        )
        for rule, names in unseen_names(policies)
    )
    if identities is not None:
        findings.extend(_who_is_selected(policies, groups, context, identities))
    return tuple(dict.fromkeys(findings))  # a rule with requests among its ports was read in parts


def _lint_policy(policy: Policy, wide: Policy, context: PolicyContext) -> Iterator[Finding]:
    where = str(policy.key)
    for text in policy.problems:
        yield Finding(Severity.WARNING, NOT_ENFORCED, where, text)
    for text in policy.warnings:
        yield Finding(Severity.WARNING, "no-effect", where, text)
    if policy.is_staged:
        yield Finding(Severity.NOTE, "staged", where, "is judged and not enforced")
    yield from _unscoped(policy, wide, context)
    # A rule whose ports lead to a proxy, or cannot be enforced, is read in parts: its ports stand in another part.
    elsewhere = {rule.origin for rule in policy.rules if rule.unenforced or rule.ports != ()}
    for rule in policy.rules:
        if rule.origin not in elsewhere:
            yield from _names_no_port(rule)
    yield from _dns_without_tcp(policy)


def _unscoped(policy: Policy, wide: Policy, context: PolicyContext) -> Iterator[Finding]:
    """Peers that name no cluster: what they mean depends on the switch. `wide` is the policy with the switch off.

    That a rule denies pods of every cluster is left alone: it would deny less with the cluster named.
    """
    for rule in rule_forms(wide, policy):
        for peer in rule.wide or ():
            if not isinstance(peer, LabelSelector) or peer.is_reserved or scope_cluster(peer, context.cluster) == peer:
                continue
            if context.default_local_cluster:
                if peer in (rule.narrow or ()):
                    continue  # of every cluster under either position of the switch
                yield Finding(
                    Severity.NOTE,
                    "local-cluster-only",
                    str(rule.origin),
                    f"peer {peer} means pods of cluster {context.cluster} only",
                    f"to include meshed clusters, add a matchExpression {CLUSTER_LABEL} Exists",
                )
            elif not rule.deny:
                yield Finding(
                    Severity.WARNING,
                    "any-cluster",
                    str(rule.origin),
                    f"peer {peer} means pods of every meshed cluster",
                    f"name the cluster: {CLUSTER_LABEL}: {context.cluster}",
                )


def _without_value(documents: Sequence[Document], refused: Set[str]) -> Iterator[Finding]:
    """Fields written without a value, in documents that are in force."""
    for document, path in null_fields(documents):
        if document not in refused:
            yield Finding(
                Severity.WARNING,
                "no-value",
                f"{document}: {path}",
                "the field has no value, so it is as if it was not there: a selector means everybody then, "
                "and a rule every port",
                "write what is meant, or leave the field out",
            )


_MAPPED_FIX: Final = (
    "write the addresses that are meant in its place, or keep it: a rule without peers means everybody, "
    "and a direction without rules is open"
)


def _of_no_address(policies: Sequence[Policy], groups: Sequence[CidrGroup]) -> Iterator[Finding]:
    """IPv6 prefixes that hold IPv4 addresses: no packet has such an address. Where one allows, IPv4 would open what is closed."""
    found = [
        (str(rule.origin), peer.prefix, rule.deny)
        for policy in policies
        for rule in policy.rules
        for peer in rule.peers or ()
        if isinstance(peer, CidrSelector)
    ]
    found += [(f"{PolicyKind.CIDR_GROUP} {group.name}", prefix, False) for group in groups for prefix in group.prefixes]
    for where, prefix, denies in dict.fromkeys(found):
        if _MAPPED.covers(prefix):
            inner = f"{IPv4Address(prefix.network & 0xFFFFFFFF)}/{prefix.bits - _MAPPED.bits}"
            yield Finding(
                Severity.WARNING,
                "ipv4-mapped",
                where,
                f"{prefix} is about IPv6 packets with such addresses, which there are none of: it selects nobody",
                f"write {inner} if these IPv4 addresses are meant" if denies else _MAPPED_FIX,
            )


def _names_no_port(rule: Rule) -> Iterator[Finding]:
    """A rule with peers and an empty list of ports, which matches no packet."""
    if rule.ports == () and rule.peers != () and not rule.l7:
        yield Finding(
            Severity.WARNING,
            "names-no-port",
            str(rule.origin),
            f"the rule names no port, so it {'denies' if rule.deny else 'allows'} nothing",
            "list the ports that are meant",
        )


def _dns_without_tcp(policy: Policy) -> Iterator[Finding]:
    """A rule that opens 53/UDP while none of the policy opens 53/TCP: long answers need TCP."""
    if policy.key.kind == PolicyKind.TIERED:
        return  # what such a policy does not speak about stays open
    rules = [rule for rule in policy.rules if rule.direction is Direction.EGRESS and not rule.deny]
    if any(_opens(rule, TCP) for rule in rules):
        return
    for rule in rules:
        if rule.ports is not None and _opens(rule, UDP):
            yield Finding(
                Severity.WARNING,
                "dns-without-tcp",
                str(rule.origin),
                "DNS is open on 53/UDP but not on 53/TCP; long answers fall back to TCP and fail",
                'if DNS is meant, add port: "53" with protocol: TCP',
            )


def _opens(rule: Rule, protocol: int) -> bool:
    if rule.ports is None:
        return not rule.is_empty
    return any(
        spec.protocol == protocol and not spec.name and (spec.first == 0 or spec.first <= _DNS_PORT <= spec.last)
        for spec in rule.ports
    )


def _opposite_empties(policies: Sequence[Policy]) -> Iterator[Finding]:
    """`ingress: [{}]` denies everything in a Cilium policy and allows everything in a Kubernetes one."""
    for direction in Direction:
        cilium = [rule for rule in _empty_rules(policies, direction) if rule.peers == ()]
        kubernetes = [rule for rule in _empty_rules(policies, direction) if rule.peers is None]
        for denying in cilium:
            namespace = denying.origin.policy.namespace
            for allowing in kubernetes:
                if namespace in ("", allowing.origin.policy.namespace):
                    yield Finding(
                        Severity.WARNING,
                        "opposite-empties",
                        str(denying.origin),
                        f"an empty rule here allows nothing, while the one in {allowing.origin} allows everything; "
                        "pods that both select are open",
                        "remove the Kubernetes rule, or state what is meant in one language",
                    )


def _empty_rules(policies: Sequence[Policy], direction: Direction) -> Iterator[Rule]:
    for policy in policies:
        is_kubernetes = policy.key.kind == PolicyKind.KUBERNETES
        for rule in policy.rules:
            wanted = rule.peers is None if is_kubernetes else rule.peers == ()
            if rule.direction is direction and rule.ports is None and wanted and not rule.deny:
                yield rule


def _who_is_selected(
    policies: Sequence[Policy],
    groups: Sequence[CidrGroup],
    context: PolicyContext,
    identities: Mapping[NumericIdentity, Labels],
) -> Iterator[Finding]:
    """Subjects and peers that select nobody among the identities that exist."""
    engine = Engine(context)
    for group in groups:
        engine.set_cidr_group(group)
    for number, labels in identities.items():
        engine.set_identity(number, labels)
    for policy in policies:
        engine.set_policy(policy)
    for policy in policies:
        for subject in dict.fromkeys(rule.subject for rule in policy.rules):
            if not engine.selected_by(subject):
                yield Finding(Severity.WARNING, "selects-no-pod", str(policy.key), f"subject {subject} selects no pod")
        for rule in policy.rules:
            if any(isinstance(peer, ServiceSelector) or selects_nodes(peer) for peer in rule.peers or ()):
                continue  # which Services and nodes exist is not known here
            if rule.peers and not any(engine.selected_by(peer) for peer in rule.peers):
                names = ", ".join(str(peer) for peer in rule.peers)
                yield Finding(
                    Severity.WARNING, "selects-no-peer", str(rule.origin), f"peer {names} selects nobody that exists"
                )
