# SPDX-License-Identifier: Apache-2.0
"""The targets that a cluster's backends are for a port; those of large sets are kept, so that a change of one cluster's
thousands costs nothing for those of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agent.loadbalancer.ports import fitting
from agent.tables import BackendSet, ServicePort, Target
from meshmodel.names import ClusterName, ServiceName

LARGE: Final = 500
MOST: Final = 256
"""Sets that are kept; the one that was made first goes first."""


class KnownTargets:
    """What `of` answers depends on its arguments alone."""

    def __init__(self) -> None:
        self._kept: dict[tuple[ServiceName, ClusterName, str, str], tuple[BackendSet, Sequence[Target]]] = {}

    def of(self, row: BackendSet, port: ServicePort) -> Sequence[Target]:
        """One for each backend that fits the port, in their order."""
        if len(row.backends) < LARGE:
            return _targets(row, port)
        key = (row.service, row.cluster, port.name, port.protocol)
        known = self._kept.get(key)
        if known is not None and known[0] is row:
            return known[1]
        self._kept.pop(key, None)
        if len(self._kept) >= MOST:
            del self._kept[next(iter(self._kept))]
        found = _targets(row, port)
        self._kept[key] = row, found
        return found


def _targets(row: BackendSet, port: ServicePort) -> list[Target]:
    name, protocol, cluster_id = port.name, port.protocol, row.cluster_id
    if not (name and row.has_unnamed):
        found = [
            Target(b.address, b.port, protocol, cluster_id)
            for b in row.backends
            if b.protocol == protocol and name in b.names
        ]
        if found or name:
            return found
    return [Target(b.address, b.port, protocol, cluster_id) for b in fitting(row, port)]
