# SPDX-License-Identifier: Apache-2.0
"""A peer whose store changes without end is read at a bounded rate, whatever it writes; the status says so while it lasts."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from meshmodel import keys
from meshmodel.keys import Kind
from meshpeer.caps import RECORDS, Caps
from meshpeer.pace import SHOWN_S
from meshpeer.session import SessionOptions
from meshpeer.status import remote_cluster
from tests.support import record_keys
from tests.unit.meshpeer.follower_world import World, turns
from tests.unit.meshpeer.peer_store import PeerStore

CAPS = Caps({**RECORDS, Kind.IPS: 1}, size_bytes=20_000, changes_per_s=10, changes_burst=50, bytes_per_s=1_000)
Write = Callable[[PeerStore, int], Awaitable[None]]


def warnings(world: World, name: str = "south") -> list[str]:
    return remote_cluster(world.state(name), world.clock.monotonic()).warnings


async def the_same_again(south: PeerStore, _round: int) -> None:
    """The store tells every write, also one that changes nothing."""
    for _ in range(60):
        await south.canaries(Kind.SERVICES)
        await south.service("10.2.0.9")


async def beyond_the_cap(south: PeerStore, number: int) -> None:
    await south.put(record_keys.ip_key("south", f"10.2.9.{number}"), b"x" * 4_000)


async def heartbeats(south: PeerStore, number: int) -> None:
    await south.put(keys.HEARTBEAT, bytes([number]) * 100_000)


@pytest.mark.parametrize("write", [the_same_again, beyond_the_cap, heartbeats])
async def test_writes_that_change_nothing_that_is_known_are_read_at_a_rate_too(tmp_path: Path, write: Write) -> None:
    world = World(tmp_path, SessionOptions(caps=CAPS))
    async with world.running():
        south = await world.filled()
        east = await world.filled("east", 3)
        await world.until(lambda: world.state().is_ready and world.state("east").is_ready)
        for number in range(100):
            await write(south, number)
            await turns(5)
        assert any("publishes faster than is taken" in warning for warning in warnings(world))
        await east.service("10.3.0.77")
        await world.until(lambda: b"10.3.0.77" in world.consumer("east").known[Kind.SERVICES][b"test/echo"], 1)
        assert warnings(world, "east") == []


async def test_a_slowed_peer_is_named_once_and_until_it_has_been_read_to_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path, SessionOptions(caps=Caps(changes_per_s=10, changes_burst=20)))
    async with world.running():
        south = await world.filled()
        await world.until(lambda: world.state().is_ready)
        with caplog.at_level(logging.WARNING):
            for number in range(40):
                await south.put(record_keys.ip_key("south", f"10.2.0.{number}"), b"{}")
                await turns()
            assert warnings(world) == ["publishes faster than is taken: ip, followed at 10 changes a second"]
            await world.until(lambda: len(world.consumer().known[Kind.IPS]) == 40, 10)
        assert [r.getMessage() for r in caplog.records].count("peer publishes faster than is taken") == 1
        await world.pass_s(SHOWN_S + 5)
        assert warnings(world) == []
        assert world.attempts == 1


async def test_a_first_listing_of_everything_that_may_be_published_is_not_slowed(tmp_path: Path) -> None:
    world = World(tmp_path, SessionOptions(caps=Caps(changes_per_s=1, changes_burst=400, bytes_per_s=1)))
    south = PeerStore("south", 2, world.clock)
    await south.fill()
    south.store.commit({record_keys.ip_key("south", f"10.2.0.{n}"): b"{}" for n in range(250)}, 0)
    async with world.running():
        world.add(south)
        await world.until(lambda: world.state().is_ready)
        assert warnings(world) == []
