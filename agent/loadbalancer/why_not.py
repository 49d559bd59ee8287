# SPDX-License-Identifier: Apache-2.0
"""Why a backend that fits a port takes no new connections from this node, in the order in which it was decided. Pure."""

from __future__ import annotations

from agent.loadbalancer.nearby import Locality
from agent.loadbalancer.select import Candidate, Choice
from agent.loadbalancer.weights import shares
from agent.tables import Service
from meshmodel.condition import Condition


def why_not(
    candidate: Candidate, choice: Choice, service: Service, locality: Locality, *, is_inside: bool, is_withdrawn: bool
) -> str:
    """A sentence about a candidate that is not chosen. `is_withdrawn`: its whole cluster is."""
    backend = candidate.backend
    if is_inside and service.is_internal_local:
        if not candidate.is_local or backend.node != locality.node:
            return "it is not on this node (internalTrafficPolicy Local)"
    elif not candidate.is_local and not service.is_global:
        return "the service is not global"
    elif not shares(service.steering.weights, locality.cluster, (candidate,)).get(candidate.cluster, 1):
        return f"{candidate.cluster} has weight 0"
    if not backend.is_healthy:
        return f"{candidate.cluster} is withdrawn" if is_withdrawn else "its node does not answer probes"
    if not any(c.cluster == candidate.cluster for c in choice.chosen):
        return choice.reason.partition(";")[0]
    if backend.condition is Condition.TERMINATING:
        return "it ends"
    return f"it is hinted for {_hinted_for(candidate)}"


def _hinted_for(candidate: Candidate) -> str:
    zones, nodes = candidate.backend.hints
    found = [f"node {name}" for name in nodes] + [f"zone {name}" for name in zones]
    return " and ".join(found) or "no zone"
