# SPDX-License-Identifier: Apache-2.0
"""What every feature of the agent is built on: settings, facts, the tables, the opened maps and the machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent.bootstrap import Facts
from agent.datapath.maps import Maps
from agent.machine import Host
from agent.settings import AgentSettings
from agent.tables import AgentDB
from kube.client import KubeClient, in_thread
from meshkit.clock import Clock
from meshkit.health import Health
from meshkit.metrics import Registry
from meshpeer.outside import Outside


@dataclass(frozen=True, slots=True)
class Core:
    """One agent's foundation. `client` is None where no Kubernetes API is read."""

    settings: AgentSettings
    facts: Facts
    client: KubeClient | None
    host: Host
    clock: Clock
    maps: Maps
    db: AgentDB
    health: Health
    registry: Registry
    started_wall_s: float
    outside: Outside
    envoy: Path | None = None
    """The program that enforces rules about requests; None: nothing does, and what they would allow is denied."""
    has_dns_proxy: bool = False
    """Whether lists of DNS names are enforced; if not, what they would allow is denied, but for a list of every name."""


async def open_core(
    settings: AgentSettings,
    facts: Facts,
    client: KubeClient | None,
    host: Host,
    clock: Clock,
    *,
    outside: Outside | None = None,
    envoy: Path | None = None,
    has_dns_proxy: bool = False,
) -> Core:
    """Programs and maps are loaded, pinned ones of an earlier agent taken over. Raises: LoadError, KernelError."""
    health = Health(clock)
    health.starting("datapath", "loading programs and maps")
    maps = await in_thread(host.open)
    health.ok("datapath")
    return Core(
        settings, facts, client, host, clock, maps,
        db=AgentDB(facts.cluster, facts.cluster_id, facts.node, facts.node_ip),
        health=health,
        registry=Registry("clustermesh_agent"),
        started_wall_s=clock.wall(),
        outside=outside or Outside(),
        envoy=envoy,
        has_dns_proxy=has_dns_proxy,
    )  # fmt: skip
