# SPDX-License-Identifier: Apache-2.0
"""The same rule with the switch policy-default-local-cluster off and on. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from meshpolicy.peer import PeerSelector
from meshpolicy.reference import RuleOrigin
from meshpolicy.rule import Policy

Peers = tuple[PeerSelector, ...] | None


class RuleForms(NamedTuple):
    """What allows, or what denies, of one entry of a policy: its peers under either position of the switch."""

    origin: RuleOrigin
    deny: bool
    wide: Peers
    narrow: Peers


def rule_forms(wide: Policy, narrow: Policy) -> Iterator[RuleForms]:
    """The rules of a policy that was read with the switch off and on, in their order.

    An entry is read in parts, for its ports and for peers that may be meant; with the switch on there may be one more, for
    nodes whose cluster is not known.
    """
    other = dict(_of_entries(narrow))
    for (origin, deny), peers in _of_entries(wide):
        yield RuleForms(origin, deny, peers, other[origin, deny])


def _of_entries(policy: Policy) -> Iterator[tuple[tuple[RuleOrigin, bool], Peers]]:
    parts: dict[tuple[RuleOrigin, bool], list[Peers]] = {}
    for rule in policy.rules:
        parts.setdefault((rule.origin, rule.deny), []).append(rule.peers)
    for key, found in parts.items():
        yield key, None if None in found else tuple(dict.fromkeys(peer for peers in found for peer in peers or ()))
