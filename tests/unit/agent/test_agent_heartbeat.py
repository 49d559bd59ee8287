# SPDX-License-Identifier: Apache-2.0
"""The programs hear from an agent that runs, on the kernel's clock, and a heartbeat that cannot be written is reported."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from agent.datapath.flow_layout import HeartbeatKey, HeartbeatValue
from agent.datapath.memory import MemoryMap, memory_maps
from agent.heartbeat.feature import EVERY_S, HeartbeatFeature
from meshkit.clock import ManualClock
from meshkit.health import Health


def _feature(clock: ManualClock) -> tuple[HeartbeatFeature, Any]:
    maps = memory_maps()
    core = cast("Any", SimpleNamespace(maps=maps, clock=clock))
    return HeartbeatFeature(core), maps


async def test_an_agent_beats_at_once_and_goes_on() -> None:
    clock = ManualClock(monotonic=1000.0)
    feature, maps = _feature(clock)
    task = asyncio.ensure_future(feature.tasks()["heartbeat"])
    try:
        await asyncio.sleep(0)
        assert maps.heartbeat.get(HeartbeatKey()) == HeartbeatValue(1000 * 10**9)
        clock.advance(EVERY_S)
        await asyncio.sleep(0)
        assert maps.heartbeat.get(HeartbeatKey()) == HeartbeatValue(int((1000 + EVERY_S) * 10**9))
    finally:
        task.cancel()


def test_a_heartbeat_that_cannot_be_written_is_reported_until_it_can() -> None:
    clock = ManualClock()
    feature, maps = _feature(clock)
    heartbeat = maps.heartbeat
    assert isinstance(heartbeat, MemoryMap)
    heartbeat.fail_after(0)
    health = Health(clock)
    feature.beat()
    feature.check_health(health)
    assert health.snapshot()["heartbeat"].level == "degraded"
    feature.beat()
    feature.check_health(health)
    assert health.snapshot()["heartbeat"].level == "ok"
