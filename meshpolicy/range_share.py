# SPDX-License-Identifier: Apache-2.0
"""The address ranges that the documents of one holder name together, and which of these documents have no room. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from meshpolicy.prefix import Cidr
from meshpolicy.reference import PolicyRef
from meshpolicy.rule import CidrGroup, Policy


class RangeClaim(NamedTuple):
    """A document as it is written and the ranges that it names, of which there are `size`.

    Of one that alone names more than its holder may, they are not kept, nor is the document but where it means Services.
    """

    item: Policy | CidrGroup | None
    ranges: frozenset[Cidr]
    size: int
    is_staged: bool = False


class RangeShare:
    """A namespace, or whoever administers the cluster. What is staged has the room that the rest leaves."""

    __slots__ = ("alone", "claims", "closed", "staged", "uses")

    def __init__(self) -> None:
        self.claims: dict[PolicyRef, RangeClaim] = {}
        self.uses: Counter[Cidr] = Counter()
        """By how many documents that are not staged each range is named."""
        self.staged: set[PolicyRef] = set()
        self.alone: set[PolicyRef] = set()
        """Documents of which each alone names too many."""
        self.closed: frozenset[PolicyRef] = frozenset()

    def replace(self, key: PolicyRef, claim: RangeClaim | None) -> RangeClaim | None:
        """The document claims this, or nothing; returns what it claimed before. `settle` says what that comes to."""
        before = self.claims.pop(key, None)
        self.staged.discard(key)
        self.alone.discard(key)
        if claim is not None:
            self.claims[key] = claim
            if len(claim.ranges) < claim.size:
                self.alone.add(key)
            if claim.is_staged:
                self.staged.add(key)
            else:
                self.uses.update(claim.ranges)
        if before is not None and not before.is_staged:
            self.uses.subtract(before.ranges)
            for prefix in before.ranges:
                if not self.uses[prefix]:
                    del self.uses[prefix]
        return before

    def settle(self, most: int) -> frozenset[PolicyRef]:
        """So many ranges have room: the documents that have none now and had some, or the other way."""
        before, self.closed = self.closed, frozenset(self._too_many(most))
        return before ^ self.closed

    def _too_many(self, most: int) -> Iterable[PolicyRef]:
        """The largest documents, from the first one that has no room beside the smaller ones."""
        if not self.staged and len(self.uses) <= most:
            return self.alone
        named = set[Cidr]()
        closed = list(self._without_room(self.claims.keys() - self.staged, named, most))
        return [*closed, *self._without_room(self.staged, named, most)]

    def _without_room(self, keys: Iterable[PolicyRef], named: set[Cidr], most: int) -> Iterable[PolicyRef]:
        """Those of the documents that find none; the ranges of the others are named then."""
        ordered = sorted(keys, key=lambda key: (self.claims[key].size, key))
        for place, key in enumerate(ordered):
            claim = self.claims[key]
            if max(len(named | claim.ranges), claim.size) > most:
                return ordered[place:]
            named |= claim.ranges
        return ()
