# SPDX-License-Identifier: Apache-2.0
"""The heartbeat as a feature: written before the first packet that an agent could answer for, and then every few seconds."""

from __future__ import annotations

from typing import Final

from agent.core import Core
from agent.datapath.errors import MapError
from agent.datapath.flow_layout import HeartbeatKey, HeartbeatValue
from agent.feature import Compare, Feature, Tasks
from meshapi.agent import MapDifference
from meshkit.health import Health

EVERY_S: Final = 5.0
LATE_S: Final = 3 * EVERY_S


class HeartbeatFeature(Feature):
    """An agent whose event loop hangs stops beating, as one that is gone does."""

    name = "heartbeat"

    def __init__(self, core: Core) -> None:
        self._core, self._map = core, core.maps.heartbeat
        self._failure = ""

    def tasks(self) -> Tasks:
        return {"heartbeat": self._beat_for_ever()}

    def check_health(self, health: Health) -> None:
        if self._failure:
            health.degraded("heartbeat", f"{self._failure}; new connections will be left to the node's stack")
        else:
            health.ok("heartbeat")

    def beat(self) -> None:
        """The programs know that the maps were attended to until now."""
        now_ns = int(self._core.clock.monotonic() * 1e9)
        try:
            self._map.update([(HeartbeatKey(), HeartbeatValue(now_ns))])
        except MapError as exc:
            self._failure = str(exc)
        else:
            self._failure = ""

    def differences(self) -> Compare:
        """One difference if the heartbeat in the map is missing or older than LATE_S."""
        value = self._map.get(HeartbeatKey())
        oldest_ns = (self._core.clock.monotonic() - LATE_S) * 1e9
        if value is None or not oldest_ns <= value.beaten_ns:
            found = [MapDifference("heartbeat", "beat", f"older than {LATE_S:.0f} s")]
            return lambda: found
        return super().differences()

    def doubt(self) -> None:
        self.beat()

    async def _beat_for_ever(self) -> None:
        while True:
            self.beat()
            await self._core.clock.sleep(EVERY_S)
