# SPDX-License-Identifier: Apache-2.0
"""Which backends a frontend uses. Pure.

Affinity as Cilium Cluster Mesh defines it: `local` and `remote` are counted over the backends that fit the frontend's port;
healthy means active or terminating and not marked unhealthy. `tests/scripts/agent/affinity.txtar` has the whole table.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from agent.tables import Backend
from meshmodel.annotations import Affinity
from meshmodel.condition import Condition
from meshmodel.steering import OTHERS, OWN


class Candidate(NamedTuple):
    """A backend that fits the frontend's protocol and port name, with where it lives."""

    backend: Backend
    cluster: str
    cluster_id: int
    is_local: bool


class AffinityTier(NamedTuple):
    """The candidates of the clusters that one word of an order stands for."""

    word: str
    candidates: Sequence[Candidate]


class TierShare(NamedTuple):
    """What a tier takes of new connections, 0 to 1, and what it could take of all that reaches it, were it not held back."""

    word: str
    clusters: frozenset[str]
    share: Fraction
    capacity: Fraction


class Choice(NamedTuple):
    """`chosen` take new connections, `draining` keep the connections they have; everything else is not in the maps.

    `parts`: which tiers share them, where it is not one tier alone; empty: nobody divided.
    """

    chosen: tuple[Candidate, ...]
    draining: tuple[Candidate, ...]
    reason: str
    parts: tuple[TierShare, ...] = ()


class Counts(NamedTuple):
    """Backends that fit, by side; active ones are healthy and may take new connections."""

    healthy_local: int
    active_local: int
    healthy_remote: int


def sides(counts: Counts, *, is_global: bool, affinity: Affinity) -> tuple[bool, bool, str]:
    """Whether the local and the remote side are used, and the rule that said so."""
    healthy_local, active_local, healthy_remote = counts
    if not is_global:
        return True, False, "not global: own cluster only"
    if affinity is Affinity.LOCAL:
        if active_local == 0 and healthy_remote > 0:
            return True, True, "affinity local: no active local backend, remote ones take over"
        return (
            True,
            False,
            "affinity local: local backends are available"
            if active_local
            else "affinity local: no healthy backend anywhere, local ones are kept",
        )
    if affinity is Affinity.REMOTE:
        if healthy_remote == 0 and healthy_local > 0:
            return True, True, "affinity remote: no healthy remote backend, local ones take over"
        return (
            False,
            True,
            "affinity remote: remote backends are available"
            if healthy_remote
            else "affinity remote: no healthy backend anywhere, remote ones are kept",
        )
    return True, True, "global: all clusters"


def select(*, is_global: bool, affinity: Affinity, candidates: Sequence[Candidate]) -> Choice:
    """Apply global and affinity, then prefer healthy active backends; unhealthy ones are chosen where there is no other."""
    local = [c for c in candidates if c.is_local]
    remote = [c for c in candidates if not c.is_local] if is_global else []
    counts = Counts(
        sum(1 for c in local if c.backend.is_healthy),
        sum(1 for c in local if c.backend.is_healthy and c.backend.condition is Condition.ACTIVE),
        sum(1 for c in remote if c.backend.is_healthy),
    )
    use_local, use_remote, reason = sides(counts, is_global=is_global, affinity=affinity)
    return pick((local if use_local else []) + (remote if use_remote else []), candidates, reason)


def select_in_order(order: Sequence[str], own: str, candidates: Sequence[Candidate]) -> Choice:
    """The first of these clusters that has a healthy active backend; of those that have none, what `pick` leaves."""
    tiers = tiers_of(order, own, candidates)
    for is_enough in (is_active, _is_healthy):
        for word, tier in tiers:
            if any(map(is_enough, tier)):
                first = "" if word == order[0] else ", those before have no backend that is well"
                return pick(tier, candidates, f"affinity-order: {word}{first}")
    return pick(
        [c for _, tier in tiers for c in tier], candidates, "affinity-order: no cluster has a backend that is well"
    )


def tiers_of(order: Sequence[str], own: str, candidates: Sequence[Candidate]) -> list[AffinityTier]:
    """The candidates by word of the order; those whose cluster it does not name are in none, unless it has OTHERS."""
    named = {own if word == OWN else word for word in order}
    return [
        AffinityTier(
            word,
            [
                c
                for c in candidates
                if (c.cluster not in named if word == OTHERS else c.cluster == (own if word == OWN else word))
            ],
        )
        for word in order
    ]


def pick(used: Sequence[Candidate], candidates: Sequence[Candidate], reason: str) -> Choice:
    """Of the clusters that are used: healthy active backends, else those that end, else the last known ones."""
    chosen = [c for c in used if c.backend.is_healthy and c.backend.condition is Condition.ACTIVE]
    if not chosen:
        chosen = [c for c in used if c.backend.is_healthy]
        reason += "; only terminating backends are left" if chosen else ""
    if not chosen and used:
        chosen = [c for c in used if c.backend.condition is Condition.ACTIVE] or list(used)
        reason += "; none is healthy, the last known ones are kept"
    if len(chosen) == len(candidates):
        return Choice(tuple(chosen), (), reason)
    taken = set(map(id, chosen))
    draining = tuple(c for c in candidates if id(c) not in taken and c.backend.condition is Condition.TERMINATING)
    return Choice(tuple(chosen), draining, reason)


def _is_healthy(candidate: Candidate) -> bool:
    return candidate.backend.is_healthy


def is_active(candidate: Candidate) -> bool:
    return candidate.backend.is_healthy and candidate.backend.condition is Condition.ACTIVE
