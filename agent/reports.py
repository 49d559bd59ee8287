# SPDX-License-Identifier: Apache-2.0
"""The agent as a whole in the structs of meshapi: status, problems and map sizes. Features say their part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agent.core import Core
from agent.datapath.maps import Maps
from agent.feature import Feature
from meshapi.agent import AgentStatus, MapStatus
from meshkit.reconciler import Reconciler

Reconcilers = Mapping[str, Reconciler[Any, Any]]
IPV6_MAP_NAMES = ("services6", "backends6", "members6", "source_ranges6", "affinity6")
MAP_NAMES = (
    "services", "backends", "members", "source_ranges", "ipcache", "policy", "endpoints_by_address",
    "conntrack_tcp", "conntrack_other", "conntrack_opening", "affinity", "sockets", "nat",
)  # fmt: skip
_TABLE_OF = {"services": "frontends", "services6": "frontends", "ipcache": "prefixes", "policy": "endpoints"}


def map_names(maps: Maps) -> Sequence[str]:
    """Those whose entries are counted, as far as this node has them."""
    return MAP_NAMES if maps.of_ipv6 is None else MAP_NAMES + IPV6_MAP_NAMES


def agent_status(core: Core, features: Sequence[Feature], reconcilers: Reconcilers, version: str) -> AgentStatus:
    """The whole agent."""
    db = core.db
    health = core.health.snapshot()
    return AgentStatus(
        node=core.facts.node,
        cluster=db.own,
        cluster_id=db.own_id,
        version=version,
        ready=core.health.ready(),
        started=core.started_wall_s,
        now=core.clock.wall(),
        peers=[peer for feature in features for peer in feature.peers()],
        endpoints=len(db.endpoints),
        services=len(db.frontends),
        global_services=sum(1 for s in db.services.rows() if s.is_global),
        identities=len(db.identities),
        policies=len(db.policies),
        maps=map_status_rows(core, reconcilers),
        health={name: f"{c.level}: {c.message}" if c.message else str(c.level) for name, c in health.items()},
        datapath={"kind": core.settings.datapath, "lost-events": str(sum(core.host.lost()))},
        problems=problems(core, features),
        drained=sorted(db.drained),
    )


def problems(core: Core, features: Iterable[Feature]) -> list[str]:
    """One sentence for each thing a person should look at."""
    found = [problem for feature in features for problem in feature.problems()]
    health = core.health.snapshot()
    return found + [f"{name}: {c.message}" for name, c in health.items() if c.level != "ok" and name.startswith("map ")]


def map_status_rows(core: Core, reconcilers: Reconcilers) -> list[MapStatus]:
    """Entries and limits; counting walks a map, so this is not for a hot path."""
    found = []
    for name in map_names(core.maps):
        info = getattr(core.maps, name).info()
        reconciler = reconcilers.get(_TABLE_OF.get(name, ""))
        status = reconciler.status() if reconciler is not None else None
        found.append(
            MapStatus(
                name=name,
                entries=info.count,
                maximum=info.max_entries,
                pending=status.pending if status is not None else 0,
                failed=status.failed if status is not None else 0,
            )
        )
    return found
