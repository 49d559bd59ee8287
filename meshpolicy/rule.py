# SPDX-License-Identifier: Apache-2.0
"""The internal form of all policy languages: one subject, one direction, some peers, some ports, one verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from meshmodel.labels import Label
from meshpolicy.dns_name import DnsRules
from meshpolicy.http_rule import HttpRules
from meshpolicy.peer import CidrGroupSelector, CidrSelector, FqdnSelector, PeerSelector, ServiceSelector
from meshpolicy.port import PortSpec
from meshpolicy.prefix import Cidr
from meshpolicy.reference import Direction, PolicyRef, RuleOrigin
from meshpolicy.selector import KUBERNETES_SOURCE, LabelSelector
from meshpolicy.server_name import ServerNames
from meshpolicy.tier import Level, Tier, ordered_level


class L7Rules(NamedTuple):
    """The application part of a port rule, kept for the proxy that will enforce it.

    `allows_every_name`: it is of DNS names, and one entry is the pattern `*`.
    """

    kind: str
    size: int
    text: str
    allows_every_name: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """What one entry of an ingress, ingressDeny, egress or egressDeny list says.

    `peers` None means every peer; an empty tuple selects nothing. `ports` None means every protocol and port; an
    empty tuple matches nothing. `unenforced` marks the part of an allow rule that must not take effect as written.
    `priority` and `place` order the rules of the Admin and the Baseline tier. A rule that `passes` ends its tier for what
    it matches: the next tier decides. Such a rule names its peers.
    """

    origin: RuleOrigin
    subject: LabelSelector
    direction: Direction
    peers: tuple[PeerSelector, ...] | None
    ports: tuple[PortSpec, ...] | None
    deny: bool = False
    default_deny: bool = True
    unenforced: bool = False
    l7: tuple[L7Rules, ...] = ()
    http: HttpRules | None = None
    """Only these requests, by a proxy; None: whatever is said on the ports."""
    dns: DnsRules | None = None
    """Only questions for these names, by a proxy; None: whatever is asked."""
    servers: ServerNames | None = None
    """Only connections by TLS to servers of these names, by a proxy; None: whatever is said on the ports."""
    tier: Tier = Tier.NORMAL
    priority: int = 0
    place: int = 0
    passes: bool = False
    is_host: bool = False
    """The subject is nodes: only the agent's own node is judged by it."""

    @property
    def is_proxied(self) -> bool:
        """Whether a proxy looks into what it allows."""
        return self.http is not None or self.dns is not None or self.servers is not None

    @property
    def is_empty(self) -> bool:
        """Whether the rule allows or denies nothing by itself; it may still turn default deny on."""
        return self.peers == () or self.ports == ()

    @property
    def level(self) -> int:
        """The layer that the verdict belongs to."""
        if self.tier is Tier.GUARD:
            return Level.GUARD
        if self.tier is not Tier.NORMAL:
            return ordered_level(self.tier, self.priority, self.place)
        return Level.UNENFORCED if self.unenforced else Level.NORMAL

    def prefixes(self) -> frozenset[Cidr]:
        """The address ranges that must have identities of their own for this rule to be decidable."""
        found: set[Cidr] = set()
        for peer in self.peers or ():
            if isinstance(peer, CidrSelector):
                found.update((peer.prefix, *peer.excepts))
        return frozenset(prefix for prefix in found if prefix.bits)


@dataclass(frozen=True, slots=True)
class Policy:
    """One accepted document. `problems` say which parts have no effect yet, `warnings` what may surprise.

    `is_staged`: it is judged beside those in force, and not in force.
    """

    key: PolicyRef
    rules: tuple[Rule, ...]
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    is_staged: bool = False

    @property
    def uses_groups(self) -> bool:
        """Whether a rule names a CiliumCIDRGroup."""
        return any(isinstance(peer, CidrGroupSelector) for rule in self.rules for peer in rule.peers or ())

    @property
    def is_host(self) -> bool:
        """Whether a rule of it selects nodes."""
        return any(rule.is_host for rule in self.rules)

    @property
    def services(self) -> tuple[ServiceSelector, ...]:
        """The Services that its rules name as peers."""
        return tuple(p for rule in self.rules for p in rule.peers or () if isinstance(p, ServiceSelector))

    @property
    def names(self) -> frozenset[FqdnSelector]:
        """The DNS names that its rules have as peers."""
        return frozenset(p for rule in self.rules for p in rule.peers or () if isinstance(p, FqdnSelector))


@dataclass(frozen=True, slots=True)
class CidrGroup:
    """A named list of prefixes."""

    name: str
    labels: Mapping[str, str]
    prefixes: tuple[Cidr, ...]
    problems: tuple[str, ...] = ()


def means_group(peer: CidrGroupSelector, group: CidrGroup) -> bool:
    """Whether a rule means this group, by its name or by its labels."""
    if peer.labels is None:
        return peer.name == group.name
    known = tuple(Label(KUBERNETES_SOURCE, key, value) for key, value in group.labels.items())
    return LabelSelector(peer.labels).matches(known)
