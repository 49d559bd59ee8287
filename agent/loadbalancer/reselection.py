# SPDX-License-Identifier: Apache-2.0
"""Looks at services again whose choice depends on how much time has passed: slow start, and tiers that are held back."""

from __future__ import annotations

from typing import Final

from agent.loadbalancer.writer import LoadBalancerWriter
from agent.tables import AgentDB
from meshkit.clock import Clock
from meshkit.wake import wait_for_ring

LEAST_S: Final = 0.5
"""Between two looks: what is due within it is written together."""


async def reselect(db: AgentDB, writer: LoadBalancerWriter, clock: Clock) -> None:
    """Until cancelled. Sleeps while no service is due."""
    while True:
        rung = writer.due_changed.count
        due_s = writer.chooser.memory.next_due_s()
        delay_s = None if due_s is None else max(0.0, due_s - clock.monotonic())
        if await wait_for_ring(writer.due_changed, rung, delay_s, clock):
            continue
        with db.write():
            writer.reselect_due()
        await clock.sleep(LEAST_S)
