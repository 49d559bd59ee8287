# SPDX-License-Identifier: Apache-2.0
"""What the REST server reads of a running agent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.bootstrap import Facts
from agent.core import Core
from agent.datapath.maps import Maps
from agent.endpoints.discovery import EndpointDiscovery
from agent.host import Host
from agent.loadbalancer.ops import LoadBalancerTarget
from agent.loadbalancer.source import KubernetesSource
from agent.loadbalancer.writer import LoadBalancerWriter
from agent.mesh.runner import MeshRunner
from agent.node_agent import Features
from agent.observe.ring import FlowRing
from agent.policy.compiler import PolicyCompiler
from agent.policy.ops import EndpointTarget
from agent.settings import AgentSettings
from agent.tables import AgentDB
from meshkit.clock import Clock
from meshkit.health import Health
from meshkit.metrics import Registry
from meshkit.reconciler import Reconciler


@dataclass(frozen=True, slots=True)
class Served:
    """Reads only."""

    settings: AgentSettings
    facts: Facts
    db: AgentDB
    maps: Maps
    host: Host
    clock: Clock
    health: Health
    registry: Registry
    started_wall_s: float
    reconcilers: Mapping[str, Reconciler[Any, Any]]
    mesh: MeshRunner
    load_balancer: LoadBalancerWriter
    lb_target: LoadBalancerTarget
    lb_source: KubernetesSource
    compiler: PolicyCompiler
    endpoint_target: EndpointTarget
    discovery: EndpointDiscovery
    flows: FlowRing


def make_served(core: Core, features: Features, reconcilers: Mapping[str, Reconciler[Any, Any]]) -> Served:
    """The parts of these features."""
    return Served(
        core.settings, core.facts, core.db, core.maps, core.host, core.clock, core.health, core.registry,
        core.started_wall_s, reconcilers,
        mesh=features.mesh.runner,
        load_balancer=features.loadbalancer.writer,
        lb_target=features.loadbalancer.target,
        lb_source=features.loadbalancer.source,
        compiler=features.policy.compiler,
        endpoint_target=features.policy.target,
        discovery=features.endpoints.discovery,
        flows=features.observe.flows,
    )  # fmt: skip
