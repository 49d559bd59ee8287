# SPDX-License-Identifier: Apache-2.0
"""The agent as a whole in the structs of meshapi: status, problems and map sizes. Each feature's rows are in its rows.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.mesh.rows import cluster_row, lost_node_problems
from agent.policy.rows import describe_widening, engine_faults, policy_problems
from meshapi.agent import AgentStatus, MapStatus
from meshapi.peer import RemoteCluster

if TYPE_CHECKING:
    from agent.served import Served

MAP_NAMES = (
    "services", "backends", "members", "ipcache", "policy", "endpoints_by_address",
    "conntrack_tcp", "conntrack_other", "conntrack_opening", "affinity",
)  # fmt: skip
_TABLE_OF = {"services": "frontends", "ipcache": "prefixes", "policy": "endpoints"}


def agent_status(agent: Served, version: str) -> AgentStatus:
    """The whole agent."""
    db = agent.db
    health = agent.health.snapshot()
    return AgentStatus(
        node=agent.facts.node,
        cluster=db.own,
        cluster_id=db.own_id,
        version=version,
        ready=agent.health.ready(),
        started=agent.started_wall_s,
        peers=peer_rows(agent),
        endpoints=len(db.endpoints),
        services=len(db.frontends),
        global_services=sum(1 for s in db.services.rows() if s.is_global),
        identities=len(db.identities),
        policies=len(db.policies),
        maps=map_status_rows(agent),
        health={name: f"{c.level}: {c.message}" if c.message else str(c.level) for name, c in health.items()},
        datapath={"kind": agent.settings.datapath, "lost-events": str(agent.host.lost())},
        problems=problems(agent),
    )


def peer_rows(agent: Served) -> list[RemoteCluster]:
    """Every configured peer."""
    mesh = agent.mesh
    return [cluster_row(state, mesh.rejections, agent.clock) for state in mesh.states()]


def problems(agent: Served) -> list[str]:
    """One sentence for each thing a person should look at."""
    db, mesh = agent.db, agent.mesh
    found = [f"peer configuration {name}: {reason}" for name, reason in sorted(mesh.refused.items())]
    found += [f"service {s.name}: {p}" for s in db.services.rows() for p in s.problems]
    found += [f"service {row.service}: {p}" for row in db.service_problems.rows() for p in row.problems]
    found += agent.lb_source.slice_problems()
    found += policy_problems(db)
    found += engine_faults(agent.compiler.faults)
    found += lost_node_problems(db)
    found += describe_widening(agent.compiler.engine.policies(), mesh.drained)
    for state in mesh.states():
        warnings = cluster_row(state, mesh.rejections, agent.clock).warnings
        found += [f"peer {state.name}: {warning}" for warning in warnings]
        rejected = mesh.rejections.counts(state.name)
        found += [f"peer {state.name}: {total} records rejected ({reason})" for reason, total in rejected.items()]
    own = mesh.members.get(db.own)
    if own is not None and not (row := cluster_row(own.state, mesh.rejections, agent.clock)).ready:
        found.append(f"own store: {row.reason or row.status}")
    found += [f"pod {address}: {reason}" for address, reason in sorted(agent.endpoint_target.failures.items())]
    found += [f"pod {address}: no interface found on this node" for address in agent.discovery.waiting]
    health = agent.health.snapshot()
    return found + [f"{name}: {c.message}" for name, c in health.items() if c.level != "ok" and name.startswith("map ")]


def map_status_rows(agent: Served) -> list[MapStatus]:
    """Entries and limits; counting walks a map, so this is not for a hot path."""
    found = []
    for name in MAP_NAMES:
        info = getattr(agent.maps, name).info()
        reconciler = agent.reconcilers.get(_TABLE_OF.get(name, ""))
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
