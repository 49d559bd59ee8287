# SPDX-License-Identifier: Apache-2.0
"""Clusters that an operator drained: ConfigMap clustermesh-drained names them, by `clustermesh drain`.

Their backends count as unhealthy for new connections of this cluster's clients, unless nothing else is left.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from agent.loadbalancer.writer import LoadBalancerWriter
from agent.tables import AgentDB
from kube.client import KubeClient
from kube.reflector import Change, Reflector, Synced, Upsert
from kube.resource import CONFIG_MAPS, KubeObject
from meshapi.installed import DRAINED
from meshmodel.errors import ModelError
from meshmodel.names import ClusterName, parse_cluster_name

log = logging.getLogger(__name__)
SOURCE: Final = f"configmap {DRAINED}"


class DrainedClusters(NamedTuple):
    """The names in the ConfigMap, and what is wrong with others, as sentences."""

    names: frozenset[ClusterName]
    problems: tuple[str, ...]


def read_drained(item: KubeObject) -> DrainedClusters:
    """Each key of its data is the name of a cluster; what is said of it is for people."""
    names: set[ClusterName] = set()
    problems: list[str] = []
    for key in sorted(item.get("data") or {}):
        try:
            names.add(parse_cluster_name(key))
        except ModelError as exc:
            problems.append(f"{SOURCE}: {exc}; it drains nothing")
    return DrainedClusters(frozenset(names), tuple(problems))


class DrainedSource:
    """Follows the ConfigMap; `problems` are about what it says now."""

    def __init__(self, db: AgentDB, writer: LoadBalancerWriter) -> None:
        self._db, self._writer = db, writer
        self.problems: tuple[str, ...] = ()

    async def run(self, client: KubeClient, namespace: str, on_synced: Callable[[], None]) -> None:
        """Until cancelled."""
        by_name = f"metadata.name={DRAINED}"
        reflector = Reflector(client, CONFIG_MAPS, strip=read_drained, namespace=namespace, field_selector=by_name)
        await reflector.run(lambda batch: self.take(batch, on_synced))

    def take(self, batch: Sequence[Change[DrainedClusters]], on_synced: Callable[[], None]) -> None:
        is_synced = False
        for change in batch:
            if isinstance(change, Synced):
                is_synced = True
                continue
            found = change.obj if isinstance(change, Upsert) else DrainedClusters(frozenset(), ())
            self.problems = found.problems
            before = self._db.drained
            with self._db.write():
                self._writer.set_drained(found.names)
            if before != found.names:
                log.info("drained clusters changed", extra={"reason": ", ".join(sorted(found.names)) or "none"})
        if is_synced:
            on_synced()


def drained_problems(names: frozenset[ClusterName]) -> list[str]:
    """One sentence for each: nobody shall have to wonder where the connections went."""
    return [
        f"cluster {name} is drained: new connections go elsewhere until clustermesh undrain {name}"
        for name in sorted(names)
    ]
