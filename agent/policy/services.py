# SPDX-License-Identifier: Apache-2.0
"""Who the backends of Services are, for rules that name Services as peers. Costs nothing while no rule does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from agent.tables import AgentDB, ClaimOrigin
from meshkit.table import HistoryLostError
from meshmodel.identity import is_of_nodes, is_reserved
from meshmodel.names import ServiceName
from meshpolicy import ServicePeers
from meshpolicy.prefix import Cidr, parse_address

_EXACT: Final = (ClaimOrigin.POD, ClaimOrigin.NODE)


class ServiceResolver:
    """Follows labels of Services, backends of every cluster and owners of addresses; tells what differs since last time.

    A service has the own cluster's backends and, if it is global, those that peers announce. Health and affinity do not
    matter: they say where new connections are balanced to, not who the service is.
    """

    def __init__(self, db: AgentDB) -> None:
        self._db = db
        self._known: dict[ServiceName, ServicePeers] = {}
        self._by_address: dict[str, set[ServiceName]] = {}
        self._addresses: dict[ServiceName, frozenset[str]] = {}
        self._seen: int | None = None
        """Revision up to which everything is in `_known`; None: nothing was ever taken."""

    def take(self, *, wanted: bool) -> tuple[list[ServicePeers], list[tuple[str, str]]]:
        """Services that differ, and (namespace, name) of those that are gone."""
        if not wanted:
            gone = [(name.namespace, name.name) for name in self._known]
            self._known, self._by_address, self._addresses, self._seen = {}, {}, {}, None
            return [], gone
        changed: list[ServicePeers] = []
        removed: list[tuple[str, str]] = []
        for name in sorted(self._touched()):
            new = self._resolve(name)
            if new is None:
                if self._known.pop(name, None) is not None:
                    removed.append((name.namespace, name.name))
            elif self._known.get(name) != new:
                self._known[name] = new
                changed.append(new)
        return changed, removed

    def look_up(self, namespace: str) -> list[ServicePeers]:
        """Services of one namespace (empty: of all) as they are now, by name; for one who asks once."""
        names = sorted(row.name for row in self._db.labelled_services.rows() if namespace in ("", row.name.namespace))
        return [found for name in names if (found := self._resolve(name)) is not None]

    def _touched(self) -> set[ServiceName]:
        """Services of which something changed; all of them the first time."""
        db, seen, self._seen = self._db, self._seen, self._db.backends.revision
        if seen is None:
            return {row.name for row in db.labelled_services.rows()}
        try:
            names = {change.key for change in db.labelled_services.changes_since(seen)}
            names |= {change.key[0] for change in db.backends.changes_since(seen)}
            owners = (self._by_address.get(_host(change.key)) for change in db.prefixes.changes_since(seen))
            return names.union(*(found for found in owners if found))
        except HistoryLostError:
            return {*self._known, *(row.name for row in db.labelled_services.rows())}

    def _resolve(self, name: ServiceName) -> ServicePeers | None:
        row = self._db.labelled_services.get(name)
        addresses = frozenset() if row is None else frozenset(self._backends(name, is_global=row.is_global))
        self._remember(name, addresses)
        if row is None:
            return None
        identities, reserved, outside = set[int](), set[int](), set[Cidr]()
        for address in addresses:
            prefix = parse_address(address)
            owner = self._db.prefixes.get(str(prefix))
            if owner is None or owner.origin not in _EXACT:
                outside.add(prefix)
            elif owner.is_known and owner.identity:
                is_shared = is_reserved(owner.identity) or is_of_nodes(owner.identity)
                (reserved if is_shared else identities).add(owner.identity)
        return ServicePeers(
            name.namespace, name.name, row.labels, frozenset(identities), frozenset(outside), frozenset(reserved)
        )

    def _backends(self, name: ServiceName, *, is_global: bool) -> Iterable[str]:
        db = self._db
        clusters = [db.own, *(peer.name for peer in db.peers.rows())] if is_global else [db.own]
        for cluster in dict.fromkeys(clusters):
            row = db.backends.get((name, cluster))
            yield from (backend.address for backend in (row.of_both_families if row is not None else ()))

    def _remember(self, name: ServiceName, addresses: frozenset[str]) -> None:
        """Whose owner matters to which service."""
        before = self._addresses.pop(name, frozenset())
        for address in before - addresses:
            self._by_address[address].discard(name)
            if not self._by_address[address]:
                del self._by_address[address]
        for address in addresses - before:
            self._by_address.setdefault(address, set()).add(name)
        if addresses:
            self._addresses[name] = addresses


def _host(prefix: str) -> str:
    return prefix.partition("/")[0]
