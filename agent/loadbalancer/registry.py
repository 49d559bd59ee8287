# SPDX-License-Identifier: Apache-2.0
"""Backend entries, shared by frontends: an id for each, how many use it, and what the map holds of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agent.datapath.layout import BackendKey, BackendState, BackendValue
from agent.datapath.maps import Map
from agent.tables import Target

PROTOCOL_NUMBERS = {"TCP": 6, "UDP": 17, "SCTP": 132}
PROTOCOL_NAMES = {number: name for name, number in PROTOCOL_NUMBERS.items()}


@dataclass(slots=True)
class _Entry:
    id: int
    in_slots: int = 0
    draining: int = 0
    written: int | None = None  # the state the map holds; None: not written

    @property
    def state(self) -> int:
        """A backend that any frontend offers is active, however it came to be chosen."""
        return BackendState.ACTIVE if self.in_slots else BackendState.TERMINATING


class BackendRegistry:
    """Acquire before slots point at a backend, flush, and collect after the last slot left it."""

    def __init__(self, backends: Map[BackendKey, BackendValue]) -> None:
        self._map = backends
        self._entries: dict[Target, _Entry] = {}
        self._touched: set[Target] = set()  # state may differ from the map's
        self._idle: set[Target] = set()  # nobody uses them; not yet deleted
        self._twins: list[
            int
        ] = []  # second ids of one backend, found at restore: deleted with the last of what nobody wants
        self._next_id = 1

    def restore(self) -> dict[int, Target]:
        """Every entry of the live map is known, without users; returns them by id."""
        by_id: dict[int, Target] = {}
        for key, value in self._map.items():
            target = _target(value)
            self._next_id = max(self._next_id, key.id + 1)
            if target in self._entries:
                self._twins.append(key.id)
                continue
            self._entries[target] = _Entry(key.id, written=value.state)
            self._idle.add(target)
            by_id[key.id] = target
        return by_id

    def id_of(self, target: Target) -> int:
        return self._entries[target].id

    def target_of(self, backend_id: int) -> Target | None:
        """Whom the map entry of this id leads to; None when there is none."""
        value = self._map.get(BackendKey(backend_id))
        return None if value is None else _target(value)

    def acquire_slots(self, targets: Iterable[Target | None]) -> None:
        """Count one user per slot; a slot without a backend counts nothing."""
        for target in targets:
            if target is not None:
                self._entry(target).in_slots += 1

    def acquire(self, slots: Iterable[Target], draining: Iterable[Target]) -> None:
        self.acquire_slots(slots)
        for target in draining:
            self._entry(target).draining += 1

    def release(self, slots: Iterable[Target | None], draining: Iterable[Target]) -> None:
        """Count users off. Entries nobody uses stay in the map until `collect`."""
        for target in slots:
            if target is not None:
                self._entries[target].in_slots -= 1
                self._settle(target)
        for target in draining:
            self._entries[target].draining -= 1
            self._settle(target)

    def flush(self) -> None:
        """Every acquired backend is in the map. Only raises states: slots that still point somewhere keep it active."""
        self._write(
            [
                target
                for target in self._touched
                if (entry := self._entries[target]).in_slots or (entry.draining and entry.written is None)
            ]
        )

    def collect(self, *, everything: bool = False) -> None:
        """States are as used now, and entries without a user are gone (with `everything`, restored ones too)."""
        self._write([t for t in self._touched if (e := self._entries[t]).in_slots or e.draining])
        gone = list(self._idle if everything else self._touched & self._idle)
        if everything and self._twins:
            self._map.delete([BackendKey(twin) for twin in self._twins])
            self._twins.clear()
        if gone:
            self._map.delete([BackendKey(self._entries[t].id) for t in gone])
            for target in gone:
                del self._entries[target]
        self._idle.difference_update(gone)
        self._touched.clear()

    def _write(self, targets: Sequence[Target]) -> None:
        due = [t for t in targets if self._entries[t].written != self._entries[t].state]
        if not due:
            return
        self._map.update([(BackendKey(self._entries[t].id), _value(t, self._entries[t].state)) for t in due])
        for target in due:
            self._entries[target].written = self._entries[target].state

    def _entry(self, target: Target) -> _Entry:
        entry = self._entries.get(target)
        if entry is None:
            entry = self._entries[target] = _Entry(self._next_id)
            self._next_id += 1
        self._idle.discard(target)
        self._touched.add(target)
        return entry

    def _settle(self, target: Target) -> None:
        entry = self._entries[target]
        self._touched.add(target)
        if not entry.in_slots and not entry.draining:
            self._idle.add(target)


def _target(value: BackendValue) -> Target:
    protocol = PROTOCOL_NAMES.get(value.protocol, str(value.protocol))
    return Target(value.address, value.port, protocol, value.cluster_id)


def _value(target: Target, state: int) -> BackendValue:
    return BackendValue(target.address, target.port, PROTOCOL_NUMBERS[target.protocol], state, target.cluster_id)
