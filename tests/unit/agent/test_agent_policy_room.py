# SPDX-License-Identifier: Apache-2.0
"""A pod whose policy has more entries than a pod may have makes the agent say that enforcement failed, and which pod it is."""

from __future__ import annotations

from unittest.mock import create_autospec

import pytest

from agent.bootstrap import Facts
from agent.core import open_core
from agent.machine import MemoryHost
from agent.policy.feature import PolicyFeature
from agent.policy.source import PolicySource, strip_policy
from agent.settings import AgentSettings
from agent.tables import Endpoint, Identity
from kube.client import KubeClient
from kube.reflector import Upsert
from kube.resource import CNP, KubeObject
from meshkit.clock import ManualClock
from meshkit.health import HealthLevel
from meshmodel.labels import pod_labels
from meshmodel.names import ClusterId, ClusterName
from tests.support.policy_neighbours import neighbours

NORTH, NORTH_ID = ClusterName("north"), ClusterId(1)
FACTS = Facts(NORTH, NORTH_ID, 255, "n1", "172.18.0.2", ("10.1.0.0/24",))
POD = Endpoint("10.1.0.1", 7, 12, "0a:00:00:00:00:01", "0a:00:00:00:00:02", 70_000, "shop", "web")
POLICY: KubeObject = {
    "apiVersion": CNP.api_version,
    "kind": CNP.kind,
    "metadata": {"name": "web-in", "namespace": "shop"},
    "spec": {
        "endpointSelector": {"matchLabels": {"app": "web"}},
        "ingress": [{"fromCIDR": ["192.0.2.0/26", "198.51.100.0/24", "203.0.113.0/25"]}],
    },
}


@pytest.mark.runbook("policy-full")
async def test_a_policy_with_more_entries_than_a_pod_may_have_fails_the_agent_and_names_the_pod() -> None:
    core = await open_core(
        AgentSettings(local_etcd="none", policy_entries_per_pod=1), FACTS, None, MemoryHost(), ManualClock()
    )
    policy = PolicyFeature(core, neighbours(core.db))
    (reconciling,) = policy.reconcilers()
    with core.db.write():
        core.db.identities.put(Identity(70_000, NORTH, pod_labels({"app": "web"}, "shop", {}, "default", NORTH)))
        core.db.endpoints.put(POD)
    source = PolicySource(create_autospec(KubeClient, instance=True), policy.compiler, lambda: None, core.clock, "n1")
    source.take(CNP, [Upsert("shop/web-in", strip_policy(POLICY))], lambda: None)
    policy.compiler.step()
    reconciling.reconciler.run_once(0.0)
    policy.check_health(core.health)
    part = core.health.snapshot()["policy enforcement"]
    assert part.level is HealthLevel.FAILED
    assert part.message.startswith("1 pods are not enforced as their policies say; 10.1.0.1: the policy has ")
    assert [said for said in policy.problems() if said.startswith("pod 10.1.0.1: the policy has ")]
