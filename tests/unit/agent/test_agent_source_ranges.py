# SPDX-License-Identifier: Apache-2.0
"""Source ranges: what is read of them, what finds room, and that no write between two documents opens anything."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.datapath.errors import MapError, MapFullError
from agent.datapath.layout import ServiceFlag
from agent.datapath.memory import MemoryMaps, memory_maps
from agent.loadbalancer.ops import LoadBalancerTarget
from agent.loadbalancer.source_ranges import MOST, read_ranges
from agent.tables import Frontend, FrontendKey, Target
from meshmodel.names import ServiceName

KEY = FrontendKey("192.0.2.1", 80, "TCP")
ROW = Frontend(KEY, ServiceName("t", "s"), "LoadBalancer", "", (Target("10.1.0.1", 80, "TCP", 1),))


def restricted(*ranges: str, port: int = 80) -> Frontend:
    return replace(ROW, key=KEY._replace(port=port), source_ranges=ranges, reach=ServiceFlag.SOURCE_RANGES)


def answered(maps: MemoryMaps, port: int = 80) -> set[str] | None:
    """The ranges the frontend answers; None: everybody."""
    ((_, head),) = [(k, v) for k, v in maps.services.items() if not k.slot and k.port == port]
    if not head.flags & ServiceFlag.SOURCE_RANGES:
        return None
    return {k.range for k, _ in maps.source_ranges.items() if k.service_id == head.service_id}


def test_ranges_beyond_the_limit_let_nobody_in() -> None:
    texts = [f"10.{n >> 8}.{n & 255}.0/24" for n in range(MOST + 1)]
    found, (problem,) = read_ranges(reversed(texts))
    assert found == tuple(texts[:MOST])
    assert str(MOST) in problem


@pytest.mark.parametrize("before", [None, (), ("10.0.0.0/8",), ("192.0.2.0/24", "10.0.0.0/8")])
@pytest.mark.parametrize("after", [None, (), ("10.0.0.0/8",), ("198.51.100.0/24", "203.0.113.0/24")])
def test_no_write_lets_in_whom_neither_document_lets_in(
    before: tuple[str, ...] | None, after: tuple[str, ...] | None
) -> None:
    maps = memory_maps()
    target = LoadBalancerTarget(maps, lambda: 0.0)
    rows = [ROW if ranges is None else restricted(*ranges) for ranges in (before, after)]
    assert not target.update(rows[:1])
    seen: list[set[str] | None] = []
    for one in (maps.services, maps.source_ranges):
        one.on_write = lambda _key: seen.append(answered(maps))  # type: ignore[attr-defined]
    assert not target.update(rows[1:])
    allowed = None if None in (before, after) else {*(before or ()), *(after or ())}
    for ranges in seen:
        assert allowed is None or (ranges is not None and ranges <= allowed)
    assert answered(maps) == (None if after is None else set(after))
    if before is not None and after is not None:
        kept = set(before) & set(after)
        assert all(ranges is not None and kept <= ranges for ranges in seen), "who may stay is let in all the time"
    for one in (maps.services, maps.source_ranges):
        one.on_write = lambda _key: None  # type: ignore[attr-defined]
    assert not target.delete(rows[1:])
    assert not [*maps.source_ranges.items()]


def test_what_finds_no_room_is_refused_and_what_was_in_force_stays() -> None:
    maps = memory_maps({"mesh_source_ranges": 3})
    target = LoadBalancerTarget(maps, lambda: 0.0)
    assert not target.update([restricted("10.0.0.0/8"), restricted("10.0.0.0/8", port=81)])
    refused = target.update([restricted("10.0.0.0/8", "192.0.2.0/24", "198.51.100.0/24"), restricted(port=81)])
    assert isinstance(refused[KEY], MapFullError)
    assert answered(maps) == {"10.0.0.0/8"}
    assert answered(maps, 81) == set()
    assert not target.update([restricted("10.0.0.0/8", "192.0.2.0/24", "198.51.100.0/24")])
    assert answered(maps) == {"10.0.0.0/8", "192.0.2.0/24", "198.51.100.0/24"}


@pytest.mark.parametrize("done", range(3))
def test_a_write_that_fails_is_done_whole_by_the_next(done: int) -> None:
    maps = memory_maps()
    target = LoadBalancerTarget(maps, lambda: 0.0)
    assert not target.update([restricted("10.0.0.0/8")])
    maps.source_ranges.fail_after(done)  # type: ignore[attr-defined]
    wanted = restricted("192.0.2.0/24", "198.51.100.0/24")
    assert isinstance(target.update([wanted])[KEY], MapError)
    assert not target.update([wanted])
    assert answered(maps) == {"192.0.2.0/24", "198.51.100.0/24"}
    assert target._ranges.room.used == len([*maps.source_ranges.items()]) == 2
    assert not [key for keys in target.prune({KEY: wanted}) for key in keys]
