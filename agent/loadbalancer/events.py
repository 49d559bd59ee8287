# SPDX-License-Identifier: Apache-2.0
"""Problems of services, told to their owners: one Event per service and set of problems, where `kubectl describe` shows it.

What two tables say can contradict each other until both are settled: a problem is told once it has stood for a round.
"""

from __future__ import annotations

import logging

from agent.tables import AgentDB, ServiceProblems
from kube.client import KubeClient, in_thread
from kube.errors import KubeError
from kube.events import emit_event
from meshapi.installed import AGENT
from meshkit.clock import Clock
from meshkit.table import HistoryLostError
from meshmodel.names import ServiceName

log = logging.getLogger(__name__)
REASON = "ServiceNotFullyHonoured"
GATHER_S = 1.0
MAX_EVENTS_A_ROUND = 100


class ServiceEvents:
    """What was said is not said again while it stays the same; what does not fit into a round waits for the next."""

    def __init__(self, db: AgentDB, client: KubeClient, clock: Clock) -> None:
        self._db, self._client, self._clock = db, client, clock
        self._seen = 0
        self._due: dict[ServiceName, None] = {}
        self._said: dict[ServiceName, ServiceProblems] = {}

    async def run(self) -> None:
        """Until cancelled. An Event that cannot be sent is logged; the problem stays in the status."""
        table = self._db.service_problems
        while True:
            rung = table.changed.count
            for row in self.take():
                try:
                    await in_thread(self._send, row)
                except KubeError as exc:
                    facts = {"service": str(row.service), "error": str(exc)}
                    log.warning("service problem could not be reported", extra=facts)
            await self._clock.sleep(GATHER_S)
            if not self._due:
                await table.changed.wait(rung)

    def take(self) -> list[ServiceProblems]:
        """The rows to tell now: those that changed, and are the same since the last call."""
        table = self._db.service_problems
        try:
            changed = dict.fromkeys(change.key for change in table.changes_since(self._seen))
        except HistoryLostError:
            changed = dict.fromkeys((*self._due, *table.keys()))
        self._seen = table.revision
        settled = [name for name in self._due if name not in changed][:MAX_EVENTS_A_ROUND]
        self._due |= changed
        rows: list[ServiceProblems] = []
        for name in settled:
            del self._due[name]
            row = table.get(name)
            if row is None:
                self._said.pop(name, None)
            elif self._said.get(name) != row:
                self._said[name] = row
                rows.append(row)
        return rows

    def _send(self, row: ServiceProblems) -> None:
        """Blocks."""
        meta = {"name": row.service.name, "namespace": row.service.namespace, "uid": row.uid}
        involved = {"apiVersion": "v1", "kind": "Service", "metadata": meta}
        emit_event(self._client, involved, REASON, "; ".join(row.problems), wall_s=self._clock.wall(), component=AGENT)
