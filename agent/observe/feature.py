# SPDX-License-Identifier: Apache-2.0
"""Flow records as a feature: events of the kernel become flows in a ring, and its counters tell of a flood."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.metrics_core import Metric

from agent.core import Core
from agent.datapath.flow_layout import MetricKey
from agent.datapath.layout import Direction
from agent.datapath.reasons import Reason
from agent.feature import Feature, Tasks
from agent.metric import gauge
from agent.observe.flood import HalfOpen
from agent.observe.flow import FlowMaker, Rules
from agent.observe.ring import FlowRing
from agent.observe.routes import add_flow_routes
from meshkit.health import Health
from meshkit.rest import Rest


class ObserveFeature(Feature):
    """`rule_name` tells which policy rule a map value names."""

    name = "observe"

    def __init__(self, core: Core, rule_name: Rules) -> None:
        self._core, self.flows = core, FlowRing()
        self._half_open = HalfOpen(core.maps.conntrack_opening.info().max_entries)
        self._maker = FlowMaker(core.db, core.host.wall_of, rule_name)

    def check_health(self, health: Health) -> None:
        self._half_open.note(
            self._core.clock.monotonic(), self._count(Reason.FLOW_OPENED), self._count(Reason.FLOW_ESTABLISHED)
        )
        if flood := self._half_open.describe():
            health.degraded("map conntrack_opening", flood)
        else:
            health.ok("map conntrack_opening")

    def _count(self, reason: Reason) -> int:
        values = (self._core.maps.metrics.get(MetricKey(reason, direction)) for direction in Direction)
        return sum(value.packets for value in values if value is not None)

    def tasks(self) -> Tasks:
        return {"flows": self._follow_events()}

    def add_routes(self, rest: Rest) -> None:
        add_flow_routes(rest, self.flows, self._core.db, self._core.host.lost)

    def metrics(self) -> Iterable[Metric]:
        yield gauge("flows_seen_total", "flow records since the start", self.flows.seen)

    async def _follow_events(self) -> None:
        async for batch in self._core.host.events():
            self.flows.extend(self._maker.make(event) for event in batch)
