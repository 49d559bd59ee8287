# SPDX-License-Identifier: Apache-2.0
"""Whether a pod, a node or an endpoint slice still has a backend's address. Reads tables only.

The registry deletes the entry of a backend that no service selects once nobody has its address; its connections end then.
"""

from __future__ import annotations

from agent.tables import AgentDB, ClaimOrigin, Target
from meshmodel.address import host_prefix
from meshmodel.names import ServiceName

_HOLDERS = frozenset({ClaimOrigin.POD, ClaimOrigin.NODE})


class KnownAddresses:
    """Answers from the tables as they are now."""

    def __init__(self, db: AgentDB) -> None:
        self._db = db
        self._listed: frozenset[str] = frozenset()
        self._listed_at = -1

    def owner_of(self, target: Target, service: ServiceName | None) -> str | None:
        """The pod that has the address as namespace/name, "" if its pod is not known, None if nobody has the address.

        Before every source of addresses has finished its first listing the answer is never None.
        """
        if not self._db.prefixes.initialized:
            return ""
        row = self._db.prefixes.get(host_prefix(target.address))
        if row is not None and row.origin in _HOLDERS and row.cluster_id == target.cluster_id:
            return f"{row.namespace}/{row.name}" if row.name else ""
        is_listed = self._lists(service, target.address) if service is not None else self._is_listed(target.address)
        return "" if is_listed else None

    def _lists(self, service: ServiceName, address: str) -> bool:
        """Whether any cluster's contribution to the service has the address, chosen or not."""
        clusters = (self._db.own, *self._db.peers.keys())
        rows = (self._db.backends.get((service, cluster)) for cluster in clusters)
        return any(b.address == address for row in rows if row is not None for b in row.of_both_families)

    def _is_listed(self, address: str) -> bool:
        """Whether any service has the address: for an entry found in the map at start, whose service is not known."""
        if self._listed_at != self._db.revision:
            self._listed = frozenset(b.address for row in self._db.backends.rows() for b in row.of_both_families)
            self._listed_at = self._db.revision
        return address in self._listed
