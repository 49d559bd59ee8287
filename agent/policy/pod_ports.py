# SPDX-License-Identifier: Apache-2.0
"""Port names of all pods, as the prefixes table said last: egress rules mean those of each peer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agent.policy.endpoint_identities import named_ports
from agent.tables import AgentDB
from meshkit.table import HistoryLostError
from meshmodel.identity import NumericIdentity
from meshpolicy.port import NamedPorts


class PodPortsFollower:
    """`set_ports` is told a pod (its prefix), its identity and its port names, whenever they are others."""

    def __init__(self, db: AgentDB, set_ports: Callable[[str, NumericIdentity, NamedPorts], Any]) -> None:
        self._db, self._set_ports = db, set_ports
        self._with_ports: set[str] = set()
        self._seen = 0

    def take(self) -> None:
        """Read the table."""
        seen, self._seen = self._seen, self._db.prefixes.revision
        try:
            changes = [(c.key, None if c.deleted else c.row) for c in self._db.prefixes.changes_since(seen)]
        except HistoryLostError:
            changes = [(key, self._db.prefixes.get(key)) for key in self._with_ports]
            changes += [(row.prefix, row) for row in self._db.prefixes.rows()]
        for key, row in changes:
            ports = row.named_ports if row is not None else ()
            if ports or key in self._with_ports:
                identity = NumericIdentity(row.identity if row is not None else 0)
                self._set_ports(key, identity, named_ports(ports))
                (self._with_ports.add if ports else self._with_ports.discard)(key)
