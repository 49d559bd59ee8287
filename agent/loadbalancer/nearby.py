# SPDX-License-Identifier: Apache-2.0
"""What a service's traffic policy and the hints of its backends leave of the choice, seen from one node. Pure.

Hints count as in kube-proxy: those of a cluster only if every one of its chosen backends has some and one is for this node or
zone; those for nodes go before those for zones. Affinity decides first, hints inside each cluster that it chose.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from agent.loadbalancer.select import Candidate, Choice, select
from agent.tables import NO_HINTS, Service
from meshmodel.condition import Condition


class Locality(NamedTuple):
    """Where this node is; a zone that nobody named is empty."""

    node: str
    zone: str = ""


def decide(service: Service, candidates: Sequence[Candidate], locality: Locality, *, is_inside: bool) -> Choice:
    """Which backends new connections from `locality` use. `is_inside`: they come through a cluster address of the service."""
    if is_inside and service.is_internal_local:
        here = [c for c in candidates if c.is_local and c.backend.node == locality.node != ""]
        choice = select(is_global=False, affinity=service.affinity, candidates=here)
        rule = "internalTrafficPolicy Local: backends of this node only"
        return choice._replace(reason=rule + choice.reason.removeprefix(_rule_of(choice)))
    choice = select(is_global=service.is_global, affinity=service.affinity, candidates=candidates)
    if not any(c.backend.hints is not NO_HINTS for c in choice.chosen) or not all(map(_is_active, choice.chosen)):
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


def _is_active(candidate: Candidate) -> bool:
    return candidate.backend.is_healthy and candidate.backend.condition is Condition.ACTIVE


def _rule_of(choice: Choice) -> str:
    return choice.reason.partition(";")[0]
