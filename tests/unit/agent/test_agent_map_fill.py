# SPDX-License-Identifier: Apache-2.0
"""How full each kernel map is, as metrics and as rows."""

from __future__ import annotations

from agent.bootstrap import Facts
from agent.core import open_core
from agent.datapath.nat_layout import NatKey, NatValue
from agent.exposition import collect_metrics
from agent.machine import MemoryHost
from agent.reports import MAP_NAMES, map_status_rows
from agent.settings import AgentSettings
from meshkit.clock import ManualClock
from meshmodel.names import ClusterId, ClusterName

ENTRY = (
    NatKey("198.51.100.1", "192.0.2.1", 40_000, 80, 6),
    NatValue(1, 60, "192.168.50.11", "10.2.0.1", 61_000, 80, 7, 2),
)


async def test_every_map_says_how_full_it_is() -> None:
    facts = Facts(ClusterName("north"), ClusterId(1), 255, "n1", "192.168.50.11")
    core = await open_core(AgentSettings(local_etcd="none"), facts, None, MemoryHost(), ManualClock())
    core.maps.nat.update([ENTRY])
    found = {
        (sample.name, sample.labels.get("map")): sample.value
        for metric in collect_metrics(core, (), {})
        for sample in metric.samples
    }
    for row in map_status_rows(core, {}):
        assert found["clustermesh_agent_map_entries", row.name] == row.entries == (row.name == "nat")
        assert found["clustermesh_agent_map_max_entries", row.name] == row.maximum
    assert {name for kind, name in found if kind.endswith("map_entries")} == set(MAP_NAMES)
