# SPDX-License-Identifier: Apache-2.0
"""From pod addresses of this node to endpoints: find the interface, keep a stable id, try again until it is there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
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


@dataclass(slots=True)
class _Wanted:
    prefix: Prefix
    due_s: float
    delay_s: float = RETRY_MINIMUM_S


class EndpointDiscovery:
    """Keeps the endpoints table; a clock-free step that says when it wants to be called again."""

    def __init__(
        self, db: AgentDB, find: Callable[[str], Interface | None], restored_ids: Mapping[str, int] | None = None
    ) -> None:
        self._db, self._find = db, find
        self._wanted: dict[str, _Wanted] = {}
        self._ids = dict(restored_ids or {})
        self._next_id = max(self._ids.values(), default=0) + 1
        self._seen = 0

    @property
    def waiting(self) -> tuple[str, ...]:
        """Addresses of pods of this node whose interface is not there (yet)."""
        return tuple(sorted(a for a in self._wanted if self._db.endpoints.get(a) is None))

    def step(self, now_s: float) -> float | None:
        """Every change so far is taken in and every due look-up made; returns when the next look-up is due."""
        self._take_changes(now_s)
        due = [w for w in self._wanted.values() if w.due_s <= now_s]
        found = [(w, self._look_up(w, now_s)) for w in due]
        with self._db.write():
            for wanted, interface in found:
                self._settle(wanted, interface)
        return min((w.due_s for w in self._wanted.values()), default=None)

    def _take_changes(self, now_s: float) -> None:
        gone: list[str] = []
        for row, deleted in self._changes():
            address = row.prefix.partition("/")[0]
            if not deleted and self._is_ours(row):
                self._wanted[address] = _Wanted(row, now_s)
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

    def _look_up(self, wanted: _Wanted, now_s: float) -> Interface | None:
        address = wanted.prefix.prefix.partition("/")[0]
        try:
            interface = self._find(address)
        except TransientError as exc:
            log.warning("endpoint look-up failed", extra={"key": address, "error": str(exc)})
            interface = None
        if interface is None:
            wanted.due_s, wanted.delay_s = now_s + wanted.delay_s, min(RETRY_MAXIMUM_S, wanted.delay_s * 2)
        else:
            wanted.due_s, wanted.delay_s = now_s + VERIFY_S, RETRY_MINIMUM_S
        return interface

    def _settle(self, wanted: _Wanted, interface: Interface | None) -> None:
        row = wanted.prefix
        address = row.prefix.partition("/")[0]
        if interface is None:
            self._db.endpoints.delete(address)
            return
        self._db.endpoints.put(
            Endpoint(
                address,
                self._id_of(address),
                interface.ifindex,
                interface.mac,
                interface.node_mac,
                row.identity,
                row.namespace,
                row.name,
            )  # fmt: skip
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
