# SPDX-License-Identifier: Apache-2.0
"""Shares of new connections by tier, cluster and backend, as slots. Pure.

A slot is chosen at random, so a backend with twice the slots gets twice the connections. Clusters that nobody names have
weight 1; where no weight above 0 is named, every backend has one slot, whichever cluster it is in.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType
from typing import Final, TypeVar

from agent.loadbalancer.select import Candidate, Choice, TierShare
from agent.tables import Target
from meshmodel.steering import OTHERS, OWN

G = TypeVar("G", bound=Hashable)

FULL: Final = Fraction(1)
ALL_GROWN: Final[Mapping[Target, Fraction]] = MappingProxyType({})
CLOSE: Final = Fraction(1, 100)
"""How far a cluster's share of the slots may be from its share of the weights."""
STEPS: Final = 64
FEW_SLOTS: Final = 4096
PER_BACKEND: Final = 32
MAXIMUM_SLOTS: Final = 65_535
"""The head of a frontend counts slots in 16 bits."""


def shares(weights: Sequence[tuple[str, int]], own: str, candidates: Iterable[Candidate]) -> dict[str, int]:
    """The weight of every cluster among the candidates; empty where nothing was said."""
    if not weights:
        return {}
    named = {own if name == OWN else name: weight for name, weight in weights}
    others = named.get(OTHERS, 1)
    return {cluster: named.get(cluster, others) for cluster in dict.fromkeys(c.cluster for c in candidates)}


def slots_each(sizes: Mapping[G, int], weights: Mapping[G, Fraction | int]) -> dict[G, int]:
    """How many slots each backend of a group gets. `sizes`: backends by group, none 0; `weights` of the groups, none 0."""
    wanted = {name: Fraction(weights[name]) / sizes[name] for name in sizes}
    least, whole = min(wanted.values()), sum(weights[name] for name in sizes)
    limit = min(MAXIMUM_SLOTS, max(FEW_SLOTS, PER_BACKEND * sum(sizes.values())))
    best: tuple[Fraction, dict[G, int]] | None = None
    for step in range(1, STEPS + 1):
        each = {name: max(1, round(step * ratio / least)) for name, ratio in wanted.items()}
        total = sum(each[name] * sizes[name] for name in sizes)
        if total > limit:
            break
        error = max(abs(Fraction(each[name] * sizes[name], total) - Fraction(weights[name]) / whole) for name in sizes)
        if best is None or error < best[0]:
            best = error, each
        if error <= CLOSE:
            break
    return best[1] if best is not None else _fill(sizes, wanted, limit)


def _fill(sizes: Mapping[G, int], wanted: Mapping[G, Fraction], limit: int) -> dict[G, int]:
    """As many slots as the limit allows, in the wanted ratio; one each where that is less than one, before the rest is shared."""
    shared = dict(wanted)
    while shared:
        room = limit - sum(sizes[name] for name in wanted if name not in shared)
        scale = room / sum(ratio * sizes[name] for name, ratio in shared.items())
        small = [name for name, ratio in shared.items() if ratio * scale < 1]
        if not small:
            return {name: int(shared[name] * scale) if name in shared else 1 for name in wanted}
        for name in small:
            del shared[name]
    return dict.fromkeys(wanted, 1)


def weighted(
    choice: Choice,
    targets: tuple[Target, ...],
    weights: Sequence[tuple[str, int]],
    own: str,
    grown: Mapping[Target, Fraction] = ALL_GROWN,
) -> tuple[Target, ...]:
    """The targets of `choice`, each as often as parts of tiers, weights of clusters and its own growth want.

    `grown`: what part of a full-grown backend's connections a target takes, above 0; those that are not named are full-grown.
    """
    has_weights = any(weight for _, weight in weights)
    if not has_weights and not choice.parts and not grown:
        return targets
    names = {c.cluster_id: c.cluster for c in choice.chosen}
    groups: dict[tuple[str, Fraction], list[Target]] = {}
    for target in targets:
        groups.setdefault((names[target.cluster_id], grown.get(target, FULL)), []).append(target)
    if len(groups) < 2:
        return targets
    masses: dict[str, Fraction] = {}
    for (cluster, growth), found in groups.items():
        masses[cluster] = masses.get(cluster, Fraction(0)) + growth * len(found)
    portions = _portions(choice.parts, masses, shares(weights, own, choice.chosen) if has_weights else {})
    sizes = {group: len(found) for group, found in groups.items()}
    wanted = {(name, g): portions[name] * g * size / masses[name] for (name, g), size in sizes.items()}
    if len({wanted[group] / size for group, size in sizes.items()}) < 2:
        return targets
    each = slots_each(sizes, wanted)
    return tuple(target for group, found in groups.items() for target in found for _ in range(each[group]))


def _portions(
    parts: Sequence[TierShare], masses: Mapping[str, Fraction], weights: Mapping[str, int]
) -> dict[str, Fraction]:
    """The share of every cluster: that of its tier, divided by weights where there are some, else by mass."""
    found: dict[str, Fraction] = {}
    for clusters, share in [(part.clusters, part.share) for part in parts] or [(frozenset(masses), FULL)]:
        sizes = {name: Fraction(weights[name]) if weights else masses[name] for name in masses if name in clusters}
        whole = sum(sizes.values())
        found |= {name: share * size / whole for name, size in sizes.items()}
    return found
