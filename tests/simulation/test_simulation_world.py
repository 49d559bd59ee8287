# SPDX-License-Identifier: Apache-2.0
"""The smallest world works, and works the same each time."""

from __future__ import annotations

import asyncio

from kube.resource import SERVICES
from tests.simulation.world import Shape, World


async def share_a_service(world: World) -> None:
    await world.begin()
    for cluster in world.clusters.values():
        address = f"{cluster.service_network}.0.10"
        meta = {"name": "web", "namespace": "default", "annotations": {"service.cilium.io/global": "true"}}
        ports = [{"port": 80, "protocol": "TCP", "targetPort": 8080}]
        spec = {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ports": ports}
        cluster.kube.apply(SERVICES, {"metadata": meta, "spec": {**spec, "selector": {"app": "web"}}})
        for node in cluster.nodes:
            pod = {"metadata": {"name": f"web-{node}", "namespace": "default", "labels": {"app": "web"}}}
            cluster.controllers.run_pod(pod, node)
    await asyncio.sleep(10)


def run(shape: Shape) -> tuple[dict[str, list[str]], int, list[str]]:
    with World(7, shape) as world:
        world.run(share_a_service(world))
        world.look_after()
        maps = {n.name: sorted(v.address for _, v in n.machine.maps.backends.items()) for _, n in world.nodes()}
        return maps, world.loop.steps, world.faults + world.loop.errors


def test_every_node_of_every_cluster_has_the_pods_of_a_shared_service() -> None:
    maps, _, faults = run(Shape(3, 2))
    assert faults == []
    everybody = sorted(f"10.{cluster}.{node}.4" for cluster in (1, 2, 3) for node in (0, 1))
    assert maps == dict.fromkeys(maps, everybody)
    assert len(maps) == 6


def test_the_same_seed_takes_the_same_steps() -> None:
    assert run(Shape(2, 1)) == run(Shape(2, 1))
