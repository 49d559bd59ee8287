# SPDX-License-Identifier: Apache-2.0
"""A service of very many slices: what it costs is bounded, nobody waits for it, and its backends are complete in the end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agent.loadbalancer.convert import strip_slice
from agent.loadbalancer.source import LARGE, KubernetesSource
from agent.loadbalancer.writer import LoadBalancerWriter
from agent.tables import AgentDB
from kube.reflector import Delete, Synced, Upsert
from meshkit.clock import ManualClock
from meshmodel.names import ClusterId, ClusterName, ServiceName

NORTH = ClusterName("north")
BIG, SMALL = ServiceName("t", "big"), ServiceName("t", "small")
PER_SLICE = 100
SLICES = 2 * LARGE // PER_SLICE


def slice_of(service: ServiceName, number: int, count: int = PER_SLICE) -> Any:
    endpoints = [{"addresses": [f"10.1.{number}.{n}"], "conditions": {"ready": True}} for n in range(1, count + 1)]
    return strip_slice(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": service.namespace,
                "name": f"{service.name}-{number}",
                "labels": {"kubernetes.io/service-name": service.name},
            },
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
        }
    )


class World:
    def __init__(self) -> None:
        self.db = AgentDB(NORTH, ClusterId(1))
        self.source = KubernetesSource(self.db, LoadBalancerWriter(self.db), ManualClock())

    def put(self, service: ServiceName, number: int, count: int = PER_SLICE) -> None:
        change = Upsert(f"{service}-{number}", slice_of(service, number, count))
        self.source.take_slices([change], lambda: None, defers_large=True)

    def drop(self, service: ServiceName, number: int) -> None:
        self.source.take_slices([Delete(f"{service}-{number}", None)], lambda: None, defers_large=True)

    def count(self, service: ServiceName) -> int:
        row = self.db.backends.get((service, NORTH))
        return 0 if row is None else len(row.backends)


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def world() -> World:
    return World()


async def test_many_slices_in_a_row_are_put_together_once_and_others_do_not_wait(world: World) -> None:
    settling = asyncio.create_task(world.source.settle_large())
    try:
        for number in range(SLICES):
            world.put(BIG, number)
        assert world.count(BIG) == LARGE, "small while it is small"
        world.put(SMALL, 200, 2)
        assert world.count(SMALL) == 2
        before = world.db.backends.revision
        await turns()
        assert world.count(BIG) == SLICES * PER_SLICE
        assert world.db.backends.revision == before + 1
        for number in range(SLICES - 1):
            world.drop(BIG, number)
        world.put(SMALL, 200, 3)
        assert world.count(SMALL) == 3
        await turns()
        assert world.count(BIG) == PER_SLICE
        world.drop(BIG, SLICES - 1)
        await turns()
        assert world.count(BIG) == 0
    finally:
        settling.cancel()


async def test_the_first_listing_is_complete_when_it_says_so(world: World) -> None:
    for number in range(SLICES):
        world.put(BIG, number)
    seen: list[int] = []
    world.source.take_slices([Synced()], lambda: seen.append(world.count(BIG)), defers_large=True)
    assert seen == [SLICES * PER_SLICE]
