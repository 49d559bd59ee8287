# SPDX-License-Identifier: Apache-2.0
"""LinkChanges of the node's devices: one look for many changes, none without, and another try after a failure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from agent.datapath.errors import KernelError
from agent.datapath.rtnetlink import LinkChanges
from agent.nodes.devices import GATHER_S, RETRY_S, DeviceFollower
from meshkit.clock import ManualClock, settle


class Machine:
    def __init__(self) -> None:
        self.queue: asyncio.Queue[LinkChanges] = asyncio.Queue()
        self.mtu, self.loaded_for = 1500, 1500
        self.looks = 0
        self.address = self.loaded_address = "192.0.2.1"
        self.is_broken = False

    async def changes(self) -> AsyncIterator[LinkChanges]:
        while True:
            yield await self.queue.get()

    def is_current(self) -> bool:
        self.looks += 1
        return (self.mtu, self.address) == (self.loaded_for, self.loaded_address)

    def move_to(self, address: str) -> None:
        self.address = address

    def adapt(self) -> None:
        if self.is_broken:
            raise KernelError("find the underlay device", 19, "under0")
        self.loaded_for, self.loaded_address = self.mtu, self.address


@pytest.fixture
async def machine() -> Machine:
    return Machine()


async def test_the_datapath_follows_a_change_and_looks_once_for_many(machine: Machine) -> None:
    clock = ManualClock()
    follower = DeviceFollower(machine, clock)
    tasks = [asyncio.ensure_future(follower.hear()), asyncio.ensure_future(follower.follow())]
    await settle()
    await clock.run_for(3_600.0)
    assert machine.looks == 1
    machine.mtu = 1400
    for _ in range(50):
        machine.queue.put_nowait(LinkChanges(links=frozenset({3})))
    await settle()
    assert (machine.loaded_for, machine.looks) == (1400, 2), "at once after a quiet time"
    for _ in range(50):
        machine.queue.put_nowait(LinkChanges(links=frozenset({3})))
    await settle()
    assert machine.looks == 2
    await clock.run_for(GATHER_S)
    assert machine.looks == 3
    await clock.run_for(GATHER_S)
    assert machine.looks == 3
    machine.mtu, machine.is_broken = 9000, True
    machine.queue.put_nowait(LinkChanges(links=frozenset({3})))
    await settle()
    await clock.run_for(GATHER_S)
    assert (machine.loaded_for, "under0" in follower.failure) == (1400, True)
    machine.is_broken = False
    await clock.run_for(RETRY_S + GATHER_S)
    assert (machine.loaded_for, follower.failure) == (9000, "")
    follower.move_to("192.0.2.2")
    await clock.run_for(GATHER_S)
    assert machine.loaded_address == "192.0.2.2"
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
