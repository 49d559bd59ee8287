# SPDX-License-Identifier: Apache-2.0
"""Shares of new connections by cluster, as slots. Pure.

A slot is chosen at random, so a backend with twice the slots gets twice the connections. Clusters that nobody names have
weight 1; where no weight above 0 is named, every backend has one slot, whichever cluster it is in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Final

from agent.loadbalancer.select import Candidate
from agent.tables import Target
from meshmodel.steering import OTHERS, OWN

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


def slots_each(sizes: Mapping[str, int], weights: Mapping[str, int]) -> dict[str, int]:
    """How many slots each backend of a cluster gets. `sizes`: backends by cluster, none 0; `weights` of them, none 0."""
    wanted = {name: Fraction(weights[name], sizes[name]) for name in sizes}
    least, whole = min(wanted.values()), sum(weights[name] for name in sizes)
    limit = min(MAXIMUM_SLOTS, max(FEW_SLOTS, PER_BACKEND * sum(sizes.values())))
    best: tuple[Fraction, dict[str, int]] | None = None
    for step in range(1, STEPS + 1):
        each = {name: max(1, round(step * ratio / least)) for name, ratio in wanted.items()}
        total = sum(each[name] * sizes[name] for name in sizes)
        if total > limit:
            break
        error = max(abs(Fraction(each[name] * sizes[name], total) - Fraction(weights[name], whole)) for name in sizes)
        if best is None or error < best[0]:
            best = error, each
        if error <= CLOSE:
            break
    return best[1] if best is not None else _fill(sizes, wanted, limit)


def _fill(sizes: Mapping[str, int], wanted: Mapping[str, Fraction], limit: int) -> dict[str, int]:
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
    chosen: Sequence[Candidate], targets: tuple[Target, ...], weights: Sequence[tuple[str, int]], own: str
) -> tuple[Target, ...]:
    """The targets of `chosen`, each as often as its cluster's weight wants."""
    if not any(weight for _, weight in weights):
        return targets
    names = {c.cluster_id: c.cluster for c in chosen}
    by_cluster: dict[str, list[Target]] = {}
    for target in targets:
        by_cluster.setdefault(names[target.cluster_id], []).append(target)
    if len(by_cluster) < 2:
        return targets
    each = slots_each({name: len(found) for name, found in by_cluster.items()}, shares(weights, own, chosen))
    return tuple(target for name, found in by_cluster.items() for target in found for _ in range(each[name]))
