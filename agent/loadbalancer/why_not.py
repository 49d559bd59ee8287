# SPDX-License-Identifier: Apache-2.0
"""Why a backend that fits a port takes no new connections from this node, in the order in which it was decided. Pure."""

from __future__ import annotations

from agent.loadbalancer.nearby import Locality
from agent.loadbalancer.select import Candidate, Choice
from agent.loadbalancer.weights import shares
from agent.tables import Service
from meshmodel.condition import Condition


class WhyNot:
    """Says it of the candidates for one port, of which `choice` was made."""

    def __init__(self, service: Service, choice: Choice, locality: Locality, *, is_inside: bool) -> None:
        self._service, self._locality = service, locality
        self._is_here_only = is_inside and service.is_internal_local
        self._rule = choice.reason.partition(";")[0]
        self._used = frozenset(c.cluster for c in choice.chosen)

    def reason(
        self, candidate: Candidate, *, is_withdrawn: bool, is_failing: bool = False, is_drained: bool = False
    ) -> str:
        """A sentence about a candidate that is not chosen. `is_withdrawn`: its cluster is; `is_failing`: it fails its probe;
        `is_drained`: its cluster is.
        """
        backend, service, here = candidate.backend, self._service, self._locality
        if self._is_here_only:
            if not candidate.is_local or backend.node != here.node:
                return "it is not on this node (internalTrafficPolicy Local)"
        elif not candidate.is_local and not service.is_global:
            return "the service is not global"
        elif not shares(service.steering.weights, here.cluster, (candidate,)).get(candidate.cluster, 1):
            return f"{candidate.cluster} has weight 0"
        if not backend.is_healthy and is_drained:
            return f"{candidate.cluster} is drained"
        if not backend.is_healthy:
            if is_failing:
                return "it fails its health probe"
            return f"{candidate.cluster} is withdrawn" if is_withdrawn else "its node does not answer probes"
        if candidate.cluster not in self._used:
            return self._rule
        if backend.condition is Condition.TERMINATING:
            return "it ends"
        return f"it is hinted for {_hinted_for(candidate)}"


def _hinted_for(candidate: Candidate) -> str:
    zones, nodes = candidate.backend.hints
    found = [f"node {name}" for name in nodes] + [f"zone {name}" for name in zones]
    return " and ".join(found) or "no zone"
