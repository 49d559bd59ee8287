# SPDX-License-Identifier: Apache-2.0
"""The targets that a cluster's backends are for a port; those of large sets are kept, so that a change of one cluster's
thousands costs nothing for those of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from agent.loadbalancer.port_index import MANY_PORTS, PortIndexes
from agent.loadbalancer.ports import fitting
from agent.loadbalancer.shared_ends import shared_ends
from agent.tables import BackendSet, ServicePort, Target
from meshmodel.names import ClusterName, ServiceName

LARGE: Final = 500
_new = tuple.__new__  # what `Target(...)` comes to in the end, at a fifth of its cost
MOST: Final = 256
"""Sets that are kept; the one that was made first goes first."""


class KnownTargets:
    """What `of` answers depends on its arguments alone."""

    def __init__(self, indexes: PortIndexes) -> None:
        self._indexes = indexes
        self._kept: dict[tuple[ServiceName, ClusterName, str, str, bool], tuple[BackendSet, Sequence[Target]]] = {}

    def of(self, row: BackendSet, port: ServicePort, ports: int) -> Sequence[Target]:
        """One for each backend that fits the port of a service with `ports` ports, in their order."""
        if ports >= MANY_PORTS:
            fitting_it, cluster_id = self._indexes.fitting(row, port, ports), row.cluster_id
            return [_new(Target, (b.address, b.port, b.protocol, cluster_id)) for b in fitting_it]
        if len(row.backends) < LARGE:
            return _targets(row, port)
        key = (row.service, row.cluster, port.name, port.protocol, ":" in row.backends[0].address)
        known = self._kept.get(key)
        if known is not None and known[0] is row:
            return known[1]
        self._kept.pop(key, None)
        if len(self._kept) >= MOST:
            del self._kept[next(iter(self._kept))]
        found = _targets(row, port) if known is None else _targets_after(*known, row, port)
        self._kept[key] = row, found
        return found


def _targets_after(old: BackendSet, known: Sequence[Target], row: BackendSet, port: ServicePort) -> Sequence[Target]:
    """Those of the row, the same objects as before for the backends that are as before."""
    is_by_name = port.name and not old.has_unnamed and not row.has_unnamed  # each backend is judged by itself then
    if not is_by_name or len(known) != len(old.backends) or old.cluster_id != row.cluster_id:
        return _targets(row, port)
    first, last = shared_ends(old.backends, row.backends)
    between = _targets(replace(row, backends=row.backends[first : len(row.backends) - last]), port)
    return [*known[:first], *between, *known[len(known) - last :]]


def _targets(row: BackendSet, port: ServicePort) -> list[Target]:
    name, protocol, cluster_id = port.name, port.protocol, row.cluster_id
    if not (name and row.has_unnamed):
        found = [
            _new(Target, (address, number, protocol, cluster_id))
            for address, number, spoken, names, _, _, _, _, _ in row.backends
            if spoken == protocol and name in names
        ]
        if found or name:
            return found
    return [_new(Target, (b.address, b.port, protocol, cluster_id)) for b in fitting(row, port)]
