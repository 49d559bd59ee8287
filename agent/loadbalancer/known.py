# SPDX-License-Identifier: Apache-2.0
"""Whether a backend's address still lives, by everything this node was told: pods, nodes and endpoint slices. Reads tables only.

A backend that nothing selects keeps its entry, and so its connections, until the answer is no.
"""

from __future__ import annotations

import logging
from typing import Any, TypeVar

from agent.loadbalancer.registry import BackendRegistry
from agent.tables import AgentDB, Origin, Target
from meshkit.errors import MeshError
from meshkit.table import HistoryLostError, Table
from meshmodel.names import ServiceName

log = logging.getLogger(__name__)
K = TypeVar("K")
_HOLDERS = frozenset({Origin.POD, Origin.NODE})


class KnownAddresses:
    """Answers from the tables as they are now."""

    def __init__(self, db: AgentDB) -> None:
        self._db = db
        self._listed: frozenset[str] = frozenset()
        self._listed_at = -1

    def owner_of(self, target: Target, service: ServiceName | None) -> str | None:
        """The pod that has the address, "" if it lives but nobody says whose it is, None if nobody knows it any more.

        Nobody is gone before every source of addresses has finished its first listing.
        """
        if not self._db.prefixes.initialized:
            return ""
        row = self._db.prefixes.get(f"{target.address}/32")
        if row is not None and row.origin in _HOLDERS and row.cluster_id == target.cluster_id:
            return f"{row.namespace}/{row.name}" if row.name else ""
        is_listed = self._lists(service, target.address) if service is not None else self._is_listed(target.address)
        return "" if is_listed else None

    def _lists(self, service: ServiceName, address: str) -> bool:
        """Whether any cluster's contribution to the service has the address, chosen or not."""
        clusters = (self._db.own, *self._db.peers.keys())
        rows = (self._db.backends.get((service, cluster)) for cluster in clusters)
        return any(b.address == address for row in rows if row is not None for b in row.backends)

    def _is_listed(self, address: str) -> bool:
        """The same for an entry of which nobody remembers the service: it was found in the map at start."""
        if self._listed_at != self._db.revision:
            self._listed = frozenset(b.address for row in self._db.backends.rows() for b in row.backends)
            self._listed_at = self._db.revision
        return address in self._listed


class AddressFollower:
    """Entries of kept backends end promptly when their address does. One task per table calls `follow`."""

    def __init__(self, db: AgentDB, backends: BackendRegistry) -> None:
        self._db, self._backends = db, backends
        self.tables: tuple[Table[Any, Any], ...] = (db.prefixes, db.backends)
        self._seen = dict.fromkeys((table.name for table in self.tables), 0)

    async def follow(self, table: Table[Any, Any]) -> None:
        """Until cancelled."""
        while True:
            rung = table.changed.count
            self.step()
            await table.changed.wait(rung)

    def step(self) -> None:
        """Every kept backend whose address or service changed since the last step is looked at."""
        kept = self._backends.kept
        try:
            targets: set[Target] = set()
            for prefix in self._changed(self._db.prefixes):
                targets.update(kept.at_address(prefix.removesuffix("/32")))
            for service, _ in self._changed(self._db.backends):
                targets.update(kept.of_service(service))
            if targets:
                self._backends.check_kept(sorted(targets))
        except HistoryLostError:
            self._check_all()
        except MeshError as exc:
            self._complain(exc)

    def _changed(self, table: Table[K, Any]) -> list[K]:
        """Keys that changed since the last step. While nothing is kept nobody asks, and this costs nothing."""
        seen, self._seen[table.name] = self._seen[table.name], table.revision
        return [change.key for change in table.changes_since(seen)] if self._backends.kept else []

    def _check_all(self) -> None:
        try:
            self._backends.check_kept()
        except MeshError as exc:
            self._complain(exc)

    def _complain(self, exc: MeshError) -> None:
        """The next prune looks at all of them again."""
        log.warning("kept backends could not be removed", extra={"error": repr(exc)[:256]})
