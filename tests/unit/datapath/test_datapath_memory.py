# SPDX-License-Identifier: Apache-2.0
"""The fake's own gifts: faults on demand, and a hole found at the very write that makes it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent.datapath.errors import MapError
from agent.datapath.layout import BackendKey, BackendValue, ServiceKey, ServiceValue
from agent.datapath.memory import HoleError, MemoryMap, MemoryMaps, memory_maps

HEAD = ServiceKey("172.20.0.1", 80, 6)
BACKENDS = [(BackendKey(i), BackendValue(f"10.0.0.{i}", 80, 6)) for i in (1, 2)]
SLOTS = [(HEAD._replace(slot=i), ServiceValue(i, 1)) for i in (1, 2)]


def _full() -> MemoryMaps:
    maps = memory_maps()
    maps.backends.update(BACKENDS)
    maps.services.update([*SLOTS, (HEAD, ServiceValue(0, 1, 2))])
    return maps


def test_the_safe_orders_of_growing_and_shrinking_pass() -> None:
    maps = _full()
    maps.check()
    maps.services.update([(HEAD, ServiceValue(0, 1, 1))])
    maps.services.delete([SLOTS[1][0]])
    maps.backends.delete([BACKENDS[1][0]])
    maps.services.delete([HEAD, SLOTS[0][0]])
    maps.backends.delete([BACKENDS[0][0]])
    maps.check()


HOLES: dict[str, Callable[[MemoryMaps], None]] = {
    "count before slot": lambda m: m.services.update([(HEAD, ServiceValue(0, 1, 3))]),
    "slot before backend": lambda m: m.services.update([(HEAD._replace(slot=1), ServiceValue(9, 1))]),
    "slot deleted while counted": lambda m: m.services.delete([HEAD._replace(slot=2)]),
    "backend deleted while named": lambda m: m.backends.delete([BackendKey(1)]),
}


@pytest.mark.parametrize("make_hole", HOLES.values(), ids=HOLES)
def test_a_hole_is_found_at_the_write_that_makes_it(make_hole: Callable[[MemoryMaps], None]) -> None:
    maps = _full()
    with pytest.raises(HoleError):
        make_hole(maps)


def test_a_slot_beyond_the_count_may_name_anything() -> None:
    maps = _full()
    maps.services.update([(HEAD._replace(slot=3), ServiceValue(99, 1))])
    maps.check()


def test_a_fault_stops_a_call_after_the_writes_it_allowed() -> None:
    maps = memory_maps()
    backends = maps.backends
    assert isinstance(backends, MemoryMap)
    backends.fail_after(1)
    with pytest.raises(MapError) as failure:
        backends.update(BACKENDS)
    assert failure.value.done == 1
    assert [k for k, _ in backends.items()] == [BACKENDS[0][0]]
    backends.update(BACKENDS)
    assert backends.info().count == 2
