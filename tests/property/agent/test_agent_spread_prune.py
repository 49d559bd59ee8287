# SPDX-License-Identifier: Apache-2.0
"""A prune goes on in steps while rows are written and others tamper with the maps: what was done to them is undone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.datapath.layout import BackendKey, BackendValue, MemberKey, MemberValue, ServiceKey, ServiceValue
from agent.datapath.memory import MemoryMaps, memory_maps
from agent.ipcache.ops import IpcacheTarget, ipcache_value
from agent.loadbalancer import map_check, ops, registry
from agent.loadbalancer.comparison import compare_services
from agent.loadbalancer.ops import LoadBalancerTarget
from agent.tables import AgentDB, ClaimOrigin, Frontend, FrontendKey, Prefix, Target
from meshkit.clock import ManualClock
from meshkit.reconciler import Reconciler
from meshmodel.names import ClusterId, ClusterName, ServiceName
from tests.support.effort import examples

NORTH = ClusterName("north")


@pytest.fixture(autouse=True, scope="module")
def _small_steps() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (map_check, ops, registry):
            patch.setattr(module, "PART", 2)
        for module in (map_check, ops):
            patch.setattr(module, "FEW", 1)
        yield


def frontend(number: int, *backends: int) -> Frontend:
    key = FrontendKey(f"10.96.0.{number}", 80, "TCP")
    targets = tuple(Target(f"10.1.0.{n}", 8080, "TCP", 1) for n in backends)
    return Frontend(key, ServiceName("test", f"s{number}"), "ClusterIP", "", targets)


class World:
    """A load balancer that prunes when it is told to."""

    def __init__(self) -> None:
        self.db, self.maps = AgentDB(NORTH, ClusterId(1)), memory_maps()
        for one in (self.maps.services, self.maps.backends, self.maps.members):
            one.on_write = lambda _key: None  # others write what would be a hole
        self.target = LoadBalancerTarget(self.maps, lambda: 0.0)
        self.target.restore()
        self.reconciler: Reconciler[Any, Any] = Reconciler(
            self.db.frontends, self.target, clock=ManualClock(), prune_interval_s=None
        )
        self.now_s = 0.0

    def put(self, number: int, *backends: int) -> None:
        with self.db.write():
            self.db.frontends.put(frontend(number, *backends))

    def delete(self, number: int) -> None:
        with self.db.write():
            self.db.frontends.delete(frontend(number).key)

    def step(self) -> None:
        self.reconciler.run_once(self.now_s)

    def settle(self) -> None:
        while self.reconciler.run_once(self.now_s).wake_at == self.now_s:
            pass

    def prune(self) -> None:
        """Then what failed because others had taken its backends away is tried again."""
        self.reconciler.prune_soon()
        self.settle()
        self.now_s += 1000.0
        self.settle()

    def differences(self) -> list[Any]:
        return compare_services(self.maps, self.db.frontends.rows(), self.target.backends.kept_states())


def tamper(maps: MemoryMaps, what: int) -> None:
    """One of the entries there are is deleted, changed, or has a foreign neighbour."""
    services, backends, members = (sorted(m.items()) for m in (maps.services, maps.backends, maps.members))
    if services:
        key, value = services[what % len(services)]
        maps.services.update([(key, value._replace(backend_id=value.backend_id + what % 3))])
        if what % 2:
            maps.services.delete([services[-1 - what % len(services)][0]])
    if backends and what % 3 == 0:
        maps.backends.delete([backends[what % len(backends)][0]])
    if members and what % 5 == 0:
        maps.members.delete([members[what % len(members)][0]])
    if what % 7 == 0:
        maps.services.update([(ServiceKey("10.96.9.9", what + 1, 6, what % 2), ServiceValue(7, 7, 1))])
        maps.backends.update([(BackendKey(what + 1), BackendValue("10.9.9.9", what + 1, 6))])
        maps.members.update([(MemberKey(what, 7), MemberValue())])


put = st.tuples(st.just("put"), st.integers(1, 4), st.lists(st.integers(1, 6), max_size=5))
deed = st.one_of(
    put,
    st.tuples(st.just("delete"), st.integers(1, 4), st.just([])),
    st.tuples(st.just("tamper"), st.integers(0, 99), st.just([])),
    st.tuples(st.just("step"), st.just(0), st.just([])),
    st.tuples(st.just("begin"), st.just(0), st.just([])),
)


@settings(max_examples=examples(200))
@given(st.lists(put, max_size=4), st.lists(deed, max_size=40))
def test_rows_written_and_entries_changed_between_two_steps_end_as_the_table_says(
    first: list[tuple[str, int, list[int]]], deeds: list[tuple[str, int, list[int]]]
) -> None:
    world = World()
    for _, number, backends in first:
        world.put(number, *backends)
    world.settle()
    for what, number, backends in deeds:
        match what:
            case "put":
                world.put(number, *backends)
            case "delete":
                world.delete(number)
            case "tamper":
                tamper(world.maps, number)
            case "begin":
                world.reconciler.prune_soon()
            case _:
                world.step()
    world.settle()
    world.prune()
    world.prune()  # what a slot of others named was left alone until the slot was written again
    assert world.differences() == []
    assert world.reconciler.status().is_settled


@pytest.mark.parametrize("steps", range(1, 12))
def test_a_prune_that_is_begun_anew_forgets_nothing_that_the_one_before_found(steps: int) -> None:
    """That one had read again what others took away: by its shadow the frontend is not there, as if nobody wanted it."""
    world = World()
    world.put(1)
    world.put(2, 1, 2)
    world.settle()
    world.reconciler.prune_soon()
    world.step()
    for key, _ in list(world.maps.services.items()):
        world.maps.services.delete([key])
    for _ in range(steps):
        world.step()
    world.prune()
    world.prune()
    assert world.differences() == []


def test_a_prune_that_finds_nothing_reports_nothing_while_rows_are_written() -> None:
    world = World()
    for number in (1, 2, 3):
        world.put(number, number, number + 1)
    world.settle()
    world.reconciler.prune_soon()
    for n in range(60):
        world.put(1 + n % 3, *range(1, 2 + n % 5))
        world.step()
        world.step()
    world.settle()
    assert world.reconciler.status().repaired_total == 0
    assert world.differences() == []


def prefix(number: int, identity: int) -> Prefix:
    return Prefix(f"10.1.0.{number}/32", identity, "", NORTH, ClusterId(1), ClaimOrigin.POD)


def test_a_prefix_written_between_two_steps_is_neither_lost_nor_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.ipcache.ops.PART", 1)
    maps, rows = memory_maps(), {f"10.1.0.{n}/32": prefix(n, 100 + n) for n in range(1, 9)}
    target = IpcacheTarget(maps.ipcache)
    target.update(list(rows.values()))
    named: list[str] = []
    for n, lost in enumerate(target.prune(rows)):
        named += lost
        row = prefix(20 + n, 7) if n % 2 else prefix(1 + n % 8, 200 + n)
        rows[row.prefix] = row
        target.update([row])
    assert named == []
    assert {key.prefix: value for key, value in maps.ipcache.items()} == {p: ipcache_value(r) for p, r in rows.items()}
