# SPDX-License-Identifier: Apache-2.0
"""Backend entries, shared by frontends: an id for each, how many use it, and what the map holds of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from agent.datapath.layout import BackendKey, BackendState, BackendValue
from agent.datapath.maps import Map
from agent.tables import Target
from meshmodel.protocol import PROTOCOL_NAMES, PROTOCOL_NUMBERS

_ACTIVE: Final = int(BackendState.ACTIVE)
_TERMINATING: Final = int(BackendState.TERMINATING)


class _Entry:
    """`written` is the state the map holds, None if nothing was written."""

    __slots__ = ("draining", "id", "in_slots", "written")

    def __init__(self, number: int, written: int | None = None) -> None:
        self.id, self.in_slots, self.draining, self.written = number, 0, 0, written


class BackendRegistry:
    """Acquire before slots point at a backend, flush, and collect after the last slot left it.

    A backend that any frontend offers is active, however it came to be chosen; one that only drains is terminating.
    """

    def __init__(self, backends: Map[BackendKey, BackendValue]) -> None:
        self._map = backends
        self._entries: dict[Target, _Entry] = {}
        self._rising: list[Target] = []  # may have to be written before slots point at them
        self._falling: list[Target] = []  # lost a user since the last collect
        self._restored: set[Target] = set()  # found in the map, not used by anybody yet
        self._twins: list[int] = []  # second ids of one backend, found at restore
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
            self._entries[target] = _Entry(key.id, value.state)
            self._restored.add(target)
            by_id[key.id] = target
        return by_id

    def id_of(self, target: Target) -> int:
        return self._entries[target].id

    def ids_of(self, targets: Iterable[Target]) -> list[int]:
        entries = self._entries
        return [entries[target].id for target in targets]

    def target_of(self, backend_id: int) -> Target | None:
        """Whom the map entry of this id leads to; None when there is none."""
        value = self._map.get(BackendKey(backend_id))
        return None if value is None else _target(value)

    def acquire(self, slots: Iterable[Target | None], draining: Iterable[Target] = ()) -> None:
        """Count one user per slot and per draining reference; a slot without a backend counts nothing."""
        for target in slots:
            if target is not None:
                entry = self._entry(target)
                entry.in_slots += 1
                if entry.written != _ACTIVE:
                    self._rising.append(target)
        for target in draining:
            entry = self._entry(target)
            entry.draining += 1
            if entry.written is None:
                self._rising.append(target)

    def release(self, slots: Iterable[Target | None], draining: Iterable[Target] = ()) -> None:
        """Count users off. Entries nobody uses stay in the map until `collect`."""
        for target in slots:
            if target is not None:
                self._entries[target].in_slots -= 1
                self._falling.append(target)
        for target in draining:
            self._entries[target].draining -= 1
            self._falling.append(target)

    def flush(self) -> None:
        """Every acquired backend is in the map. Only raises states: slots that still point somewhere keep it active."""
        due: dict[Target, int] = {}
        for target in self._rising:
            entry = self._entries[target]
            if entry.in_slots:
                due[target] = _ACTIVE
            elif entry.draining and entry.written is None:
                due[target] = _TERMINATING
        self._write(due)
        self._rising.clear()

    def collect(self, *, everything: bool = False) -> None:
        """States are as used now, and entries without a user are gone (with `everything`, restored ones too)."""
        if not self._falling and not everything:
            return
        lower: dict[Target, int] = {}
        gone: dict[Target, None] = dict.fromkeys(self._restored if everything else ())
        for target in self._falling:
            entry = self._entries.get(target)
            if entry is None or entry.in_slots:
                continue
            if entry.draining:
                lower[target] = _TERMINATING
            else:
                gone[target] = None
        self._write(lower)
        self._map.delete([BackendKey(self._entries[target].id) for target in gone])
        if everything and self._twins:
            self._map.delete([BackendKey(twin) for twin in self._twins])
            self._twins.clear()
        for target in gone:
            del self._entries[target]
        self._restored.difference_update(gone)
        self._falling.clear()

    def _write(self, states: dict[Target, int]) -> None:
        entries = self._entries
        due = [(target, entries[target], state) for target, state in states.items()]
        changed = [(t, entry, state) for t, entry, state in due if entry.written != state]
        if not changed:
            return
        self._map.update([(BackendKey(entry.id), _value(target, state)) for target, entry, state in changed])
        for _, entry, state in changed:
            entry.written = state

    def _entry(self, target: Target) -> _Entry:
        entry = self._entries.get(target)
        if entry is None:
            entry = self._entries[target] = _Entry(self._next_id)
            self._next_id += 1
        elif self._restored:
            self._restored.discard(target)
        return entry


def _target(value: BackendValue) -> Target:
    protocol = PROTOCOL_NAMES.get(value.protocol, str(value.protocol))
    return Target(value.address, value.port, protocol, value.cluster_id)


def _value(target: Target, state: int) -> BackendValue:
    return BackendValue(target.address, target.port, PROTOCOL_NUMBERS[target.protocol], state, target.cluster_id)


def changed_targets(old: Sequence[Target | None], new: Sequence[Target]) -> tuple[list[Target], list[Target | None]]:
    """What a list of slots gains and loses; a second slot of the same backend, left by a failed write, is lost."""
    if not old:
        return list(new), []
    before, after = set(old), set(new)
    gained = [t for t in new if t not in before]
    if len(before) == len(old):
        return gained, [t for t in old if t not in after]
    seen: set[Target | None] = set()
    lost: list[Target | None] = []
    for target in old:
        if target not in after or target in seen:
            lost.append(target)
        seen.add(target)
    return gained, lost
