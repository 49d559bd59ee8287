# SPDX-License-Identifier: Apache-2.0
"""From pod addresses of this node to endpoints: find the interface, keep a stable id, try again until it is there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from agent.tables import AgentDB, Endpoint, Origin, Prefix
from meshkit.errors import TransientError
from meshkit.table import HistoryLostError

log = logging.getLogger(__name__)

RETRY_MINIMUM_S = 0.05
RETRY_MAXIMUM_S = 5.0
VERIFY_S = 30.0
LAST_ID = 0xFFFF


class Interface(Protocol):
    """What the datapath knows of a pod's interface."""

    @property
    def ifindex(self) -> int: ...
    @property
    def mac(self) -> str: ...
    @property
    def node_mac(self) -> str: ...


@dataclass(slots=True, eq=False)
class Wanted:
    """A pod address of this node, and when to look for its interface (again)."""

    prefix: Prefix
    due_s: float
    delay_s: float = RETRY_MINIMUM_S

    @property
    def address(self) -> str:
        return self.prefix.prefix.partition("/")[0]


class EndpointDiscovery:
    """Keeps the endpoints table; a clock-free step that says when it wants to be called again."""

    def __init__(self, db: AgentDB, find: Callable[[str], Interface | None]) -> None:
        self._db, self._find = db, find
        self._wanted: dict[str, Wanted] = {}
        self._ids: dict[str, int] = {}
        self._next_id = 1
        self._seen = 0

    def restore(self, ids: Mapping[str, int]) -> None:
        """These addresses keep the endpoint ids that an earlier agent gave them."""
        self._ids.update(ids)
        self._next_id = max(self._ids.values(), default=0) + 1

    @property
    def waiting(self) -> tuple[str, ...]:
        """Addresses of pods of this node whose interface is not there (yet)."""
        return tuple(sorted(a for a in self._wanted if self._db.endpoints.get(a) is None))

    def begin(self, now_s: float) -> list[Wanted]:
        """Every change so far is taken in; returns the look-ups that are due."""
        self._take_changes(now_s)
        return [w for w in self._wanted.values() if w.due_s <= now_s]

    def look_up(self, due: Sequence[Wanted]) -> list[Interface | None]:
        """The interface behind each; blocks on netlink and touches no table, so it may run in a thread."""
        return [self._find_one(w.address) for w in due]

    def finish(self, due: Sequence[Wanted], found: Sequence[Interface | None], now_s: float) -> float | None:
        """What was found is in the table, unless it changed meanwhile; returns when the next look-up is due."""
        with self._db.write():
            for wanted, interface in zip(due, found, strict=True):
                if self._wanted.get(wanted.address) is wanted:
                    self._schedule(wanted, now_s, is_found=interface is not None)
                    self._settle(wanted, interface)
        return min((w.due_s for w in self._wanted.values()), default=None)

    def step(self, now_s: float) -> float | None:
        """All three at once."""
        due = self.begin(now_s)
        return self.finish(due, self.look_up(due), now_s)

    def _take_changes(self, now_s: float) -> None:
        gone: list[str] = []
        for row, deleted in self._changes():
            address = row.prefix.partition("/")[0]
            if not deleted and self._is_ours(row):
                self._wanted[address] = Wanted(row, now_s)
            elif self._wanted.pop(address, None) is not None:
                gone.append(address)
        if gone:
            with self._db.write():
                for address in gone:
                    self._db.endpoints.delete(address)
                    self._ids.pop(address, None)

    def _changes(self) -> list[tuple[Prefix, bool]]:
        """Prefixes that changed since the last call; when too many were forgotten, all of them and what we still had."""
        seen, self._seen = self._seen, self._db.prefixes.revision
        try:
            return [(c.row, c.deleted) for c in self._db.prefixes.changes_since(seen)]
        except HistoryLostError:
            lost = [w.prefix for w in self._wanted.values() if self._db.prefixes.get(w.prefix.prefix) is None]
            return [(row, True) for row in lost] + [(row, False) for row in self._db.prefixes.rows()]

    def _is_ours(self, row: Prefix) -> bool:
        return row.origin is Origin.POD and row.cluster == self._db.own and row.host == self._db.node_address

    def _find_one(self, address: str) -> Interface | None:
        try:
            return self._find(address)
        except TransientError as exc:
            log.warning("endpoint look-up failed", extra={"endpoint": address, "error": str(exc)})
            return None

    def _schedule(self, wanted: Wanted, now_s: float, *, is_found: bool) -> None:
        if is_found:
            wanted.due_s, wanted.delay_s = now_s + VERIFY_S, RETRY_MINIMUM_S
        else:
            wanted.due_s, wanted.delay_s = now_s + wanted.delay_s, min(RETRY_MAXIMUM_S, wanted.delay_s * 2)

    def _settle(self, wanted: Wanted, interface: Interface | None) -> None:
        row, address = wanted.prefix, wanted.address
        if interface is None:
            self._db.endpoints.delete(address)
            return
        self._db.endpoints.put(
            Endpoint(
                address=address,
                endpoint_id=self._id_of(address),
                ifindex=interface.ifindex,
                mac=interface.mac,
                node_mac=interface.node_mac,
                identity=row.identity,
                namespace=row.namespace,
                pod=row.name,
                named_ports=row.named_ports,
            )
        )

    def _id_of(self, address: str) -> int:
        """The id the address has, else the next one that nobody has."""
        known = self._ids.get(address)
        if known is not None:
            return known
        taken = set(self._ids.values())
        while self._next_id in taken or not 0 < self._next_id <= LAST_ID:
            self._next_id = self._next_id % LAST_ID + 1
        self._ids[address] = self._next_id
        self._next_id += 1
        return self._ids[address]
