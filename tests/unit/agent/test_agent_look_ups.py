# SPDX-License-Identifier: Apache-2.0
"""When the feature of endpoints looks for pods again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from agent.bootstrap import Facts
from agent.core import open_core
from agent.datapath.pod_interfaces import LinkSighting
from agent.endpoints.discovery import RETRY_MINIMUM_S
from agent.endpoints.feature import EndpointsFeature
from agent.machine import MemoryHost
from agent.settings import AgentSettings
from agent.tables import ClaimOrigin, Prefix
from meshkit.clock import ManualClock, settle
from meshmodel.names import ClusterId, ClusterName

NORTH, NORTH_ID = ClusterName("north"), ClusterId(1)
NODE_IP, POD, IDENTITY = "172.18.0.2", "10.1.0.5", 65_537
FACTS = Facts(NORTH, NORTH_ID, 255, "n1", NODE_IP, ("10.1.0.0/24",))


async def test_a_look_up_that_failed_is_made_again_when_its_delay_is_over_and_not_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Host(MemoryHost):
        looked = 0

        def sight(self, asked: Sequence[tuple[str, int]]) -> Sequence[LinkSighting]:
            self.looked += len(asked)
            return [LinkSighting(error="netlink: no buffer") for _ in asked]

    host = Host()
    clock = ManualClock(monotonic=1_000.0)
    core = await open_core(AgentSettings(local_etcd="none"), FACTS, None, host, clock)
    db = core.db
    feature, rounds = EndpointsFeature(core), list[float]()
    begin = feature.discovery.begin
    monkeypatch.setattr(feature.discovery, "begin", lambda now_s: rounds.append(now_s) or begin(now_s))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(task) for task in feature.tasks().values()]
        await settle()
        with db.write():
            db.prefixes.put(Prefix(f"{POD}/32", IDENTITY, "", NORTH, NORTH_ID, ClaimOrigin.POD, NODE_IP, "d", "p"))
        await settle()
        before = len(rounds)
        for failed in (1, 2, 3):
            assert host.looked == failed
            delay_s = RETRY_MINIMUM_S * 2 ** (failed - 1)
            clock.advance(delay_s * 0.9)
            await settle()
            assert host.looked == failed
            clock.advance(delay_s * 0.2)
            await settle()
        assert host.looked == 4
        assert len(rounds) == before + 3, "it slept in between"
        for task in tasks:
            task.cancel()
