# SPDX-License-Identifier: Apache-2.0
"""An agent that does not hear of a kind says so."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest

from agent.bootstrap import Facts
from agent.core import open_core
from agent.machine import MemoryHost
from agent.node_agent import NodeAgent
from agent.settings import AgentSettings
from kube.client import KubeClient
from kube.following import Progress
from kube.transport import Transport
from meshkit.clock import ManualClock
from meshkit.health import HealthLevel
from meshmodel.names import ClusterId, ClusterName

FACTS = Facts(ClusterName("north"), ClusterId(1), 255, "n1", "172.18.0.2")


@pytest.mark.runbook("kubernetes-kind")
async def test_a_kind_that_is_not_heard_of_is_a_part_of_the_agent_that_is_not_whole() -> None:
    """The API server is away, or forbids a kind: what is known stays in force, the node stays ready, and status says so."""
    client = KubeClient(cast("Transport", None))
    opened = await open_core(AgentSettings(local_etcd="none"), FACTS, None, MemoryHost(), ManualClock())
    core = replace(opened, client=client)
    agent, progress = NodeAgent(core, ()), Progress(failures=1, last_error="watch services: 403 Forbidden")
    client.following.begin("services", progress)
    agent.check_health()
    said = core.health.snapshot()["kubernetes"]
    assert (said.level, said.message) == (
        HealthLevel.DEGRADED, "what changes in services is not learned; services: watch services: 403 Forbidden",
    )  # fmt: skip
    assert core.health.ready()
    client.following.end(progress)
    agent.check_health()
    assert core.health.snapshot()["kubernetes"].level is HealthLevel.OK
