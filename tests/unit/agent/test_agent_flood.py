# SPDX-License-Identifier: Apache-2.0
"""A flood of flows that nobody answers is named in the health report while it lasts, and nothing else is called one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.datapath.flow_layout import MetricKey, MetricValue
from agent.datapath.layout import Direction
from agent.datapath.memory import memory_maps
from agent.datapath.reasons import Reason
from agent.machine import MemoryHost
from agent.observe.feature import ObserveFeature
from agent.observe.flood import SHARE, WINDOW_S, HalfOpen
from agent.settings import AgentSettings
from agent.tables import AgentDB
from meshkit.clock import ManualClock
from meshkit.health import Health
from meshmodel.names import ClusterId, ClusterName

SIZE = 1000


def test_flows_nobody_answers_are_a_flood_when_the_table_turns_over_within_the_window() -> None:
    made = HalfOpen(SIZE)
    made.note(0.0, 5_000_000, 4_000_000)
    made.note(5.0, 5_000_000 + int(SHARE * SIZE) - 1, 4_000_000)
    assert not made.describe()
    made.note(6.0, 5_000_000 + int(SHARE * SIZE), 4_000_000)
    assert "800 flows" in made.describe()
    assert "established ones are kept" in made.describe()


def test_answered_flows_are_no_flood_however_many() -> None:
    made = HalfOpen(SIZE)
    for second in range(20):
        made.note(float(second), 100_000 * second + 10, 100_000 * second)
        assert not made.describe()


def test_a_flood_that_ended_is_forgotten_after_the_window() -> None:
    made = HalfOpen(SIZE)
    made.note(0.0, 0, 0)
    made.note(1.0, 5_000, 0)
    assert made.describe()
    made.note(WINDOW_S + 1.0, 5_000, 0)
    assert not made.describe()


def test_the_same_number_over_a_longer_time_is_no_flood() -> None:
    made = HalfOpen(SIZE)
    for second in range(100):
        made.note(float(second), 50 * second, 0)
        assert not made.describe()


@pytest.mark.parametrize("direction", list(Direction))
def test_the_health_report_names_a_flood_from_the_kernels_counters(direction: Direction) -> None:
    clock, maps = ManualClock(), memory_maps({"mesh_ct_opening": SIZE})
    db = AgentDB(ClusterName("north"), ClusterId(1), "n1", "172.18.0.2")
    health, settings = Health(clock), AgentSettings()
    parts = SimpleNamespace(clock=clock, maps=maps, db=db, host=MemoryHost(), settings=settings, health=health)
    feature = ObserveFeature(cast("Any", parts), lambda _number: None)
    feature.check_health(health)
    assert health.snapshot()["map conntrack_opening"].level == "ok"
    maps.metrics.update([(MetricKey(Reason.FLOW_OPENED, direction), MetricValue(SIZE, 0))])
    clock.advance(1.0)
    feature.check_health(health)
    assert health.snapshot()["map conntrack_opening"].level == "degraded"
    maps.metrics.update([(MetricKey(Reason.FLOW_ESTABLISHED, direction), MetricValue(SIZE, 0))])
    clock.advance(1.0)
    feature.check_health(health)
    assert health.snapshot()["map conntrack_opening"].level == "ok"
