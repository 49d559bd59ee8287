# SPDX-License-Identifier: Apache-2.0
"""Frontends to map entries, in an order in which no packet meets a hole.

Growing writes backends, members, slots, count; shrinking writes slots that stay, count, and only then removes slots, members
and backends. The shadow is what the maps are known to hold: restored from them at start, and read again after every failed write.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from agent.datapath.errors import MapError
from agent.datapath.layout import MemberKey, MemberValue, ServiceFlag, ServiceKey, ServiceValue
from agent.datapath.maps import Maps
from agent.loadbalancer.registry import BackendRegistry, changed_targets
from agent.loadbalancer.slots import arrange
from agent.tables import Frontend, FrontendKey, Target
from meshmodel.protocol import PROTOCOL_NAMES, PROTOCOL_NUMBERS

_MEMBER: Final = MemberValue()


@dataclass(slots=True)
class Live:
    """What the maps hold for one frontend. `count` is what the kernel was told; None while there is no head entry."""

    service_id: int
    slots: list[Target | None] = field(default_factory=list)
    draining: tuple[Target, ...] = ()
    count: int | None = None
    timeout_s: int = 0
    written_wall_s: float = 0.0


@dataclass(slots=True)
class _Plan:
    """One row's writes, decided before any is done."""

    row: Frontend
    live: Live
    slots: list[Target]
    gained: list[Target]
    lost: list[Target | None]


