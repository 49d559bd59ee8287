# SPDX-License-Identifier: Apache-2.0
"""Which part of new connections each tier of clusters takes, when a tier that is not well enough passes some on. Pure.

A tier with at least the threshold of its backends well takes all that reaches it. Below, it takes as much as it has of the
threshold, and the next tier the rest; what no tier takes is shared by those that take some, in their ratio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from agent.loadbalancer.select import AffinityTier, Candidate, Choice, TierShare, is_active, pick
from meshmodel.condition import Condition

ALL = Fraction(1)


def capacity(tier: AffinityTier, threshold_percent: int, unready: int = 0) -> Fraction:
    """How much of what reaches the tier it can take, 0 to 1. `unready`: backends known of it that are no candidates.

    Backends that end are on their way out and count neither for nor against it.
    """
    well = sum(1 for c in tier.candidates if is_active(c))
    known = unready + sum(1 for c in tier.candidates if c.backend.condition is Condition.ACTIVE)
    return min(ALL, Fraction(well * 100, known * threshold_percent)) if well else Fraction(0)


def parts_of(capacities: Sequence[Fraction]) -> list[Fraction]:
    """The share of each tier, in order; they add up to 1, or are all 0 where no tier can take anything."""
    left, found = ALL, []
    for each in capacities:
        found.append(left * each)
        left -= found[-1]
    total = ALL - left
    return [share / total for share in found] if total else found


def spill(
    tiers: Sequence[AffinityTier],
    candidates: Sequence[Candidate],
    threshold_percent: int,
    held: Mapping[str, Fraction],
    unready: Mapping[str, int],
) -> Choice | None:
    """The tiers that take a part, and which; None where no tier has a backend that is well.

    A tier of which nothing is known is none of the parts: it does not lack anything either.

    `held`: by word of a tier, what it could take lately, if that was less. `unready`: as for `capacity`.
    """
    capacities = [capacity(tier, threshold_percent, unready.get(tier.word, 0)) for tier in tiers]
    if not any(capacities):
        return None
    lately = [min(each, held.get(tier.word, ALL)) for tier, each in zip(tiers, capacities, strict=True)]
    in_force = lately if any(lately) else capacities
    found = [
        (tier, TierShare(tier.word, frozenset(c.cluster for c in tier.candidates), share, each))
        for tier, share, each in zip(tiers, parts_of(in_force), capacities, strict=True)
        if tier.candidates or unready.get(tier.word)
    ]
    used = [c for tier, part in found if part.share for c in tier.candidates if is_active(c)]
    parts = tuple(part for _, part in found)
    said = ", ".join(f"{part.word} {float(part.share):.0%}" for part in parts if part.share)
    return pick(used, candidates, f"affinity-threshold {threshold_percent}%: {said}")._replace(parts=parts)
