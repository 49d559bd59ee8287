# SPDX-License-Identifier: Apache-2.0
"""The service, backend and member maps against the shadow, in steps of some ten milliseconds between which rows are written.

What a step sees may be older than the shadow, so each suspicion is read again from the map before anything follows from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from agent.datapath.layout import MemberKey, MemberValue, ServiceKey, ServiceValue
from agent.datapath.maps import Map
from agent.loadbalancer.frontend_shadow import FrontendShadow, frontend_of, head_value
from agent.loadbalancer.registry import PART, BackendRegistry
from agent.loadbalancer.room import Room
from agent.tables import FrontendKey, Target
from meshkit.parts import in_parts

FEW: Final = 200  # frontends

Reload = Callable[[FrontendKey, FrontendShadow], None]


@dataclass(slots=True)
class Unnamed:
    """What comparisons found and have not named yet: one that is begun anew knows nothing of it by the shadow."""

    changed: dict[FrontendKey, None] = field(default_factory=dict)
    lost: set[Target] = field(default_factory=set)
    lacking: set[int] = field(default_factory=set)


@dataclass(slots=True)
class MapCheck:
    """One comparison. What others changed is read again and named; what they added is deleted.

    `live` is the shadow, `reload` makes one of its frontends what the map holds; `unnamed` outlives the comparison.
    """

    services: Map[ServiceKey, ServiceValue]
    members: Map[MemberKey, MemberValue]
    backends: BackendRegistry
    live: dict[FrontendKey, FrontendShadow]
    suspects: dict[int, set[int]]
    room: Room
    member_room: Room
    reload: Reload
    unnamed: Unnamed
    _published: set[int] = field(default_factory=set)
    """Backend ids that slots named which others wrote."""

    def steps(self) -> Iterator[list[FrontendKey]]:
        """The last steps name frontends whose entries others changed, backends and members included.

        None is named before the backends are whole: a slot that is written again is to lead to one.
        """
        changed, lost, lacking = self.unnamed.changed, self.unnamed.lost, self.unnamed.lacking
        for named in self._check_services():
            changed.update(dict.fromkeys(named))
            yield []
        for targets in self.backends.compare(self._published):
            lost |= targets
            yield []
        for services in self._check_members():
            lacking |= services
            yield []
        for key in changed:
            if (live := self.live.get(key)) is not None:
                self._suspect(live)
        names = frozenset(changed)
        for keys in in_parts(list(changed), PART):
            for key in keys:
                del changed[key]
            yield list(keys)
        if lost or lacking:
            for part in in_parts(list(self.live.items()), FEW):
                yield [
                    key
                    for key, live in part
                    if key not in names and (live.service_id in lacking or not lost.isdisjoint(live.slots))
                ]
            lost.clear()
            lacking.clear()

    # ---- services

    def _check_services(self) -> Iterator[list[FrontendKey]]:
        seen: dict[FrontendKey, int] = {}  # the slots that were seen, as bits
        strange: list[ServiceKey] = []
        for part in in_parts(self.services.items(), PART):
            doubtful: dict[FrontendKey, None] = {}
            for key, value in part:
                frontend = frontend_of(key)
                seen[frontend] = seen.get(frontend, 0) | 1 << key.slot
                live = self.live.get(frontend)
                if live is None or key.slot > len(live.slots):
                    strange.append(key)
                elif not self._is_as_written(live, key.slot, value):
                    doubtful[frontend] = None
                    if key.slot:
                        self._published.add(value.backend_id)
            yield self._read_again(doubtful)
        for keys in in_parts(list(self.live), FEW):
            yield self._read_again([key for key in keys if not self._is_whole(key, seen.get(key, 0))])
        strange.sort(key=lambda key: (key.slot != 0, -key.slot))
        for doomed in in_parts(strange, PART):
            self.services.delete([key for key in doomed if not self._is_counted(key)])
            yield []
        yield []
        self.room.used = sum(map(_entries, self.live.values())) + sum(map(self._is_beyond, strange))

    def _is_as_written(self, live: FrontendShadow, slot: int, value: ServiceValue) -> bool:
        if not slot:
            return live.count is not None and value == head_value(
                live.service_id, live.count, live.timeout_s, live.reach, is_consistent=live.is_consistent
            )
        target = live.slots[slot - 1]
        is_ours = value.service_id == live.service_id
        return is_ours and target is not None and self.backends.ids_of((target,)) == [value.backend_id]

    def _is_whole(self, key: FrontendKey, seen: int) -> bool:
        live = self.live.get(key)
        if live is None:
            return True
        return live.count is not None and None not in live.slots and not ~seen & ((2 << len(live.slots)) - 1)

    def _read_again(self, keys: Iterable[FrontendKey]) -> list[FrontendKey]:
        """Those that the map does not hold as they were written."""
        changed: list[FrontendKey] = []
        for key in keys:
            live = self.live.get(key)
            if live is None:
                continue
            before = (live.slots, live.count, live.timeout_s, live.reach, live.is_consistent)
            self.reload(key, live)
            is_same = key in self.live and live.count is not None and None not in live.slots
            after = (live.slots, live.count, live.timeout_s, live.reach, live.is_consistent)
            if not is_same or after != before:
                changed.append(key)
        return changed

    def _is_counted(self, key: ServiceKey) -> bool:
        """Whether a head that is in force says that packets may look at this slot."""
        live = self.live.get(frontend_of(key))
        return live is not None and key.slot <= (live.count or 0)

    def _is_beyond(self, key: ServiceKey) -> bool:
        """Whether the slot is counted by a head, and not one that we wrote."""
        live = self.live.get(frontend_of(key))
        return live is not None and len(live.slots) < key.slot <= (live.count or 0)

    # ---- members

    def _check_members(self) -> Iterator[set[int]]:
        """The members of each service are the backends of its slots; each step names services that lacked one."""
        found: set[int] = set()  # numbers, as half a million pairs would be work for the garbage collector
        for part in in_parts(self.members.items(), PART):
            found.update(key.service_id << 32 | key.backend_id for key, _ in part)
            yield set()
        for lives in in_parts(list(self.live.items()), FEW):
            yield self._put_back_members([live for key, live in lives if self.live.get(key) is live], found)
        for numbers in in_parts(list(found), PART):
            by_id = {live.service_id: live for live in self.live.values()}
            strange = [MemberKey(number >> 32, number & 0xFFFF_FFFF) for number in numbers]
            self.members.delete(sorted(key for key in strange if not self._is_member(key, by_id)))
            yield set()
        ids = {live.service_id for live in self.live.values()}
        for number in [number for number in self.suspects if number not in ids]:
            del self.suspects[number]
        yield set()
        self.member_room.used = sum(live.members for live in self.live.values())

    def _put_back_members(self, lives: Iterable[FrontendShadow], found: set[int]) -> set[int]:
        """Services that lacked a member; what they want is taken out of `found`."""
        missing: list[MemberKey] = []
        for live in lives:
            number = live.service_id
            for backend_id in self.backends.ids_of(t for t in dict.fromkeys(live.slots) if t is not None):
                if (number << 32 | backend_id) in found:
                    found.discard(number << 32 | backend_id)
                elif self.members.get(key := MemberKey(number, backend_id)) is None:
                    missing.append(key)
            self.suspects.pop(number, None)
        self.members.update([(key, MemberValue()) for key in sorted(missing)])
        return {key.service_id for key in missing}

    def _is_member(self, key: MemberKey, by_id: Mapping[int, FrontendShadow]) -> bool:
        """Whether a slot wants it now."""
        live = by_id.get(key.service_id)
        return live is not None and key.backend_id in self.backends.ids_of(t for t in live.slots if t is not None)

    def _suspect(self, live: FrontendShadow) -> None:
        ids = self.backends.ids_of(t for t in live.slots if t is not None)
        self.suspects.setdefault(live.service_id, set()).update(ids)


def _entries(live: FrontendShadow) -> int:
    return live.entries
