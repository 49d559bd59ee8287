# SPDX-License-Identifier: Apache-2.0
"""Backends by port, for services of many ports: what each port costs is what it gets, not all that the service has. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agent.loadbalancer.ports import describe_mismatch, fitting
from agent.tables import Backend, BackendSet, ServicePort
from meshmodel.names import ClusterName, ServiceName

MANY_PORTS: Final = 16
"""From so many ports on an index costs less than to look at every backend for each of them."""
MOST: Final = 8
"""Sets whose index is kept, the newest: those of one service are asked for one after the other."""


class PortIndex:
    """The backends of one set by protocol and port name, as places in their order."""

    def __init__(self, row: BackendSet) -> None:
        self.row = row
        self._named: dict[tuple[str, str], list[int]] = {}
        self._unnamed: dict[str, list[int]] = {}
        for place, backend in enumerate(row.backends):
            for name in backend.names:
                self._named.setdefault((backend.protocol, name), []).append(place)
            if not any(backend.names):
                self._unnamed.setdefault(backend.protocol, []).append(place)

    def fitting(self, port: ServicePort) -> Sequence[Backend]:
        """The same as `ports.fitting`."""
        if not port.name:
            return fitting(self.row, port)
        places = self._named.get((port.protocol, port.name), [])
        if self.row.has_unnamed and (unnamed := self._unnamed.get(port.protocol)):
            places = sorted((*places, *unnamed)) if places else unnamed
        return [self.row.backends[place] for place in places]


class PortIndexes:
    """Indexes of the sets that were asked for last. `ports` is how many the service has."""

    def __init__(self) -> None:
        self._kept: dict[tuple[ServiceName, ClusterName, bool], PortIndex] = {}

    def fitting(self, row: BackendSet, port: ServicePort, ports: int) -> Sequence[Backend]:
        """The backends for this port, in their order."""
        if ports < MANY_PORTS or not row.backends:
            return fitting(row, port)
        key = (row.service, row.cluster, ":" in row.backends[0].address)
        known = self._kept.get(key)
        if known is None or known.row is not row:
            self._kept.pop(key, None)
            if len(self._kept) >= MOST:
                del self._kept[next(iter(self._kept))]
            known = self._kept[key] = PortIndex(row)
        return known.fitting(port)

    def mismatch(self, row: BackendSet, port: ServicePort, ports: int) -> str:
        """Why none, or only some, of a cluster's backends serve this port; empty if all do."""
        return describe_mismatch(row, port, ports, self.fitting(row, port, ports))
