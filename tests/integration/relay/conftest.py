# SPDX-License-Identifier: Apache-2.0
"""The relay that these tests ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from flows.proto import relay_pb2 as relay
from tests.integration.kvstore.private_etcd import eventually
from tests.integration.relay.relay_world import RelayWorld


@asynccontextmanager
async def running(world: RelayWorld) -> AsyncIterator[RelayWorld]:
    await world.start()
    tasks = [asyncio.create_task(links.run()) for links in (world.observers, world.peers)]
    yield world
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await world.stop()


@pytest.fixture
async def relay_world(tmp_path: Path) -> AsyncIterator[RelayWorld]:
    async with running(RelayWorld(tmp_path)) as world:
        yield world


@pytest.fixture
async def two_clusters(tmp_path: Path) -> AsyncIterator[tuple[RelayWorld, RelayWorld]]:
    """North, and south, which has opened its door to north. Each knows that its node answers."""
    north, south = RelayWorld(tmp_path / "north", nodes=1), RelayWorld(tmp_path / "south", "south", nodes=1)
    async with running(north), running(south):
        await south.open_door(north)
        links = [*north.observers.rows(), *south.observers.rows()]
        await eventually(lambda: {link.state for link in links} == {relay.NODE_CONNECTED}, "their nodes were asked")
        yield north, south
