# SPDX-License-Identifier: Apache-2.0
"""A rule in force and the selections it is bound to: each knows the other. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from meshpolicy.mapstate import PolicyEntry, precedence
from meshpolicy.peer import BoundSelector
from meshpolicy.port import EVERYTHING
from meshpolicy.reference import Direction
from meshpolicy.rule import Rule
from meshpolicy.tier import Tier

Feature = tuple[str, ...]
"""A label in the form in which selectors are found by it."""


class Selection:
    """One selector in use: what it selects now, who holds it, and the rules that it can decide for.

    `holders` counts `acquire` less `release`. The rule tables do not: a rule without an effective port names its peers
    and is in none of their tables.
    """

    __slots__ = ("anchors", "conditions", "holders", "identities", "peer_rules", "selector", "subject_rules")

    def __init__(self, selector: BoundSelector) -> None:
        self.selector = selector
        self.holders = 0
        self.identities: set[int] = set()
        self.subject_rules: dict[int, ActiveRule] = {}
        self.peer_rules: dict[int, ActiveRule] = {}
        self.anchors: tuple[Feature, ...] = ()
        self.conditions: tuple[tuple[tuple[Feature, ...], bool], ...] = ()
        """Of a label selector: features, and whether an identity must have none of them."""


class ActiveRule:
    """A rule in force: its selections, and the part of its entries that does not depend on the endpoint."""

    __slots__ = (
        "direction",
        "entry",
        "is_admin_pass",
        "is_baseline",
        "is_guard",
        "keys",
        "names",
        "number",
        "peers",
        "resolves_at_peers",
        "rule",
        "subject",
    )

    def __init__(self, number: int, rule: Rule, subject: Selection, peers: tuple[Selection, ...] | None) -> None:
        self.number, self.rule, self.subject, self.peers = number, rule, subject, peers
        self.direction = rule.direction
        denies = rule.deny or rule.unenforced
        self.entry = PolicyEntry(
            denies,
            precedence(rule.level, deny=denies, passes=rule.passes, proxied=rule.is_proxied),
            0,
            rule.origin,
        )
        self.is_admin_pass = rule.passes and rule.tier is Tier.ADMIN
        self.is_guard = rule.tier is Tier.GUARD
        self.is_baseline = rule.tier is Tier.BASELINE
        ports = rule.ports
        self.names = tuple(spec for spec in ports or () if spec.name)
        self.resolves_at_peers = bool(self.names) and rule.direction is Direction.EGRESS
        self.keys = (EVERYTHING,) if ports is None else tuple(key for spec in ports for key in spec.map_keys())

    def detach(self) -> Iterable[Selection]:
        """The selections that the rule holds, one entry per hold; the rule is in none of their tables any more."""
        self.subject.subject_rules.pop(self.number, None)
        for selection in self.peers or ():
            selection.peer_rules.pop(self.number, None)
        return (self.subject, *(self.peers or ()))
