# SPDX-License-Identifier: Apache-2.0
"""What the maps hold for one frontend, and how it is spelled there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agent.datapath.layout import ServiceFlag, ServiceKey, ServiceValue
from agent.loadbalancer.registry import protocol_number
from agent.tables import FrontendKey, Target
from meshmodel.names import ServiceName
from meshmodel.protocol import PROTOCOL_NAMES


@dataclass(slots=True)
class FrontendShadow:
    """The shadow of one frontend. `count` is what the kernel was told; None while there is no head entry of ours."""

    service_id: int
    slots: Sequence[Target | None] = ()
    draining: tuple[Target, ...] = ()
    count: int | None = None
    timeout_s: int = 0
    reach: int = 0
    is_consistent: bool = False
    written_wall_s: float = 0.0
    service: ServiceName | None = None
    """Whose frontend it was when it was last written; None if that was before this process."""
    held: Sequence[Target] = ()
    """Acquired for slots of a write that is under way, or that failed and was not read again yet."""
    members: int = 0
    """How many entries of the member map its backends need."""
    is_unsure: bool = False
    """A write failed, and the map could not be read after it."""

    @property
    def entries(self) -> int:
        """How many entries of the service map these are."""
        return len(self.slots) + (self.count is not None)


def count_members(slots: Iterable[Target | None]) -> int:
    """How many backends stand in the slots."""
    return len(set(slots) - {None})


def head_value(
    service_id: int, count: int, timeout_s: int, reach: int = 0, *, is_consistent: bool = False
) -> ServiceValue:
    """Slot 0: how many slots may be looked at, by whom, and how one is chosen."""
    flags = reach | (ServiceFlag.AFFINITY if timeout_s else 0)
    return ServiceValue(timeout_s, service_id, count, flags, int(is_consistent))


def reach_in(head: ServiceValue) -> int:
    """Who is led there beside pods, as the head entry says."""
    return head.flags & ~ServiceFlag.AFFINITY


def slot_key(key: FrontendKey, slot: int) -> ServiceKey:
    """Raises: ValueError for a protocol without a number."""
    return ServiceKey(key.address, key.port, protocol_number(key.protocol), slot)


def frontend_of(key: ServiceKey) -> FrontendKey:
    return FrontendKey(key.address, key.port, PROTOCOL_NAMES.get(key.protocol, str(key.protocol)))
