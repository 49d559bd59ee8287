# SPDX-License-Identifier: Apache-2.0
"""Which backends new connections use, seen from one node: traffic policy, then order or affinity, then hints. Pure.

Hints count as in kube-proxy: those of a cluster only if every one of its chosen backends has some and one is for this node or
zone; those for nodes go before those for zones. Affinity decides first, hints inside each cluster that it chose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import groupby
from types import MappingProxyType
from typing import Final, NamedTuple

from agent.loadbalancer.select import Candidate, Choice, is_active, select, select_in_order, tiers_of
from agent.loadbalancer.spill import spill
from agent.loadbalancer.weights import shares
from agent.tables import NO_HINTS, Service
from meshmodel.annotations import Affinity
from meshmodel.steering import OTHERS, OWN

NOTHING_HELD: Final[Mapping[str, Fraction]] = MappingProxyType({})


class Locality(NamedTuple):
    """Where this node is; a zone that nobody named is empty."""

    cluster: str
    node: str
    zone: str = ""


AS_ORDER: Final = {Affinity.LOCAL: (OWN, OTHERS), Affinity.REMOTE: (OTHERS, OWN)}
"""The order of tiers that an affinity stands for."""


def decide(
    service: Service,
    candidates: Sequence[Candidate],
    locality: Locality,
    *,
    is_inside: bool,
    held: Mapping[str, Fraction] = NOTHING_HELD,
    unready: int = 0,
) -> Choice:
    """Which backends new connections from `locality` use. `is_inside`: they come through a cluster address of the service.

    `held`: what tiers could take lately, as for `spill`. `unready`: how many of the own cluster's pods are known and not ready.
    """
    if is_inside and service.is_internal_local:
        here = [c for c in candidates if c.is_local and c.backend.node == locality.node != ""]
        choice = select(is_global=False, affinity=service.affinity, candidates=here)
        rule = "internalTrafficPolicy Local: backends of this node only"
        return choice._replace(reason=rule + choice.reason.removeprefix(_rule_of(choice)))
    choice = _steered(service, candidates, locality, held, unready)
    if not any(c.backend.hints is not NO_HINTS for c in choice.chosen) or not all(map(is_active, choice.chosen)):
        return choice
    kept: list[Candidate] = []
    said: list[str] = []
    for cluster, group in groupby(choice.chosen, key=lambda c: c.cluster):
        members = list(group)
        near, what = _hinted(members, locality)
        kept += near
        if what:
            said.append(f"in {cluster} those hinted for {what}")
    return choice._replace(chosen=tuple(kept), reason="; ".join((choice.reason, *said)))


def _steered(
    service: Service,
    candidates: Sequence[Candidate],
    locality: Locality,
    held: Mapping[str, Fraction],
    unready: int,
) -> Choice:
    order, weights = service.steering.order, shares(service.steering.weights, locality.cluster, candidates)
    out = sorted(name for name, weight in weights.items() if not weight) if service.is_global else []
    left = [c for c in candidates if c.cluster not in out] if out else candidates
    tiers = order or AS_ORDER.get(service.affinity, ())
    threshold = service.steering.threshold_percent if service.is_global else 0
    spilled = None
    if threshold and tiers:
        in_tiers = tiers_of(tiers, locality.cluster, left)
        own = next(word for word in (OWN, locality.cluster, OTHERS) if word in (*tiers, OTHERS))
        spilled = spill(in_tiers, left, threshold, held, {own: unready})
    if spilled is not None:
        choice = spilled
    elif order and service.is_global:
        choice = select_in_order(order, locality.cluster, left)
    else:
        choice = select(is_global=service.is_global, affinity=service.affinity, candidates=left)
    if not weights or not service.is_global:
        return choice
    return choice._replace(reason=f"{choice.reason}; weights {', '.join(f'{n}={w}' for n, w in weights.items())}")


def _hinted(members: list[Candidate], locality: Locality) -> tuple[list[Candidate], str]:
    if all(c.backend.hints.nodes for c in members):
        here = [c for c in members if locality.node in c.backend.hints.nodes]
        if here:
            return here, f"node {locality.node}"
    if locality.zone and all(c.backend.hints.zones for c in members):
        here = [c for c in members if locality.zone in c.backend.hints.zones]
        if here:
            return here, f"zone {locality.zone}"
    return members, ""


def _rule_of(choice: Choice) -> str:
    return choice.reason.partition(";")[0]