class LoadBalancerTarget:
    """The service and backend maps as a reconciler's target; keys of failures are frontend keys."""

    def __init__(
        self,
        maps: Maps,
        wall: Callable[[], float],
        on_written: Callable[[Frontend, float], None] | None = None,
    ) -> None:
        self._services, self._members, self._backends = maps.services, maps.members, BackendRegistry(maps.backends)
        self._wall, self._on_written = wall, on_written
        self._live: dict[FrontendKey, Live] = {}
        self._suspects: dict[int, set[int]] = {}  # by service id: backends that may be members without having a slot
        self._next_service_id = 1

    def restore(self) -> int:
        """Take over ids and slots from the live maps, so that established traffic keeps its entries. Returns frontends."""
        by_id = self._backends.restore()
        slots: dict[FrontendKey, dict[int, int]] = {}
        for key, value in self._services.items():
            frontend = FrontendKey(key.address, key.port, PROTOCOL_NAMES.get(key.protocol, str(key.protocol)))
            if key.slot:
                slots.setdefault(frontend, {})[key.slot] = value.backend_id
                continue
            self._live[frontend] = Live(value.service_id, count=value.count, timeout_s=value.backend_id)
            self._next_service_id = max(self._next_service_id, value.service_id + 1)
        for frontend, ids in slots.items():
            live = self._live.setdefault(frontend, self._new_live())
            live.slots = [by_id.get(ids.get(n, 0)) for n in range(1, max(ids) + 1)]
        for live in self._live.values():
            live.slots += [None] * ((live.count or 0) - len(live.slots))
            self._backends.acquire(live.slots)
        for member in [key for key, _ in self._members.items()]:
            self._suspects.setdefault(member.service_id, set()).add(member.backend_id)
        return len(self._live)

    def live(self, key: FrontendKey) -> Live | None:
        return self._live.get(key)

    def update(self, rows: Sequence[Frontend]) -> Mapping[Hashable, Exception]:
        """The maps hold exactly these rows for their frontends; rows whose writes failed are returned."""
        try:
            self._write(rows)
        except MapError as exc:
            for row in rows:
                self._reload(row.key)
            if len(rows) == 1:
                return {rows[0].key: exc}
            failures: dict[Hashable, Exception] = {}
            for row in rows:
                failures.update(self.update([row]))
            return failures
        return {}

    def delete(self, rows: Sequence[Frontend]) -> Mapping[Hashable, Exception]:
        """Nothing of these frontends is left in the maps."""
        failures: dict[Hashable, Exception] = {}
        for row in rows:
            try:
                self._remove([row.key])
            except MapError as exc:
                failures[row.key] = exc
        return failures

    def prune(self, rows: Iterable[Frontend]) -> None:
        """Nothing but these frontends, and no backend without a user, is left in the maps."""
        wanted = {row.key for row in rows}
        self._remove([key for key in self._live if key not in wanted])
        in_use = {live.service_id for live in self._live.values()}
        for service_id in [s for s in self._suspects if s not in in_use]:
            self._members.delete([MemberKey(service_id, b) for b in self._suspects[service_id]])
            del self._suspects[service_id]
        self._backends.collect(everything=True)

    def _new_live(self) -> Live:
        live = Live(self._next_service_id)
        self._next_service_id += 1
        return live

    def _write(self, rows: Sequence[Frontend]) -> None:
        plans = [self._plan(row) for row in rows]
        for plan in plans:
            self._backends.acquire(plan.gained, plan.row.draining)
        try:
            self._backends.flush()
            self._members.update([item for plan in plans for item in self._new_members(plan)])
            self._services.update([item for plan in plans for item in self._slot_writes(plan)])
            self._services.update([item for plan in plans for item in self._head_write(plan)])
            self._services.delete([key for plan in plans for key in _surplus_slots(plan)])
            self._members.delete([key for plan in plans for key in self._old_members(plan)])
        except MapError:
            for plan in plans:
                self._suspect(plan.live, plan.slots)
                self._backends.release(plan.gained, plan.row.draining)
            raise
        wall_s = self._wall()
        for plan in plans:
            self._commit(plan, wall_s)
        self._backends.collect()

    def _commit(self, plan: _Plan, wall_s: float) -> None:
        """The shadow is what was written."""
        live, old_draining = plan.live, plan.live.draining
        live.slots, live.draining = list(plan.slots), plan.row.draining
        live.count, live.timeout_s = len(plan.slots), plan.row.session_affinity_s
        live.written_wall_s = wall_s
        self._suspects.pop(live.service_id, None)
        self._backends.release(plan.lost, old_draining)
        if self._on_written is not None:
            self._on_written(plan.row, wall_s)

    def _new_members(self, plan: _Plan) -> list[tuple[MemberKey, MemberValue]]:
        service_id = plan.live.service_id
        return [(MemberKey(service_id, backend_id), _MEMBER) for backend_id in self._backends.ids_of(plan.gained)]

    def _old_members(self, plan: _Plan) -> list[MemberKey]:
        service_id = plan.live.service_id
        suspects = self._suspects.get(service_id, ())
        if not suspects and not plan.lost:
            return []
        gone = set(self._backends.ids_of(t for t in plan.lost if t is not None))
        if suspects:
            gone = (gone | set(suspects)) - set(self._backends.ids_of(plan.slots))
        return [MemberKey(service_id, backend_id) for backend_id in sorted(gone)]

    def _suspect(self, live: Live, slots: Iterable[Target | None]) -> None:
        ids = self._backends.ids_of(t for t in (*live.slots, *slots) if t is not None)
        self._suspects.setdefault(live.service_id, set()).update(ids)

    def _plan(self, row: Frontend) -> _Plan:
        live = self._live.get(row.key)
        if live is None:
            live = self._live[row.key] = self._new_live()
        gained, lost = changed_targets(live.slots, row.chosen)
        slots = arrange(live.slots, row.chosen) if gained or lost else [t for t in live.slots if t is not None]
        return _Plan(row, live, slots, gained, lost)

    def _slot_writes(self, plan: _Plan) -> list[tuple[ServiceKey, ServiceValue]]:
        live, old = plan.live, plan.live.slots
        address, port, protocol = plan.row.key
        number, service_id, known = PROTOCOL_NUMBERS[protocol], live.service_id, len(old)
        changed = [(n, t) for n, t in enumerate(plan.slots) if n >= known or old[n] != t]
        ids = self._backends.ids_of(t for _, t in changed)
        return [
            (ServiceKey(address, port, number, n + 1), ServiceValue(backend_id, service_id))
            for (n, _), backend_id in zip(changed, ids, strict=True)
        ]

    def _head_write(self, plan: _Plan) -> list[tuple[ServiceKey, ServiceValue]]:
        live, count, timeout_s = plan.live, len(plan.slots), plan.row.session_affinity_s
        if live.count == count and live.timeout_s == timeout_s:
            return []
        flags = ServiceFlag.AFFINITY if timeout_s else 0
        return [(_slot_key(plan.row.key, 0), ServiceValue(timeout_s, live.service_id, count, flags))]

    def _remove(self, keys: Sequence[FrontendKey]) -> None:
        """Heads first: from then on no packet looks at the rest. Slots from the last, so that what is left is counted."""
        doomed = [(key, live) for key in keys if (live := self._live.get(key)) is not None]
        for _, live in doomed:
            self._suspect(live, ())
        try:
            self._services.delete([_slot_key(key, 0) for key in keys])
            self._services.delete([_slot_key(k, slot) for k, live in doomed for slot in range(len(live.slots), 0, -1)])
            self._members.delete(
                [MemberKey(live.service_id, b) for _, live in doomed for b in self._suspects.get(live.service_id, ())]
            )
        except MapError:
            for key, _ in doomed:
                self._reload(key)
            raise
        for key, live in doomed:
            del self._live[key]
            self._suspects.pop(live.service_id, None)
            self._backends.release(live.slots, live.draining)
        self._backends.collect()

    def _reload(self, key: FrontendKey) -> None:
        """The shadow of one frontend is what the map holds, whatever was written before the failure."""
        live = self._live.get(key)
        if live is None:
            return
        head = self._services.get(_slot_key(key, 0))
        slots: list[Target | None] = []
        while (value := self._services.get(_slot_key(key, len(slots) + 1))) is not None:
            slots.append(self._backends.target_of(value.backend_id))
        old_slots = live.slots
        live.slots = slots
        live.count, live.timeout_s = (head.count, head.backend_id) if head is not None else (None, 0)
        self._backends.acquire(slots)
        self._backends.release(old_slots)


def _slot_key(key: FrontendKey, slot: int) -> ServiceKey:
    return ServiceKey(key.address, key.port, PROTOCOL_NUMBERS[key.protocol], slot)


def _surplus_slots(plan: _Plan) -> list[ServiceKey]:
    return [_slot_key(plan.row.key, slot) for slot in range(len(plan.live.slots), len(plan.slots), -1)]
