# SPDX-License-Identifier: Apache-2.0
"""Backend entries, shared by frontends: an id for each, how many use it, and what the map holds of it.

Deselected is not gone: an entry without a user stays, not to be chosen for new connections, while its address is known to
live (`owner_of`), so that the connections it has go on. Such entries are given up oldest first when the map is short of room.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from agent.datapath.errors import MapError, MapFullError
from agent.datapath.layout import BackendKey, BackendState, BackendValue
from agent.datapath.maps import Map
from agent.datapath.service_records import backend_end, backend_keys, backend_values
from agent.loadbalancer.ids import free_id, natural_id
from agent.loadbalancer.kept_backends import Holder, KeptBackends
from agent.tables import Target
from meshkit.parts import in_parts
from meshmodel.names import ServiceName
from meshmodel.protocol import PROTOCOL_NAMES, PROTOCOL_NUMBERS

PART: Final = 1000  # entries compared at a time
KEPT_SHARE: Final = 4  # at most one quarter of the map is for backends that nobody selects
_ACTIVE: Final = int(BackendState.ACTIVE)
_TERMINATING: Final = int(BackendState.TERMINATING)
_KEPT: Final = int(BackendState.MAINTENANCE)

OwnerOf = Callable[[Target, ServiceName | None], str | None]
"""Who has the backend's address now: the pod's name, "" if that cannot be said, None if the address is gone."""


class _Entry:
    """`written` is the state the map holds, None if nothing was written; `was_used`: connections may remember it."""

    __slots__ = ("draining", "id", "in_slots", "target", "was_used", "written")

    def __init__(self, target: Target, number: int, written: int | None = None) -> None:
        self.target, self.id, self.written = target, number, written
        self.in_slots = self.draining = 0
        self.was_used = written is not None

    @property
    def due(self) -> int | None:
        """The state that it is to have in the map before it is used as it is now; None: it has, or may keep the one it has."""
        if self.in_slots:
            return _ACTIVE if self.written != _ACTIVE else None
        return _TERMINATING if self.draining and self.written is None else None


class BackendRegistry:
    """Acquire before slots point at a backend, flush, and collect after the last slot left it.

    A backend that any frontend offers is active, however it came to be chosen; one that only drains is terminating.
    """

    def __init__(
        self, backends: Map[BackendKey, BackendValue], owner_of: OwnerOf = lambda _target, _service: None
    ) -> None:
        self._map, self._owner_of = backends, owner_of
        details = backends.info()
        self._name, self._max = details.name, details.max_entries
        self._limit = self._max  # entries that are ours at most; less where others have some
        self._is_refused = False
        self._entries: dict[Target, _Entry] = {}
        self._ids: set[int] = set()
        self._left: set[int] = set()  # of these, ids in the map that are no entry of ours
        self._falling: dict[Target, ServiceName | None] = {}  # lost a user since the last collect, of this service
        self._due: dict[_Entry, None] = {}  # acquired, but the map lacks them or says that they are not to be chosen
        self._written = 0  # entries in the map, as far as we know
        self.kept = KeptBackends()
        self.given_up_total = 0
        """Kept backends whose address lived and that had to make room."""
        self.on_gone: Callable[[Collection[Target]], None] = lambda _targets: None
        """Called with backends that connections may remember, once their address is gone and the map does not hold them."""

    def restore(self) -> dict[int, Target]:
        """Every entry of the live map is known, kept and without users; returns them by id."""
        by_id: dict[int, Target] = {}
        for key, value in self._map.items():
            target = target_of(value)
            self._ids.add(key.id)
            self._written += 1
            known = self._entries.get(target)
            if known is not None:
                if key.id != natural_id(*target):
                    self._left.add(key.id)
                    continue  # a second id of one backend: no slot of ours keeps it, and `compare` removes it
                del by_id[known.id]
                self._left.add(known.id)
            self._entries[target] = _Entry(target, key.id, value.state)
            self.kept.put(target, Holder())
            by_id[key.id] = target
        return by_id

    def ids_of(self, targets: Iterable[Target]) -> list[int]:
        entries = self._entries
        return [entries[target].id for target in targets]

    def known(self) -> Collection[Target]:
        """Every target that has an id."""
        return self._entries.keys()

    def target_of(self, backend_id: int) -> Target | None:
        """Whom the map entry of this id leads to; None when there is none, or when it is none of ours."""
        value = self._map.get(BackendKey(backend_id))
        if value is None:
            return None
        entry = self._entries.get(target_of(value))
        return target_of(value) if entry is not None and entry.id == backend_id else None

    def kept_states(self) -> dict[Target, int]:
        """The state that was written for each backend that nothing selects any more."""
        found = ((target, self._entries[target].written) for target in self.kept)
        return {target: state for target, state in found if state is not None}

    def absent(self, targets: Iterable[Target]) -> list[Target]:
        """Those of which the map holds nothing yet: what `flush` will need room for."""
        entries = self._entries
        return [t for t in targets if (entry := entries.get(t)) is None or entry.written is None]

    @property
    def free(self) -> int:
        """How many new entries fit without giving up any."""
        return 0 if self._is_refused else max(0, self._limit - self._written)

    def look_again(self) -> None:
        """After a refusal of the kernel the limit leaves out what others have in the map. Walks the whole map then."""
        if self._is_refused:
            self._limit = self._max - max(0, self._map.info().count - self._written)
            self._is_refused = False

    def make_room(self, number: int) -> bool:
        """Whether `number` new entries fit. Kept backends make room for them, those that were deselected first."""
        short = number - self.free
        if short > len(self.kept):
            return False
        if short > 0:
            self._give_up(self.kept.oldest(short))
        return True

    def refusal(self) -> MapFullError:
        return MapFullError(self._name, "update", errno.E2BIG, 0)

    def acquire(self, slots: Iterable[Target | None], draining: Iterable[Target] = ()) -> list[int]:
        """Count one user per slot and per draining reference; a slot without a backend counts nothing. Returns the slots' ids."""
        ids: list[int] = []
        known, due, has_kept = self._entries, self._due, len(self.kept) > 0
        for target in slots:
            if target is None:
                continue
            entry = known.get(target)
            if entry is None:
                entry = self._new(target)
            elif has_kept:
                self.kept.discard(target)
            entry.in_slots += 1
            if entry.written != _ACTIVE:
                due[entry] = None
            ids.append(entry.id)
        for target in draining:
            entry = self._entry(target)
            entry.draining += 1
            if entry.written is None:
                due[entry] = None
            elif entry.written == _ACTIVE and not entry.in_slots:
                self._falling.setdefault(target, None)
        return ids

    def release(
        self, slots: Iterable[Target | None], draining: Iterable[Target] = (), service: ServiceName | None = None
    ) -> None:
        """This service has so many users fewer of the backends. `collect` decides what happens to entries without users."""
        for target in slots:
            if target is not None:
                entry = self._entries[target]
                entry.in_slots -= 1
                entry.was_used = True
                self._falling[target] = service
        self.give_back((), draining)

    def give_back(self, slots: Iterable[Target], draining: Iterable[Target] = ()) -> None:
        """Count users off that never were: their write failed before a connection could use them."""
        for target in slots:
            self._entries[target].in_slots -= 1
            self._falling.setdefault(target, None)
        for target in draining:
            self._entries[target].draining -= 1
            self._falling.setdefault(target, None)

    def flush(self) -> None:
        """Acquired backends are in the map. Only raises states: slots that still point somewhere keep it active."""
        if self._due:
            self._write([(entry, state) for entry in self._due if (state := entry.due) is not None])
            self._due.clear()

    def abandon(self) -> None:
        """A write failed: what was acquired for it and is not in the map is not due. States that are to rise still are."""
        self._due = {entry: None for entry in self._due if entry.written is not None}

    def collect(self) -> None:
        """States are as used now; entries that lost their last user are kept if their address lives, and gone if not."""
        if not self._falling:
            return
        lower: list[tuple[_Entry, int]] = []
        gone: list[Target] = []
        remembered: list[Target] = []
        for target, service in self._falling.items():
            entry = self._entries.get(target)
            if entry is None or entry.in_slots:
                continue
            pod = None
            if not entry.draining and entry.was_used:
                pod = self._owner_of(target, service)
            if entry.draining:
                lower.append((entry, _TERMINATING))
            elif pod is not None:
                lower.append((entry, _KEPT))
                self.kept.put(target, Holder(service, pod))
            else:
                gone.append(target)
                if entry.was_used:
                    remembered.append(target)
        self._write(lower)
        self._delete(gone)
        self._falling.clear()
        if remembered:
            self.on_gone(remembered)
        surplus = len(self.kept) - self._limit // KEPT_SHARE
        if surplus > 0:
            self._give_up(self.kept.oldest(surplus))

    def check_kept(self, targets: Iterable[Target] | None = None) -> int:
        """Kept backends whose address is gone, or has another pod, have no entry any more; returns how many."""
        gone: list[Target] = []
        for target in list(self.kept) if targets is None else targets:
            holder = self.kept.holder(target)
            pod = self._owner_of(target, holder.service)
            if pod is None or (pod and holder.pod and pod != holder.pod):
                gone.append(target)
            elif pod and not holder.pod:
                self.kept.put(target, Holder(holder.service, pod))
        self._delete(gone)
        if gone:
            self.on_gone(gone)
        return len(gone)

    def compare(self, published: AbstractSet[int]) -> Iterator[set[Target]]:
        """The map holds what was written: what others changed or deleted is put back, what they added is deleted.

        Names, step by step, what was put back. Ids that a slot in the map names (`published`) are left alone until the slot
        is written again. Backends may be written between two steps.
        """
        seen: set[int] = set()
        strange: list[int] = []
        for part in in_parts(self._map.items(), PART):
            for key, value in part:
                target = target_of(value)
                entry = self._entries.get(target)
                if entry is None or entry.id != key.id:
                    strange.append(key.id)
                elif entry.written is not None and value == backend_value(target, entry.written):
                    seen.add(key.id)
            yield set()
        for targets in in_parts(list(self._entries), PART):
            yield self._put_back([t for t in targets if (e := self._entries.get(t)) is not None and e.id not in seen])
        foreign = [number for number in strange if number not in self._ids or number in self._left]
        self._map.delete([BackendKey(number) for number in foreign if number not in published])
        self._ids -= self._left
        self._written -= len(self._left)
        self._left = {number for number in foreign if number in published}
        self._ids |= self._left
        self._written += len(self._left)
        self._limit = self._max
        yield set()

    def _put_back(self, targets: Iterable[Target]) -> set[Target]:
        """Those of the targets that the map does not hold as they were written; now it does."""
        due: list[tuple[_Entry, int]] = []
        for target in targets:
            entry = self._entries[target]
            if entry.written is not None and self._map.get(BackendKey(entry.id)) != backend_value(
                target, entry.written
            ):
                due.append((entry, entry.written))
                entry.written = None
                self._written -= 1
        self._map.update([(BackendKey(entry.id), backend_value(entry.target, state)) for entry, state in due])
        self._note_written(due)
        return {entry.target for entry, _ in due}

    def _write(self, states: Iterable[tuple[_Entry, int]]) -> None:
        changed = [item for item in states if item[0].written != item[1]]
        if not changed:
            return
        values = backend_values([(entry.target.address, _value_end(entry.target, state)) for entry, state in changed])
        try:
            self._map.update_packed(backend_keys([entry.id for entry, _ in changed]), values)
        except MapError as exc:
            self._note_written(changed[: exc.done])
            if isinstance(exc, MapFullError):
                self._is_refused = True
            raise
        self._note_written(changed)

    def _note_written(self, changed: Iterable[tuple[_Entry, int]]) -> None:
        for entry, state in changed:
            if entry.written is None:
                self._written += 1
            entry.written = state

    def _give_up(self, targets: Sequence[Target]) -> None:
        self._delete(targets)
        self.given_up_total += len(targets)

    def _delete(self, targets: Sequence[Target]) -> None:
        """Nothing of these is left, in the map or here."""
        if not targets:
            return
        entries = self._entries
        self._map.delete([BackendKey(entries[target].id) for target in targets])
        for target in targets:
            entry = entries.pop(target)
            self._ids.discard(entry.id)
            self.kept.discard(target)
            if entry.written is not None:
                self._written -= 1

    def _entry(self, target: Target) -> _Entry:
        entry = self._entries.get(target)
        if entry is None:
            return self._new(target)
        self.kept.discard(target)
        return entry

    def _new(self, target: Target) -> _Entry:
        entry = self._entries[target] = _Entry(target, free_id(natural_id(*target), self._ids))
        return entry


def target_of(value: BackendValue) -> Target:
    protocol = PROTOCOL_NAMES.get(value.protocol, str(value.protocol))
    return Target(value.address, value.port, protocol, value.cluster_id)


def backend_value(target: Target, state: int) -> BackendValue:
    """Raises: ValueError for a protocol that has no number."""
    address, port, protocol, cluster_id = target
    number = PROTOCOL_NUMBERS.get(protocol)
    return BackendValue(address, port, protocol_number(protocol) if number is None else number, state, cluster_id)


def _value_end(target: Target, state: int) -> bytes:
    _, port, protocol, cluster_id = target
    return backend_end(port, PROTOCOL_NUMBERS.get(protocol) or protocol_number(protocol), state, cluster_id)


def protocol_number(protocol: str) -> int:
    """The IP protocol number of a name, or of a number that was found in a map. Raises: ValueError."""
    number = PROTOCOL_NUMBERS.get(protocol)
    return int(protocol) if number is None else number
