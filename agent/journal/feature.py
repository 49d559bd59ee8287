# SPDX-License-Identifier: Apache-2.0
"""The events of this node as a feature: everything is looked at once a second, and what changed is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from agent.core import Core
from agent.feature import Feature, Tasks
from agent.tables import PolicyRow
from meshapi.agent import NOT_ENFORCED
from meshapi.event import MeshLook
from meshapi.installed import AGENT
from meshapi.peer import RemoteCluster
from meshkit.health import Component, HealthLevel
from meshkit.rest import Rest
from meshkit.version import program_version
from meshpeer.events import EventLog, add_event_routes

_TOLD_OTHERWISE: Final = ("peer ", "nodes of peers")
"""Parts of the health report that sessions and nodes tell of in more detail."""


class JournalFeature(Feature):
    """`peers` are the sessions of this node."""

    name = "journal"

    def __init__(self, core: Core, peers: Callable[[], Sequence[RemoteCluster]]) -> None:
        self._core, self._peers = core, peers
        self._policies: tuple[int, Mapping[str, str]] = (-1, {})
        self._health: tuple[Mapping[str, Component], Mapping[str, tuple[HealthLevel, str]]] = ({}, {})
        facts = core.facts
        self.log = EventLog(self._look, core.clock, cluster=facts.cluster, program=AGENT, node=facts.node)

    def tasks(self) -> Tasks:
        return {"events": self.log.run(program_version())}

    def add_routes(self, rest: Rest) -> None:
        add_event_routes(rest, self.log)

    def _look(self) -> MeshLook:
        db = self._core.db
        return MeshLook(
            peers={peer.name: peer for peer in self._peers()},
            health=self._told_health(),
            lost_nodes={row.ip: (row.cluster, row.reason) for row in db.lost_nodes.rows()},
            policies=self._wrong_policies(),
        )

    def _told_health(self) -> Mapping[str, tuple[HealthLevel, str]]:
        """How every part is that nothing else tells of: worked out anew only when some report has changed."""
        reports = self._core.health.snapshot()
        if self._health[0] is not reports:
            told = {n: (part.level, part.message) for n, part in reports.items() if not n.startswith(_TOLD_OTHERWISE)}
            self._health = reports, told
        return self._health[1]

    def _wrong_policies(self) -> Mapping[str, str]:
        """What is wrong with which policy: worked out anew only when the table has changed."""
        table = self._core.db.policies
        if self._policies[0] != table.revision:
            found = ((_name(row), _wrong(row)) for row in table.rows())
            self._policies = table.revision, {name: wrong for name, wrong in found if wrong}
        return self._policies[1]


def _name(row: PolicyRow) -> str:
    return f"{row.kind} {row.namespace}/{row.name}" if row.namespace else f"{row.kind} {row.name}"


def _wrong(row: PolicyRow) -> str:
    if not row.is_valid:
        return f"refused: {row.message}"
    return f"{NOT_ENFORCED}{'; '.join(row.unenforced)}" if row.unenforced else ""
