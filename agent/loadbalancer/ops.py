# SPDX-License-Identifier: Apache-2.0
"""Frontends to map entries, in an order in which no packet meets a hole.

Growing writes backends, members, slots, source ranges, count; shrinking writes slots that stay, count, and only then removes
ranges, slots, members and backends. The shadow is what the maps are known to hold: restored from them at start, read again
after every failed write, and compared with them at every prune.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import cast

from agent.datapath.errors import MapError
from agent.datapath.layout import MemberKey, ServiceAlgorithm, ServiceKey, ServiceValue
from agent.datapath.maps import ServiceMaps
from agent.loadbalancer.frontend_shadow import (
    FrontendShadow,
    count_members,
    frontend_of,
    head_value,
    reach_in,
    slot_key,
)
from agent.loadbalancer.ids import free_id, natural_id
from agent.loadbalancer.map_check import FEW, MapCheck, Unnamed
from agent.loadbalancer.plan import Plan, head_writes, member_writes, place_of, slot_writes
from agent.loadbalancer.registry import PART, BackendRegistry, OwnerOf
from agent.loadbalancer.room import Room
from agent.loadbalancer.slot_change import changed_targets, rearranged
from agent.loadbalancer.source_ranges import SourceRanges
from agent.tables import Frontend, FrontendKey, Target
from meshkit.errors import MeshError
from meshkit.isolation import apply_rows
from meshkit.parts import in_parts
from meshkit.reconciler import Rows


class LoadBalancerTarget:
    """The service and backend maps of one family as a reconciler's target; keys of failures are frontend keys."""

    def __init__(
        self,
        maps: ServiceMaps,
        wall: Callable[[], float],
        on_written: Callable[[Frontend, float], None] | None = None,
        owner_of: OwnerOf = lambda _target, _service: None,
    ) -> None:
        self._services, self._members = maps.services, maps.members
        self._backends = BackendRegistry(maps.backends, owner_of)
        self._ranges = SourceRanges(maps.source_ranges)
        self._wall, self._on_written = wall, on_written
        self._live: dict[FrontendKey, FrontendShadow] = {}
        self._service_ids: set[int] = set()
        self._unnamed = Unnamed()
        self._suspects: dict[int, set[int]] = {}  # by service id: backends that may be members without having a slot
        self._is_doubtful = False  # whether others may have changed the maps since all of their entries were written
        self._room, self._member_room = Room(maps.services), Room(maps.members)

    @property
    def backends(self) -> BackendRegistry:
        return self._backends

    @property
    def capacity(self) -> int:
        """Entries that the service map has room for."""
        return self._room.maximum

    def restore(self) -> int:
        """Take over ids and slots from the live maps, so that established traffic keeps its entries. Returns frontends."""
        by_id = self._backends.restore()
        slots: dict[FrontendKey, dict[int, int]] = {}
        heads: dict[FrontendKey, ServiceValue] = {}
        for key, value in self._services.items():
            if key.slot:
                slots.setdefault(frontend_of(key), {})[key.slot] = value.backend_id
            else:
                heads[frontend_of(key)] = value
        for frontend, head in sorted(heads.items(), key=lambda item: item[1].service_id != natural_id(*item[0])):
            if head.service_id in self._service_ids:  # not of ours: two frontends never share an id
                self._new_live(frontend).slots = (None,) * head.count
                continue
            self._live[frontend] = FrontendShadow(
                head.service_id,
                count=head.count,
                timeout_s=head.backend_id,
                reach=reach_in(head),
                is_consistent=head.algorithm == ServiceAlgorithm.MAGLEV,
            )
            self._service_ids.add(head.service_id)
        for frontend, ids in slots.items():
            live = self._live.get(frontend) or self._new_live(frontend)
            live.slots = tuple(by_id.get(ids.get(n, 0)) for n in range(1, max(ids) + 1))
        for live in self._live.values():
            live.slots = (*live.slots, *[None] * ((live.count or 0) - len(live.slots)))
            live.members = count_members(live.slots)
            self._backends.acquire(live.slots)
        for member in [key for key, _ in self._members.items()]:
            self._suspects.setdefault(member.service_id, set()).add(member.backend_id)
        self._is_doubtful |= bool(by_id or self._live or self._suspects) | self._ranges.restore()
        return len(self._live)

    def doubt(self) -> None:
        """The next prune compares the maps with what was written to them, whatever happened before."""
        self._is_doubtful = True

    def live(self, key: FrontendKey) -> FrontendShadow | None:
        return self._live.get(key)

    def update(self, rows: Sequence[Frontend]) -> Mapping[Hashable, Exception]:
        """The maps hold exactly these rows for their frontends; rows that cannot be written or find no room are returned.

        What was in force for a row that fails stays in force.
        """
        for room in (self._room, self._member_room, self._backends, self._ranges.room):
            room.look_again()
        fitting, refused = self._admit(rows)
        return refused | apply_rows(fitting, _key_of, self._write)

    def delete(self, rows: Sequence[Frontend]) -> Mapping[Hashable, Exception]:
        """Nothing of these frontends is left in the maps."""
        return apply_rows(rows, _key_of, lambda part: self._remove([row.key for row in part]))

    def prune(self, rows: Rows[FrontendKey, Frontend]) -> Iterator[Collection[FrontendKey]]:
        """Nothing but these frontends is left in the maps, nor a backend that neither they nor live connections can need.

        Names those whose entries others have changed, backends and members included: their shadow is what the maps hold now.
        """
        for keys in in_parts(list(self._live), FEW):
            self._remove([key for key in keys if rows.get(key) is None])
            yield ()
        if self._is_doubtful:
            yield from self._check().steps()
            strange = self._ranges.check({live.service_id for live in self._live.values()})
            yield [key for key, live in self._live.items() if live.service_id in strange]
        self._is_doubtful = True
        self._backends.collect()
        for kept in in_parts(list(self._backends.kept), PART):
            self._backends.check_kept(target for target in kept if target in self._backends.kept)
            yield ()

    def _check(self) -> MapCheck:
        return MapCheck(
            self._services,
            self._members,
            self._backends,
            self._live,
            self._suspects,
            self._room,
            self._member_room,
            self._reload,
            self._unnamed,
        )

    def _new_live(self, key: FrontendKey) -> FrontendShadow:
        live = self._live[key] = FrontendShadow(free_id(natural_id(*key), self._service_ids))
        return live

    # ---- room

    def _admit(self, rows: Sequence[Frontend]) -> tuple[Sequence[Frontend], dict[Hashable, Exception]]:
        """The rows that find room, and why the others do not. Says yes to all without a closer look where it can."""
        free = min(self._room.free, self._member_room.free, self._backends.free)
        restricted = [row for row in rows if row.source_ranges]
        if not restricted and sum([len(row.chosen) + len(row.draining) + 1 for row in rows]) <= free:
            return rows, {}
        fitting: list[Frontend] = []
        refused: dict[Hashable, Exception] = {}
        slots = members = ranges = 0
        new: set[Target] = set()
        for row in rows:
            live = self._live.get(row.key)
            gained = set(row.chosen).difference(() if live is None else live.slots)
            more_slots = max(0, len(row.chosen) + 1 - (0 if live is None else live.entries))
            more = {t for t in self._backends.absent((*gained, *row.draining)) if t not in new}
            if more_slots and slots + more_slots > self._room.free:
                refused[row.key] = self._room.refusal()
            elif gained and members + len(gained) > self._member_room.free:
                refused[row.key] = self._member_room.refusal()
            elif more and not self._backends.make_room(len(new) + len(more)):
                refused[row.key] = self._backends.refusal()
            elif (lack := self._lacking(row, live)) and ranges + lack > self._ranges.room.free:
                refused[row.key] = self._ranges.room.refusal()
            else:
                ranges += lack
                slots, members = slots + more_slots, members + len(gained)
                new |= more
                fitting.append(row)
        return fitting, refused

    def _lacking(self, row: Frontend, live: FrontendShadow | None) -> int:
        """How many entries of the source ranges it needs more."""
        if not row.source_ranges:
            return 0
        return len(row.source_ranges) if live is None else self._ranges.lacking(live.service_id, row)

    # ---- one write

    def _write(self, rows: Sequence[Frontend]) -> None:
        """The maps hold these rows; or, after an exception, whatever was written before it, and the shadow is that."""
        _, refused = self._admit(rows)
        for error in refused.values():
            raise error
        plans: list[Plan] = []
        try:
            plans.extend(map(self._plan, rows))
            self._publish(plans)
        except Exception as exc:
            for room in (self._room, self._member_room):
                room.note(exc)
            self._backends.abandon()
            for plan in plans:
                self._give_back(plan)
            with suppress(MapError):
                self._backends.collect()
            raise
        wall_s = self._wall()
        for plan in plans:
            self._commit(plan, wall_s)
        self._backends.collect()

    def _plan(self, row: Frontend) -> Plan:
        """Raises: ValueError for a frontend that no map can hold, and then has acquired nothing."""
        place = place_of(row.key)
        live = self._live.get(row.key)
        if live is None:
            live = self._new_live(row.key)
        elif live.is_unsure:
            self._reload(row.key, live)
        change = changed_targets(live.slots, row.chosen)
        is_same = not change.gained and not change.lost
        slots: Sequence[Target] = row.chosen
        if live.slots and not row.is_consistent:
            slots = cast("Sequence[Target]", live.slots) if is_same else rearranged(live.slots, row.chosen, change)
        ids = self._backends.acquire(change.gained, row.draining)
        live.held = (*live.held, *change.gained) if live.held else change.gained
        return Plan(row, live, place, slots, change, ids)

    def _publish(self, plans: Sequence[Plan]) -> None:
        self._backends.flush()
        self._members.update_packed(*member_writes(plans, self._backends.ids_of))
        self._services.update_packed(*slot_writes(plans, self._backends.ids_of))
        self._ranges.widen((plan.live.service_id, plan.row.source_ranges or ()) for plan in plans)
        self._services.update_packed(*head_writes(plans))
        self._ranges.narrow((plan.live.service_id, plan.row.source_ranges or ()) for plan in plans)
        self._services.delete([key for plan in plans for key in _surplus_slots(plan)])
        self._members.delete([key for plan in plans for key in self._old_members(plan)])

    def _commit(self, plan: Plan, wall_s: float) -> None:
        """The shadow is what was written."""
        live, old_draining, before = plan.live, plan.live.draining, plan.live.entries
        live.held = ()
        live.slots, live.draining = tuple(plan.slots), plan.row.draining
        live.count, live.timeout_s, live.reach = len(plan.slots), plan.row.session_affinity_s, plan.row.reach
        live.is_consistent = plan.row.is_consistent
        live.written_wall_s = wall_s
        self._room.used += live.entries - before
        more_members = len(plan.change.joined) - sum([t is not None for t in plan.change.left])
        live.members += more_members
        self._member_room.used += more_members
        self._suspects.pop(live.service_id, None)
        live.service = plan.row.service
        if plan.change.lost or old_draining:
            self._backends.release(plan.change.lost, old_draining, live.service)
        if self._on_written is not None:
            self._on_written(plan.row, wall_s)

    def _old_members(self, plan: Plan) -> list[MemberKey]:
        service_id = plan.live.service_id
        suspects = self._suspects.get(service_id, ())
        if not suspects and not plan.change.left:
            return []
        gone = set(self._backends.ids_of(t for t in plan.change.left if t is not None))
        if suspects:
            gone = (gone | set(suspects)) - set(self._backends.ids_of(plan.slots))
        return [MemberKey(service_id, backend_id) for backend_id in sorted(gone)]

    def _remove(self, keys: Sequence[FrontendKey]) -> None:
        """Heads first: from then on no packet looks at the rest. Slots from the last, so that what is left is counted.

        A frontend of which the maps hold nothing needs no deletion, not even of a key that no map can hold.
        """
        doomed = [(key, live) for key in keys if (live := self._live.get(key)) is not None]
        for _, live in doomed:
            self._suspect(live, ())
        try:
            self._services.delete([slot_key(key, 0) for key, _ in doomed])
            self._services.delete([slot_key(k, slot) for k, live in doomed for slot in range(len(live.slots), 0, -1)])
            self._members.delete([key for _, live in doomed for key in self._suspected(live.service_id)])
            self._ranges.narrow((live.service_id, ()) for _, live in doomed)
        except Exception:
            for key, live in doomed:
                self._reload_or_doubt(key, live)
            raise
        for key, live in doomed:
            self._room.used -= live.entries
            self._member_room.used -= live.members
            self._backends.release(live.slots, live.draining, live.service)
            self._backends.give_back(live.held)
            self._forget(key, live)
        self._backends.collect()

    # ---- after a failure

    def _give_back(self, plan: Plan) -> None:
        self._suspect(plan.live, plan.change.joined)
        self._backends.give_back((), plan.row.draining)
        self._reload_or_doubt(plan.row.key, plan.live)

    def _suspect(self, live: FrontendShadow, slots: Iterable[Target | None]) -> None:
        ids = self._backends.ids_of(t for t in (*live.slots, *slots) if t is not None)
        self._suspects.setdefault(live.service_id, set()).update(ids)

    def _suspected(self, service_id: int) -> list[MemberKey]:
        return [MemberKey(service_id, backend_id) for backend_id in sorted(self._suspects.get(service_id, ()))]

    def _reload_or_doubt(self, key: FrontendKey, live: FrontendShadow) -> None:
        """The shadow is what the map holds; if that cannot be read now, it is before the next write."""
        live.is_unsure = True
        with suppress(MeshError):
            self._reload(key, live)

    def _reload(self, key: FrontendKey, live: FrontendShadow) -> None:
        """The shadow of one frontend is what the map holds; nothing is left of one of which the maps hold nothing."""
        before = live.entries
        slots: list[Target | None] = []
        try:
            head = self._services.get(slot_key(key, 0))
            counted = 0 if head is None else head.count
            while (value := self._services.get(slot_key(key, len(slots) + 1))) is not None or len(slots) < counted:
                is_ours = value is not None and value.service_id == live.service_id
                slots.append(self._backends.target_of(value.backend_id) if value is not None and is_ours else None)
        except ValueError:  # a key that no map can hold
            head = None
        old_slots, live.slots, live.members = live.slots, tuple(slots), count_members(slots)
        live.count, live.timeout_s = (None, 0) if head is None else (head.count, head.backend_id)
        live.reach = 0 if head is None else reach_in(head)
        live.is_consistent = head is not None and head.algorithm == ServiceAlgorithm.MAGLEV
        if head is not None and head != head_value(
            live.service_id, head.count, head.backend_id, live.reach, is_consistent=live.is_consistent
        ):
            live.count = None  # somebody else wrote it: it is written again
        self._backends.acquire(slots)
        self._backends.release(old_slots, (), live.service)
        self._backends.give_back(live.held)
        live.held = ()
        live.is_unsure = False
        self._room.used += live.entries - before
        if head is None and not slots:
            self._members.delete(self._suspected(live.service_id))
            self._ranges.narrow([(live.service_id, ())])
            self._backends.give_back((), live.draining)
            self._forget(key, live)

    def _forget(self, key: FrontendKey, live: FrontendShadow) -> None:
        del self._live[key]
        self._service_ids.discard(live.service_id)
        self._suspects.pop(live.service_id, None)


def _key_of(row: Frontend) -> FrontendKey:
    return row.key


def _surplus_slots(plan: Plan) -> list[ServiceKey]:
    return [slot_key(plan.row.key, slot) for slot in range(len(plan.live.slots), len(plan.slots), -1)]
