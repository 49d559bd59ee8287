# SPDX-License-Identifier: Apache-2.0
"""What services cost this program on their way into the maps: selection, reconciliation and packing, without the system calls.

`make bench SUITE=loadbalancer` prints CPU seconds of this process as JSON, each the smallest of a few runs.
"""

from __future__ import annotations

import gc
import json
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypeVar

from agent.datapath import spec
from agent.datapath.errors import MapFullError
from agent.datapath.maps import MapInfo, MapRecord, Maps
from agent.datapath.memory import memory_maps, records_in
from agent.loadbalancer.ops import LoadBalancerTarget
from agent.loadbalancer.writer import LoadBalancerWriter
from agent.tables import Address, AgentDB, Backend, Service, ServicePort
from meshkit.clock import ManualClock
from meshkit.parts import in_parts
from meshkit.reconciler import Reconciler
from meshmodel.annotations import Affinity
from meshmodel.names import ClusterId, ClusterName, ServiceName

K = TypeVar("K", bound=MapRecord)
V = TypeVar("V", bound=MapRecord)
SERVICES, BACKENDS, BIG = 10_000, 10, 5_000
LARGE, LARGE_BACKENDS = 100_000, 5
REPEATS = 3


class PackedMap(Generic[K, V]):
    """Packs as the kernel's maps do, and keeps the bytes: what is measured is ours alone."""

    def __init__(self, map_spec: spec.MapSpec[K, V], max_entries: int = 0) -> None:
        self._spec = map_spec
        self.max_entries = max_entries or map_spec.max_entries
        self._held: dict[bytes, bytes] = {}

    def update(self, items: Sequence[tuple[K, V]]) -> None:
        """All items are in the map."""
        self._put([k.pack() for k, _ in items], [v.pack() for _, v in items])

    def update_packed(self, keys: bytes, values: bytes) -> None:
        """All records are in the map."""
        self._put(list(records_in(keys, self._spec.key_size)), list(records_in(values, self._spec.value_size)))

    def _put(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        self._held.update(zip(keys, values, strict=True))
        if len(self._held) > self.max_entries:
            for key in keys[self.max_entries - len(self._held) :]:
                del self._held[key]
            raise MapFullError(self._spec.name, "update", 7, 0)

    def delete(self, keys: Sequence[K]) -> None:
        """None of the keys is in the map."""
        for key in keys:
            self._held.pop(key.pack(), None)

    def get(self, key: K) -> V | None:
        """The value of this key."""
        raw = self._held.get(key.pack())
        return None if raw is None else self._spec.value.unpack(raw)

    def items(self) -> Iterator[tuple[K, V]]:
        """All entries."""
        for key, value in list(self._held.items()):
            yield self._spec.key.unpack(key), self._spec.value.unpack(value)

    def info(self) -> MapInfo:
        """Name and sizes."""
        return MapInfo(self._spec.name, self.max_entries, len(self._held), self._spec.key_size, self._spec.value_size)


@dataclass(slots=True)
class Node:
    """The load balancer of one agent."""

    db: AgentDB
    writer: LoadBalancerWriter
    target: LoadBalancerTarget
    reconciler: Reconciler[Any, Any]

    def settle(self) -> int:
        """Rounds until nothing is due now."""
        rounds = 1
        while self.reconciler.run_once(0.0).wake_at == 0.0:
            rounds += 1
        return rounds


def make_node(services_limit: int = 0, backends_limit: int = 0) -> Node:
    maps: Maps = replace(
        memory_maps(),
        services=PackedMap(spec.SERVICES, services_limit),
        backends=PackedMap(spec.BACKENDS, backends_limit),
        members=PackedMap(spec.MEMBERS, backends_limit),
    )
    db = AgentDB(ClusterName("north"), ClusterId(1), "n1", "172.18.0.2")
    clock = ManualClock()
    target = LoadBalancerTarget(maps, clock.wall)
    target.restore()
    return Node(
        db, LoadBalancerWriter(db), target, Reconciler(db.frontends, target, clock=clock, prune_interval_s=None)
    )


class Given(NamedTuple):
    """A service, and what its own cluster and a peer give it."""

    service: Service
    here: Sequence[Backend]
    there: Sequence[Backend]


def rows(services: int, backends: int) -> list[Given]:
    """Each service has half of its backends here, half in a peer. What readers of objects and records make is not measured."""
    half = backends // 2
    return [Given(service_of(n), backends_of(n, half, 1), backends_of(n, backends - half, 2)) for n in range(services)]


def fill(node: Node, given: Sequence[Given]) -> None:
    """All of it is in the tables."""
    peer = ClusterName("south")
    for part in in_parts(given, 1000):
        with node.db.write():
            for service, here, there in part:
                node.writer.set_service(service)
                node.writer.set_backends(service.name, node.db.own, node.db.own_id, here, 1.0)
                node.writer.set_backends(service.name, peer, ClusterId(2), there, 1.0)


def service_of(number: int) -> Service:
    name = ServiceName(f"namespace-{number % 50}", f"service-{number}")
    address = Address(f"10.{96 + (number >> 16)}.{number >> 8 & 255}.{number & 255}")
    return Service(name, (address,), (ServicePort("http", 80, "TCP"),), is_global=True, affinity=Affinity.NONE)


def backends_of(service: int, count: int, cluster: int) -> list[Backend]:
    numbers = range(service * count, service * count + count)
    return [
        Backend(f"{10 + cluster}.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}", 8080, "TCP", ("http",)) for n in numbers
    ]


def cpu(step: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    gc.collect()
    start = time.process_time()
    step()
    return time.process_time() - start


def bulk() -> dict[str, float]:
    """Everything anew, and one more backend for every service."""
    node, given = make_node(), rows(SERVICES, BACKENDS)
    select = cpu(lambda: fill(node, given))
    write = cpu(node.settle)
    return {"select_s": round(select, 3), "write_s": round(write, 3), "both_s": round(select + write, 3)}


def change() -> dict[str, float]:
    """One of 5,000 backends of one service comes and goes."""
    node = make_node()
    fill(node, rows(1, BIG))
    node.settle()
    name = ServiceName("namespace-0", "service-0")
    full = backends_of(0, BIG // 2, 1)

    def flip() -> None:
        for backends in (full[:-1], full):
            with node.db.write():
                node.writer.set_backends(name, node.db.own, node.db.own_id, backends, 1.0)
            node.settle()

    return {"change_ms": round(cpu(flip) * 500, 3)}


def full_map() -> dict[str, float]:
    """Half of the services do not fit: the cost of the first attempt, and of one attempt again a minute later."""
    node = make_node(services_limit=SERVICES // 2 * (BACKENDS + 1))
    fill(node, rows(SERVICES, BACKENDS))
    first = cpu(node.settle)
    again = cpu(lambda: [node.reconciler.run_once(60.0 + n) for n in range(20)])
    return {"full_first_s": round(first, 3), "full_again_s": round(again, 3)}


def large() -> dict[str, float]:
    """100,000 services of 5 backends: everything anew, one edit, and one prune with its longest step."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    node = make_node(LARGE * (LARGE_BACKENDS + 2), LARGE * (LARGE_BACKENDS + 1))
    given = rows(LARGE, LARGE_BACKENDS)
    load = cpu(lambda: (fill(node, given), node.settle()))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    gc.freeze()

    def edit() -> None:
        with node.db.write():
            name = ServiceName("namespace-7", "service-7")
            node.writer.set_backends(name, node.db.own, node.db.own_id, backends_of(7, 1, 1), 2.0)
        node.settle()

    edited = cpu(edit)
    node.target.doubt()
    node.reconciler.prune_soon()
    steps: list[float] = []
    while True:
        start = time.process_time()
        is_over = node.reconciler.run_once(0.0).wake_at != 0.0
        steps.append(time.process_time() - start)
        if is_over:
            break
    gc.unfreeze()
    return {
        "large_load_s": round(load, 2),
        "large_memory_mib": memory // 1024,
        "large_edit_ms": round(edited * 1000, 2),
        "large_prune_s": round(sum(steps), 2),
        "large_prune_longest_step_ms": round(max(steps) * 1000, 1),
    }


def run() -> dict[str, Any]:
    """The smallest of a few runs of each part."""
    figures: dict[str, Any] = {"services": SERVICES, "backends_each": BACKENDS} | large()
    for part in (bulk, change, full_map):
        found = [part() for _ in range(REPEATS)]
        figures |= {name: min(one[name] for one in found) for name in found[0]}
    return figures


def main() -> None:
    print(json.dumps(run(), indent=2))


if __name__ == "__main__":
    main()
