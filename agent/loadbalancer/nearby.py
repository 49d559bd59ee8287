# SPDX-License-Identifier: Apache-2.0
"""Which backends new connections use, seen from one node: traffic policy, then order or affinity, then hints. Pure.

Hints count as in kube-proxy: those of a cluster only if every one of its chosen backends has some and one is for this node or
zone; those for nodes go before those for zones. Affinity decides first, hints inside each cluster that it chose.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from agent.loadbalancer.select import Candidate, Choice, is_active, select, select_in_order
from agent.loadbalancer.weights import shares
from agent.tables import NO_HINTS, Service


class Locality(NamedTuple):
    """Where this node is; a zone that nobody named is empty."""

    cluster: str
    node: str
    zone: str = ""


def decide(service: Service, candidates: Sequence[Candidate], locality: Locality, *, is_inside: bool) -> Choice:
    """Which backends new connections from `locality` use. `is_inside`: they come through a cluster address of the service."""
    if is_inside and service.is_internal_local:
        here = [c for c in candidates if c.is_local and c.backend.node == locality.node != ""]
        choice = select(is_global=False, affinity=service.affinity, candidates=here)
        rule = "internalTrafficPolicy Local: backends of this node only"
        return choice._replace(reason=rule + choice.reason.removeprefix(_rule_of(choice)))
    choice = _steered(service, candidates, locality)
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


def _steered(service: Service, candidates: Sequence[Candidate], locality: Locality) -> Choice:
    order, weights = service.steering.order, shares(service.steering.weights, locality.cluster, candidates)
    out = sorted(name for name, weight in weights.items() if not weight) if service.is_global else []
    left = [c for c in candidates if c.cluster not in out] if out else candidates
    if order and service.is_global:
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
