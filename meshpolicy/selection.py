# SPDX-License-Identifier: Apache-2.0
"""Which identities each selector selects, kept up to date from both sides.

Selectors are indexed by one label that an identity must carry, identities by every label: a new identity meets only
the selectors it could satisfy, a new selector only the identities that could satisfy it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from meshmodel.labels import CLUSTER_LABEL, NAMESPACE_LABEL, Label
from meshpolicy.binding import Feature, Selection
from meshpolicy.entity import further_worlds
from meshpolicy.peer import BoundSelector, CidrSelector, IdentitySelector, cidr_prefixes
from meshpolicy.prefix import Cidr
from meshpolicy.selector import RESERVED_SOURCE, LabelSelector, Operator, Requirement, sources_of

_REMEMBERED: Final = 1024
_SCOPE_KEYS: Final = frozenset({NAMESPACE_LABEL, CLUSTER_LABEL})


class KnownIdentity:
    """One identity: its labels in searchable form and the selections it is in."""

    __slots__ = ("features", "labels", "prefixes", "selections")

    def __init__(self, labels: tuple[Label, ...], further: tuple[Label, ...] = ()) -> None:
        self.labels = labels
        self.prefixes = cidr_prefixes(labels)
        self.features = _features((*labels, *further))
        self.selections: list[Selection] = []


class Selections:
    """All selectors in use and all identities, each finding the other through the index.

    Selectors of labels find outsiders by every name of their world: see `further_worlds` for what `ipv6` adds.
    """

    def __init__(self, *, dual_stack: bool, ipv6: bool = False) -> None:
        self._dual_stack, self._ipv6 = dual_stack, ipv6
        self._identities: dict[int, KnownIdentity] = {}
        self._selections: dict[BoundSelector, Selection] = {}
        self._by_feature: dict[Feature, set[int]] = {}
        self._anchored: dict[Feature, dict[LabelSelector, Selection]] = {}
        self._unanchored: dict[LabelSelector, Selection] = {}
        self._by_prefix: dict[Cidr, dict[CidrSelector, Selection]] = {}
        self._by_number: dict[int, Selection] = {}
        self._ranges: list[tuple[int, int, int, int]] = []
        """(version, first address, bits, identity) of every identity that is an address range, sorted."""

    def identity(self, number: int) -> KnownIdentity | None:
        """What is known of an identity."""
        return self._identities.get(number)

    def identities(self) -> Iterable[int]:
        """The numbers of all known identities."""
        return self._identities.keys()

    def all(self) -> Iterable[Selection]:
        """All selectors in use."""
        return self._selections.values()

    def acquire(self, selector: BoundSelector) -> Selection:
        """The selection of a selector, made if nobody holds it. Each call is answered by one `release`."""
        selection = self._selections.get(selector)
        if selection is None:
            selection = self._make(selector)
        selection.holders += 1
        return selection

    def _make(self, selector: BoundSelector) -> Selection:
        selection = Selection(selector)
        self._selections[selector] = selection
        if isinstance(selector, CidrSelector):
            self._by_prefix.setdefault(selector.prefix, {})[selector] = selection
            selection.identities = self._select_cidr(selector)
        elif isinstance(selector, IdentitySelector):
            self._by_number[selector.number] = selection
            selection.identities = {selector.number} & self._identities.keys()
        else:
            self._anchor(selection, selector)
            selection.identities = self._select(selector)
        for number in selection.identities:
            self._identities[number].selections.append(selection)
        return selection

    def release(self, selection: Selection) -> None:
        """One holder less; a selection that nobody holds is forgotten. Raises: ValueError if nobody held it."""
        selector = selection.selector
        if selection.holders < 1 or self._selections.get(selector) is not selection:
            raise ValueError(f"selection {selector} is released more often than it was acquired")
        selection.holders -= 1
        if selection.holders:
            return
        del self._selections[selector]
        if isinstance(selector, CidrSelector):
            self._by_prefix[selector.prefix].pop(selector)
            if not self._by_prefix[selector.prefix]:
                del self._by_prefix[selector.prefix]
        elif isinstance(selector, IdentitySelector):
            del self._by_number[selector.number]
        else:
            for anchor in selection.anchors:
                del self._anchored[anchor][selector]
            self._unanchored.pop(selector, None)
        for number in selection.identities:
            self._identities[number].selections.remove(selection)

    def add_identity(self, number: int, labels: tuple[Label, ...]) -> KnownIdentity:
        """Make an identity known. It must not be known yet."""
        identity = KnownIdentity(labels, further_worlds(labels) if self._ipv6 else ())
        self._identities[number] = identity
        for feature in identity.features:
            self._by_feature.setdefault(feature, set()).add(number)
        for prefix in identity.prefixes:
            insort(self._ranges, (prefix.version, prefix.network, prefix.bits, number))
        identity.selections = [*self._matching_labels(identity), *self._matching_ranges(identity)]
        if number in self._by_number:
            identity.selections.append(self._by_number[number])
        for selection in identity.selections:
            selection.identities.add(number)
        return identity

    def remove_identity(self, number: int) -> KnownIdentity | None:
        """Forget an identity; None if it was not known."""
        identity = self._identities.pop(number, None)
        if identity is None:
            return None
        for feature in identity.features:
            self._by_feature[feature].discard(number)
            if not self._by_feature[feature]:
                del self._by_feature[feature]
        for prefix in identity.prefixes:
            self._ranges.remove((prefix.version, prefix.network, prefix.bits, number))
        for selection in identity.selections:
            selection.identities.discard(number)
        return identity

    def _anchor(self, selection: Selection, selector: LabelSelector) -> None:
        selection.conditions = tuple(
            (_required_features(part), not _is_positive(part)) for part in selector.requirements
        )
        best = min(
            (part for part in selector.requirements if _is_positive(part)),
            key=self._breadth,
            default=None,
        )
        if best is None:
            self._unanchored[selector] = selection
            return
        selection.anchors = _required_features(best)
        for anchor in selection.anchors:
            self._anchored.setdefault(anchor, {})[selector] = selection

    def _breadth(self, part: Requirement) -> tuple[bool, bool, int]:
        """How many identities satisfy a requirement, as far as it can be told: scopes are broad, keys broader."""
        count = sum(len(self._by_feature.get(feature, ())) for feature in _required_features(part))
        return part.operator is Operator.EXISTS, part.key in _SCOPE_KEYS, count

    def _select(self, selector: LabelSelector) -> set[int]:
        positive = [part for part in selector.requirements if _is_positive(part)]
        positive.sort(key=self._breadth)
        found = self._with_any(positive[0]) if positive else set(self._identities)
        for part in (*positive[1:], *(part for part in selector.requirements if part not in positive)):
            if _is_positive(part):
                found &= self._with_any(part)
            else:
                found -= self._with_any(part)
        return found

    def _with_any(self, part: Requirement) -> set[int]:
        features = _required_features(part)
        return set().union(*(self._by_feature.get(feature, ()) for feature in features))

    def _matching_labels(self, identity: KnownIdentity) -> Iterable[Selection]:
        candidates = dict(self._unanchored)
        for feature in identity.features:
            candidates.update(self._anchored.get(feature, {}))
        lacks = identity.features.isdisjoint
        return [
            selection
            for selection in candidates.values()
            if all(lacks(features) is is_negative for features, is_negative in selection.conditions)
        ]

    def _matching_ranges(self, identity: KnownIdentity) -> Iterable[Selection]:
        if not identity.prefixes:
            if not any(label.source == RESERVED_SOURCE for label in identity.labels):
                return []
            zeros = (Cidr(4, 0, 0), Cidr(6, 0, 0))
            candidates = [entry for prefix in zeros for entry in self._by_prefix.get(prefix, {}).items()]
        else:
            candidates = [
                entry
                for prefix in identity.prefixes
                for bits in range(prefix.bits + 1)
                for entry in self._by_prefix.get(prefix.shortened(bits), {}).items()
            ]
        return list(
            {
                selection: None
                for selector, selection in candidates
                if selector.matches(identity.labels, dual_stack=self._dual_stack)
            }
        )

    def _select_cidr(self, selector: CidrSelector) -> set[int]:
        prefix = selector.prefix
        start = bisect_left(self._ranges, (prefix.version, prefix.network, 0, 0))
        stop = bisect_left(self._ranges, (prefix.version, prefix.last + 1, 0, 0))
        candidates = {number for _, _, _, number in self._ranges[start:stop]}
        if prefix.bits == 0:
            for name in ("world", f"world-ipv{prefix.version}"):
                candidates |= self._by_feature.get((RESERVED_SOURCE, name), set())
        return {
            number
            for number in candidates
            if selector.matches(self._identities[number].labels, dual_stack=self._dual_stack)
        }


@lru_cache(maxsize=_REMEMBERED)
def _features(labels: tuple[Label, ...]) -> frozenset[Feature]:
    """What an identity can be found by: each label and each key, under its own source and, of pods, under "any"."""
    return frozenset(
        feature
        for label in labels
        for source in sources_of(label)
        for feature in ((source, label.key), (source, label.key, label.value))
    )


def _required_features(part: Requirement) -> tuple[Feature, ...]:
    """The features of which a requirement speaks: one per value, or the key."""
    if part.operator in (Operator.IN, Operator.NOT_IN):
        return tuple((part.source, part.key, value) for value in part.values)
    return ((part.source, part.key),)


def _is_positive(part: Requirement) -> bool:
    """Whether a label satisfies the requirement, not the lack of one."""
    return part.operator in (Operator.IN, Operator.EXISTS)
