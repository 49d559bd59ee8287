# SPDX-License-Identifier: Apache-2.0
"""The checker that follows connections finds nothing in a mesh that is well, and finds what is made wrong."""

from __future__ import annotations

import asyncio

from tests.simulation.checks.connections import EstablishedConnections
from tests.simulation.test_simulation_world import share_a_service
from tests.simulation.world import Shape, World


def test_connections_outlive_every_agent_and_end_where_a_route_is_lost() -> None:
    async def story(world: World) -> None:
        await share_a_service(world)
        connections = EstablishedConnections(world)
        assert list(connections(world)) == []
        count = connections.count
        assert count >= 2
        for name in list(world.processes()):
            world.crash(name)
        assert list(connections(world)) == []
        for cluster, node in world.nodes():
            world.start_apiserver(cluster)
            world.start_agent(cluster, node)
        await asyncio.sleep(10)
        assert list(connections(world)) == []
        assert connections.count >= count
        for _, node in world.nodes():
            maps = node.machine.maps
            maps.ipcache.delete([key for key, _ in maps.ipcache.items()])
        assert any("is lost" in found for found in connections(world))

    with World(7, Shape(2, 1)) as world:
        world.run(story(world))
