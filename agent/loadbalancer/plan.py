# SPDX-License-Identifier: Apache-2.0
"""What one frontend needs written, decided before any of it is, and the map entries of many such plans as bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import compress, count
from operator import is_not

from agent.datapath.service_records import (
    head_key,
    key_start,
    member_keys,
    member_values,
    slot_keys,
    slot_keys_of,
    slot_values,
)
from agent.loadbalancer.frontend_shadow import FrontendShadow, head_value
from agent.loadbalancer.registry import protocol_number
from agent.loadbalancer.slot_change import SlotChange
from agent.tables import Frontend, FrontendKey, Target

IdsOf = Callable[[Iterable[Target]], Sequence[int]]
Packed = tuple[bytes, bytes]
"""Keys and values of map entries, each one after the other, in the order in which they are written."""


@dataclass(slots=True)
class Plan:
    """One row's writes. `place`: how its keys begin, and its protocol. `ids`: those of the slots that are gained, in order."""

    row: Frontend
    live: FrontendShadow
    place: tuple[bytes, int]
    slots: Sequence[Target]
    change: SlotChange
    ids: Sequence[int]


def place_of(key: FrontendKey) -> tuple[bytes, int]:
    """How the keys of a frontend begin, and its protocol. Raises: ValueError when no map can hold it."""
    start, protocol = key_start(key.address, key.port), protocol_number(key.protocol)
    head_key(start, protocol)
    return start, protocol


def member_writes(plans: Iterable[Plan], ids_of: IdsOf) -> Packed:
    """The backends that get their first slot."""
    services: list[int] = []
    backends: list[int] = []
    for plan in plans:
        joined = plan.change.joined
        backends += plan.ids if joined is plan.change.gained else ids_of(joined)
        services += [plan.live.service_id] * len(joined)
    return member_keys(services, backends), member_values(len(backends))


def slot_writes(plans: Iterable[Plan], ids_of: IdsOf) -> Packed:
    """Slots that are new, or lead to another backend than before."""
    keys: list[bytes] = []
    services: list[int] = []
    backends: list[int] = []
    for plan in plans:
        old, slots, ids = plan.live.slots, plan.slots, plan.ids
        if not old:
            keys.append(slot_keys(*plan.place, len(slots)))
        elif old is slots:
            continue
        else:
            other = compress(count(), map(is_not, old, slots))  # most slots hold the very same object as before
            changed = [*[n for n in other if old[n] != slots[n]], *range(len(old), len(slots))]
            ids = ids_of([slots[n] for n in changed])
            keys.append(slot_keys_of(*plan.place, [n + 1 for n in changed]))
        backends += ids
        services += [plan.live.service_id] * len(ids)
    return b"".join(keys), slot_values(backends, services)


def head_writes(plans: Iterable[Plan]) -> Packed:
    """What is told of frontends that the kernel does not know as they are."""
    keys: list[bytes] = []
    values: list[bytes] = []
    for plan in plans:
        live, row, count = plan.live, plan.row, len(plan.slots)
        timeout_s, reach, is_consistent = row.session_affinity_s, row.reach, row.is_consistent
        if (live.count, live.timeout_s, live.reach, live.is_consistent) != (count, timeout_s, reach, is_consistent):
            head = head_value(live.service_id, count, timeout_s, reach, is_consistent=is_consistent)
            keys.append(head_key(*plan.place))
            values.append(head.pack())
    return b"".join(keys), b"".join(values)
