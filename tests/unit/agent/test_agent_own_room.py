# SPDX-License-Identifier: Apache-2.0
"""Many small EndpointSlices of one namespace leave the services of others their backends, whoever comes first (ADR 57)."""

from __future__ import annotations

import asyncio
import random
import tracemalloc
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.datapath.memory import memory_maps
from agent.loadbalancer.convert import strip_service, strip_slice
from agent.loadbalancer.families import FamiliesTarget
from agent.loadbalancer.own_room import OwnRoom
from agent.loadbalancer.source import KubernetesSource
from agent.loadbalancer.writer import LoadBalancerWriter
from agent.tables import AgentDB, Frontend, FrontendKey
from kube.reflector import Delete, Synced, Upsert
from meshkit.clock import ManualClock
from meshkit.reconciler import Reconciler
from meshmodel.names import ClusterId, ClusterName, ServiceName

NORTH = ClusterName("north")
ENTRIES = 400
ROOM = ENTRIES * 3 // 4
MOST = 50


def slice_of(namespace: str, service: str, addresses: list[str], ports: int, number: int = 1) -> Any:
    return strip_slice(
        {
            "metadata": {
                "namespace": namespace,
                "name": f"{service}-{number}",
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": "IPv4",
            "ports": [{"name": f"p{n}", "port": n, "protocol": "TCP"} for n in range(1, ports + 1)],
            "endpoints": [{"addresses": addresses, "conditions": {"ready": True}}],
        }
    )


class World:
    def __init__(self) -> None:
        maps = memory_maps(dict.fromkeys(("mesh_services", "mesh_backends", "mesh_members"), ENTRIES))
        self.db, clock = AgentDB(NORTH, ClusterId(1)), ManualClock()
        self.writer = LoadBalancerWriter(self.db, max_backends=MOST)
        self.target = FamiliesTarget(maps, clock.wall)
        self.reconciler: Reconciler[FrontendKey, Frontend] = Reconciler(
            self.db.frontends, self.target, clock=clock, prune_interval_s=None
        )
        self.maps = maps
        room = OwnRoom(self.writer.wanted, *self.target.capacities)
        self.source = KubernetesSource(self.db, self.writer, clock, room)

    def put(self, namespace: str, number: int, backends: int, *, defers: bool = False) -> None:
        """Service `number` of the namespace has an address, a port and so many backends."""
        name, place = f"s{number}", ord(namespace[0])
        ports = [{"name": "p1", "port": 1, "protocol": "TCP"}]
        service = {
            "metadata": {"namespace": namespace, "name": name},
            "spec": {"clusterIP": f"10.96.{place}.{number}", "clusterIPs": [f"10.96.{place}.{number}"], "ports": ports},
        }
        self.source.take_services([Upsert(f"{namespace}/{name}", strip_service(service))], lambda: None)
        piece = slice_of(namespace, name, [f"10.{place}.{number}.{n}" for n in range(1, backends + 1)], 1)
        self.source.take_slices([Upsert(f"{namespace}/{name}-1", piece)], lambda: None, defers_large=defers)

    def drop(self, namespace: str, number: int) -> None:
        self.source.take_services([Delete(f"{namespace}/s{number}", None)], lambda: None)
        self.source.take_slices([Delete(f"{namespace}/s{number}-1", None)], lambda: None)

    def settle(self) -> None:
        while self.reconciler.run_once(0.0).wake_at == 0.0:
            pass

    def count(self, namespace: str, number: int) -> int:
        row = self.db.backends.get((ServiceName(namespace, f"s{number}"), NORTH))
        return 0 if row is None else len(row.backends)

    def in_force(self, namespace: str, number: int) -> int:
        """Slots in the service map."""
        address = f"10.96.{ord(namespace[0])}.{number}"
        return sum(value.count for key, value in self.maps.services.items() if key.address == address and not key.slot)


def test_a_tenants_many_slices_leave_others_all_of_theirs_and_it_is_told() -> None:
    world = World()
    for number in range(10):
        world.put("greedy", number, MOST)
    world.settle()
    for number in range(1, 4):
        world.put("shop", number, number)
        world.settle()
    assert [world.in_force("shop", number) for number in range(1, 4)] == [1, 2, 3]
    kept = [world.count("greedy", number) for number in range(10)]
    assert kept == [28] * 10, "an entry for each address and one for each backend: (300 - 9) / 10 - 1"
    assert [world.in_force("greedy", number) for number in range(10)] == kept
    for number in range(6, 10):
        world.drop("greedy", number)
    world.settle()
    assert [world.in_force("greedy", number) for number in range(6)] == [47] * 6
    told = {row.service: row.problems for row in world.db.service_problems.rows()}
    assert set(told) == {ServiceName("greedy", f"s{number}") for number in range(6)}
    assert told[ServiceName("greedy", "s1")] == (
        (
            "namespace greedy has more backends than there is room for beside those of others (service-entries): "
            "of this service 10.103.1.7:1/TCP, 10.103.1.8:1/TCP, 10.103.1.9:1/TCP and what follows is left out"
        ),
    )
    assert world.source.slice_problems() == [
        (
            "namespace greedy: its services want 306 entries of the service map, and each has 48 at most: 300 are for all "
            "namespaces (service-entries)"
        )
    ]
    world.drop("greedy", 5)
    world.settle()
    assert [world.in_force("greedy", number) for number in range(5)] == [MOST] * 5
    assert not world.db.service_problems.rows()
    assert world.source.slice_problems() == []


async def test_services_that_give_room_are_put_together_one_by_one_and_nobody_waits_for_them() -> None:
    world = World()
    settling = asyncio.create_task(world.source.settle_large())
    try:
        for number in range(5):
            world.put("greedy", number, MOST)
        world.put("shop", 1, 40, defers=True)
        assert world.count("shop", 1) == 40
        assert [world.count("greedy", number) for number in range(5)] == [MOST] * 5
        for _ in range(20):
            await asyncio.sleep(0)
        assert [world.count("greedy", number) for number in range(5)] == [MOST] * 5, "255 and 41 are less than 300"
        world.put("shop", 2, 40, defers=True)
        assert world.count("shop", 2) == 40
        for _ in range(20):
            await asyncio.sleep(0)
        assert [world.count("greedy", number) for number in range(5)] == [(300 - 82) // 5 - 1] * 5
    finally:
        settling.cancel()


@given(
    st.dictionaries(st.tuples(st.sampled_from("abc"), st.integers(1, 9)), st.integers(1, 2 * MOST), min_size=1),
    st.randoms(use_true_random=False),
)
def test_who_has_which_backends_follows_from_all_slices_and_not_from_their_order(
    wanted: dict[tuple[str, int], int], rng: random.Random
) -> None:
    services = list(wanted.items())
    worlds = World(), World()
    for world in worlds:
        for (namespace, number), size in services:
            world.put(namespace, number, size)
        world.source.take_slices([Synced()], lambda: None)
        rng.shuffle(services)
    one, other = ({key: world.count(*key) for key in wanted} for world in worlds)
    assert one == other
    assert sum(1 + count for count in one.values()) <= ROOM
    for name in {namespace for namespace, _ in wanted}:
        of_it = {key: min(size, MOST) for key, size in wanted.items() if key[0] == name}
        if sum(1 + count for count in of_it.values()) <= ROOM // len({namespace for namespace, _ in wanted}):
            assert {key: one[key] for key in of_it} == of_it


def test_slices_take_as_much_memory_as_their_objects_are_long() -> None:
    """Three hundred slices of four kilobytes, each of which means ten thousand backends: 400 MB, if all were made."""
    db = AgentDB(NORTH, ClusterId(1))
    source = KubernetesSource(db, LoadBalancerWriter(db), ManualClock())
    addresses = [f"10.1.0.{n}" for n in range(1, 101)]
    tracemalloc.start()
    for number in range(300):
        piece = slice_of("g", "s", addresses, 100, number)
        source.take_slices([Upsert(f"g/s-{number}", piece)], lambda: None, defers_large=True)
    source.take_slices([Synced()], lambda: None)
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()
    row = db.backends.get((ServiceName("g", "s"), NORTH))
    assert row is not None
    assert len(row.backends) == 10_000
