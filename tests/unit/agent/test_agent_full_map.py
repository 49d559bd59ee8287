# SPDX-License-Identifier: Apache-2.0
"""A full map: what is in force stays, what does not fit is refused before anything is written, named, and fits in later."""

from __future__ import annotations

import pytest

from agent.datapath.memory import MemoryMaps, memory_maps
from agent.loadbalancer.ops import LoadBalancerTarget
from agent.loadbalancer.rows import ServiceRows
from agent.loadbalancer.writer import LoadBalancerWriter
from agent.tables import Address, AgentDB, Backend, Frontend, FrontendKey, Service, ServicePort
from meshkit.clock import ManualClock
from meshkit.reconciler import Reconciler
from meshmodel.names import ClusterId, ClusterName, ServiceName

NORTH = ClusterName("north")
MAPS = ("services", "backends", "members")


class World:
    def __init__(self, **sizes: int) -> None:
        self.maps: MemoryMaps = memory_maps({f"mesh_{name}": size for name, size in sizes.items()})
        self.db, self.clock = AgentDB(NORTH, ClusterId(1)), ManualClock()
        self.writer = LoadBalancerWriter(self.db)
        self.target = LoadBalancerTarget(self.maps, self.clock.wall)
        self.target.restore()
        self.reconciler: Reconciler[FrontendKey, Frontend] = Reconciler(
            self.db.frontends, self.target, clock=self.clock, prune_interval_s=None
        )
        self.rows = ServiceRows(self.db, self.writer, self.target, self.clock, self.reconciler.failure_of)

    def put(self, number: int, backends: int) -> None:
        """Service `number` has so many backends of its own."""
        name = ServiceName("test", f"s{number}")
        found = [Backend(f"10.{n}.{number >> 8}.{number & 255}", 80, "TCP") for n in range(1, backends + 1)]
        with self.db.write():
            address = Address(f"10.96.{number >> 8}.{number & 255}")
            self.writer.set_service(Service(name, (address,), (ServicePort("", 80, "TCP"),)))
            self.writer.set_backends(name, NORTH, ClusterId(1), found, 0.0)

    def delete(self, number: int) -> None:
        name = ServiceName("test", f"s{number}")
        with self.db.write():
            self.writer.delete_service(name)
            self.writer.set_backends(name, NORTH, ClusterId(1), (), 0.0)

    def settle(self) -> None:
        """Everything that is due now, and nothing later."""
        now = self.clock.monotonic()
        while self.reconciler.run_once(now).wake_at == now:
            pass

    def counts(self) -> dict[str, int]:
        """Backends in force by service address."""
        return {k.address: v.count for k, v in self.maps.services.items() if k.slot == 0}

    def writes(self) -> int:
        return sum(getattr(self.maps, name).writes for name in MAPS)

    def problems(self, number: int) -> str:
        row = self.db.services.get(ServiceName("test", f"s{number}"))
        assert row is not None
        return "; ".join(self.rows.problems(row))


@pytest.mark.parametrize(("name", "size"), [("services", 9), ("backends", 6), ("members", 6)])
def test_what_is_in_force_stays_and_the_rest_is_named_and_fits_in_when_there_is_room(name: str, size: int) -> None:
    world = World(**{name: size})
    for number in range(5):
        world.put(number, 2)
    world.settle()
    assert world.counts() == {f"10.96.0.{n}": 2 for n in range(3)}
    for number in (3, 4):
        assert f"FAILED 10.96.0.{number}:80/TCP" in world.problems(number)
        assert f"mesh_{name}" in world.problems(number)
        assert "full" in world.problems(number)
    assert not world.problems(0)
    world.put(0, 3)  # one in force that grows is refused too, and stays as it is
    world.settle()
    assert world.counts()["10.96.0.0"] == 2
    assert "FAILED" in world.problems(0)
    world.delete(1)
    world.delete(2)
    world.settle()
    assert world.counts() == {"10.96.0.0": 2, "10.96.0.3": 2, "10.96.0.4": 2}, "who waited longest goes first"
    world.delete(3)
    world.settle()
    assert world.counts() == {"10.96.0.0": 3, "10.96.0.4": 2}
    assert not world.problems(0)
    assert world.reconciler.status().is_settled
    world.maps.check()


def test_rows_without_room_cost_no_write_and_one_attempt_per_interval() -> None:
    world = World(services=300)
    for number in range(500):
        world.put(number, 2)
    world.settle()
    assert len(world.counts()) == 100
    before = world.writes()
    attempts = []
    update = world.target.update
    world.target.update = lambda rows: (attempts.append(len(rows)), update(rows))[1]  # type: ignore[method-assign]
    for _ in range(10):
        world.clock.advance(60.0)
        world.settle()
    assert world.writes() == before
    assert attempts == [1] * 10
    status = world.reconciler.status()
    assert (status.failed, status.waiting_for_room) == (400, 400)


def test_a_smaller_service_finds_the_room_that_a_larger_one_does_not() -> None:
    world = World(services=10)
    world.put(0, 5)
    world.put(1, 6)
    world.put(2, 2)
    world.settle()
    assert world.counts() == {"10.96.0.0": 5, "10.96.0.2": 2}


@pytest.mark.parametrize("name", MAPS)
def test_a_refusal_is_believed_for_one_round_and_no_longer(name: str) -> None:
    world = World(services=100, backends=100, members=100)
    world.put(0, 2)
    world.settle()
    entries = getattr(world.maps, name)
    entries.set_room(entries.info().count)  # what others have in the map, for now
    world.put(1, 2)
    world.settle()
    assert f"mesh_{name}" in world.problems(1)
    entries.set_room(100)
    world.clock.advance(60.0)
    world.settle()
    assert world.counts() == {"10.96.0.0": 2, "10.96.0.1": 2}, "without a comparison of the maps"
    assert not world.problems(1)
    world.maps.check()
