# SPDX-License-Identifier: Apache-2.0
"""Flow records as a feature: events of the kernel become flows in a ring."""

from __future__ import annotations

from agent.core import Core
from agent.feature import Feature, Tasks
from agent.observe.flow import FlowMaker, Rules
from agent.observe.ring import FlowRing


class ObserveFeature(Feature):
    """`rule_name` tells which policy rule a map value names."""

    name = "observe"

    def __init__(self, core: Core, rule_name: Rules) -> None:
        self._core, self.flows = core, FlowRing()
        self._maker = FlowMaker(core.db, core.host.wall_of, rule_name)

    def tasks(self) -> Tasks:
        return {"flows": self._follow_events()}

    async def _follow_events(self) -> None:
        async for batch in self._core.host.events():
            self.flows.extend(self._maker.make(event) for event in batch)
