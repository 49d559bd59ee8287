# SPDX-License-Identifier: Apache-2.0
"""The relay that these tests ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.relay.relay_world import RelayWorld


@pytest.fixture
async def relay_world(tmp_path: Path) -> AsyncIterator[RelayWorld]:
    world = RelayWorld(tmp_path)
    await world.start()
    tasks = [asyncio.create_task(links.run()) for links in (world.observers, world.peers)]
    yield world
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await world.stop()
