# SPDX-License-Identifier: Apache-2.0
"""How soon a pod that lost its programs has them again, also on a machine where others take the CPU."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from agent.bootstrap import Facts
from agent.core import open_core
from agent.machine import MemoryHost
from agent.policy.feature import LOOK_S, LOOK_SHARE, PolicyFeature
from agent.settings import AgentSettings
from meshkit.clock import ManualClock, settle
from meshmodel.names import ClusterId, ClusterName
from meshpeer.outside import Outside
from tests.support.policy_neighbours import neighbours

FACTS = Facts(ClusterName("north"), ClusterId(1), 255, "n1", "172.18.0.2", ("10.1.0.0/24",))


class BusyHost(MemoryHost):
    """Each look takes this much of a CPU, and longer by the clock, as other programs run meanwhile."""

    def __init__(self, cpu_s: float) -> None:
        super().__init__()
        self.looks, self.used_s, self._cpu_s = 0, 0.0, cpu_s
        self.clock: ManualClock | None = None

    def unattached(self, ifindexes: Collection[int]) -> set[int]:
        self.looks += 1
        self.used_s += self._cpu_s
        if self.clock is not None:
            self.clock.advance(0.4)
        return super().unattached(ifindexes)


async def looks_in(seconds: float, *, cpu_s: float) -> int:
    """How often interfaces were looked at."""
    host, clock = BusyHost(cpu_s), ManualClock()
    core = await open_core(
        AgentSettings(local_etcd="none"), FACTS, None, host, clock, outside=Outside(cpu_s=lambda: host.used_s)
    )
    policy = PolicyFeature(core, neighbours(core.db))
    tasks = policy.tasks()
    for name, task in tasks.items():
        if name != "attachments":
            task.close()
    looking = asyncio.ensure_future(tasks["attachments"])
    await settle()
    host.clock, first = clock, host.looks
    await clock.run_for(seconds)
    looking.cancel()
    await asyncio.wait([looking])
    return host.looks - first


async def test_a_machine_that_is_busy_otherwise_is_looked_at_every_second() -> None:
    assert await looks_in(5.0, cpu_s=0.0001) >= 5


async def test_many_pods_are_looked_at_less_often() -> None:
    assert await looks_in(10 * LOOK_S, cpu_s=10 * LOOK_S / LOOK_SHARE) == 1
