# SPDX-License-Identifier: Apache-2.0
"""The service, member and backend maps against the frontends table. Reads the maps themselves, not what we believe of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from agent.comparison import MISSING, UNEXPECTED, compare_entries, fields
from agent.datapath.layout import BackendState, BackendValue, MemberKey, MemberValue, ServiceKey, ServiceValue
from agent.datapath.maps import Maps, ServiceMaps
from agent.datapath.source_range_layout import SourceRangeKey, SourceRangeValue
from agent.loadbalancer.frontend_shadow import head_value, slot_key
from agent.loadbalancer.registry import backend_value, target_of
from agent.loadbalancer.source_ranges import entries_of
from agent.tables import Frontend, Target
from meshapi.agent import MapDifference

_CHOSEN = frozenset((BackendState.ACTIVE,))
_DRAINING = frozenset((BackendState.TERMINATING, BackendState.MAINTENANCE))


def compare_services(maps: Maps, rows: Iterable[Frontend], kept: Mapping[Target, int]) -> list[MapDifference]:
    """Every entry that is not as these rows say. `kept` are the states of backends that only open connections may need."""
    by_family: dict[bool, list[Frontend]] = {False: [], True: []}
    for row in sorted(rows, key=lambda row: row.key):
        by_family[":" in row.key.address].append(row)
    kept6 = {target: state for target, state in kept.items() if ":" in target.address}
    found = _compare_family(
        maps.of_ipv4, by_family[False], {t: state for t, state in kept.items() if t not in kept6} if kept6 else kept
    )
    if maps.of_ipv6 is None:
        return found
    wide = _compare_family(maps.of_ipv6, by_family[True], kept6)
    return found + [MapDifference(f"{each.place}6", each.key, each.what) for each in wide]


def _compare_family(maps: ServiceMaps, rows: Sequence[Frontend], kept: Mapping[Target, int]) -> list[MapDifference]:
    held = _Held(dict(maps.services.items()), {key.id: value for key, value in maps.backends.items()})
    states: dict[Target, frozenset[int]] = {target: frozenset((state,)) for target, state in kept.items()}
    for row in rows:
        states.update((target, _DRAINING) for target in row.draining)
    for row in rows:
        states.update((target, _CHOSEN) for target in row.chosen)
        held.compare_frontend(row)
    held.found += [MapDifference("services", fields(key), UNEXPECTED) for key in held.services]
    members = dict.fromkeys(held.members, MemberValue())
    held.found += compare_entries("members", members, dict(maps.members.items()))
    held.found += compare_entries("source_ranges", held.ranges, dict(maps.source_ranges.items()))
    return held.found + _compare_backends(held.backends, states)


@dataclass(slots=True)
class _Held:
    """What the maps hold; entries of `services` that were compared are taken out, `members` are those that slots need."""

    services: dict[ServiceKey, ServiceValue]
    backends: dict[int, BackendValue]
    members: set[MemberKey] = field(default_factory=set)
    ranges: dict[SourceRangeKey, SourceRangeValue] = field(default_factory=dict)
    """What the map of source ranges should hold."""
    found: list[MapDifference] = field(default_factory=list)

    def compare_frontend(self, row: Frontend) -> None:
        try:
            key = slot_key(row.key, 0)
            key.pack()
        except ValueError as exc:
            self.found.append(MapDifference("services", str(row.key), f"no map can hold it: {exc}"))
            return
        head = self.services.pop(key, None)
        if head is None:
            self.found.append(MapDifference("services", fields(key), MISSING))
        elif head != (wanted := _wanted_head(head.service_id, row)):
            what = f"holds {fields(head)}, should hold {fields(wanted)}"
            self.found.append(MapDifference("services", fields(key), what))
        if head is not None:
            self.ranges.update((key, SourceRangeValue()) for key in entries_of(head.service_id, row))
        named = [self._slot(key._replace(slot=n), head) for n in range(1, len(row.chosen) + 1)]
        if row.is_consistent:
            self._compare_table(row, named)
        for target in filter(None, Counter[Target | None](row.chosen) - Counter(named)):
            self.found.append(
                MapDifference("services", fields(key), f"no slot, or one too few, leads to {fields(target)}")
            )

    def _compare_table(self, row: Frontend, named: Sequence[Target | None]) -> None:
        """Where each slot of a Maglev table is counts."""
        for number, (found, wanted) in enumerate(zip(named, row.chosen, strict=True), 1):
            if found is not None and found != wanted:
                what = f"slot {number} leads to {fields(found)}, should lead to {fields(wanted)}"
                self.found.append(MapDifference("services", str(row.key), what))

    def _slot(self, key: ServiceKey, head: ServiceValue | None) -> Target | None:
        """Whom a slot leads to; None if it leads nowhere."""
        value = self.services.pop(key, None)
        if value is None:
            self.found.append(MapDifference("services", fields(key), MISSING))
            return None
        service_id = value.service_id if head is None else head.service_id
        self.members.add(MemberKey(service_id, value.backend_id))
        wanted = ServiceValue(value.backend_id, service_id)
        if value != wanted:
            what = f"holds {fields(value)}, should hold {fields(wanted)}"
            self.found.append(MapDifference("services", fields(key), what))
        backend = self.backends.get(value.backend_id)
        if backend is None:
            self.found.append(MapDifference("services", fields(key), f"names the missing backend {value.backend_id}"))
            return None
        return target_of(backend)


def _wanted_head(service_id: int, row: Frontend) -> ServiceValue:
    return head_value(service_id, len(row.chosen), row.session_affinity_s, row.reach, is_consistent=row.is_consistent)


def _compare_backends(
    backends: Mapping[int, BackendValue], states: Mapping[Target, frozenset[int]]
) -> list[MapDifference]:
    found: list[MapDifference] = []
    seen: set[Target] = set()
    for number, value in sorted(backends.items()):
        target, key = target_of(value), f"id={number}"
        allowed = states.get(target)
        if allowed is None:
            found.append(MapDifference("backends", key, f"{UNEXPECTED}: {fields(value)}"))
        elif target in seen:
            found.append(MapDifference("backends", key, f"a second entry of {fields(target)}"))
        elif value not in [backend_value(target, state) for state in allowed]:
            what = f"holds {fields(value)}, should have state {' or '.join(map(str, sorted(allowed)))}"
            found.append(MapDifference("backends", key, what))
        seen.add(target)
    return found + [MapDifference("backends", fields(target), MISSING) for target in states.keys() - seen]
