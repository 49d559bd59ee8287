# SPDX-License-Identifier: Apache-2.0
"""How many backends one cluster may give one service, and what is left out beyond. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from agent.tables import Backend
from agent.wanted_backends import NAMED
from meshmodel.address import place_of
from meshmodel.names import ClusterName, ServiceName


class BackendLimit:
    """The first so many are kept, in the order they are given in, which is that of their addresses."""

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._said: dict[ServiceName, dict[ClusterName, str]] = {}

    def cut(
        self, name: ServiceName, cluster: ClusterName, backends: Sequence[Backend], left_out: str = ""
    ) -> tuple[Sequence[Backend], bool]:
        """What is kept, and whether the service has other problems now than before. `left_out`: what already is."""
        said = self._said.get(name, {})
        before = said.get(cluster, "")
        now = self._describe(cluster, backends) if len(backends) > self._maximum else left_out
        if now:
            self._said.setdefault(name, {})[cluster] = now
        elif before:
            del said[cluster]
            if not said:
                del self._said[name]
        return backends[: self._maximum], now != before

    def problems(self, name: ServiceName) -> list[str]:
        """One sentence for each cluster that gives the service too many."""
        return [text for _, text in sorted(self._said.get(name, {}).items())]

    def _describe(self, cluster: ClusterName, backends: Sequence[Backend]) -> str:
        first = ", ".join(
            f"{place_of(b.address, b.port)}/{b.protocol}" for b in backends[self._maximum : self._maximum + NAMED]
        )
        return (
            f"cluster {cluster} has more than {self._maximum} backends (addresses times ports; service-backends-max): "
            f"{first} and what follows is left out"
        )
