# SPDX-License-Identifier: Apache-2.0
"""The cluster address of the Service that a store's host name means: from the tables, else from Kubernetes."""

from __future__ import annotations

from typing import Any

import pytest

from agent.bootstrap import Facts
from agent.core import open_core
from agent.loadbalancer.feature import LoadBalancerFeature
from agent.machine import MemoryHost
from agent.settings import AgentSettings
from meshkit.clock import ManualClock
from meshmodel.names import ClusterId, ClusterName


class Client:
    """Kubernetes with one Service."""

    def __init__(self, spec: dict[str, Any] | None) -> None:
        self.spec = spec

    def get(self, resource: object, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        return None if self.spec is None else {"metadata": {"name": name, "namespace": namespace}, "spec": self.spec}


@pytest.mark.parametrize(
    ("spec", "address"),
    [
        (None, None),
        ({"clusterIP": "10.96.0.7", "ports": []}, "10.96.0.7"),
        ({"clusterIP": "None", "clusterIPs": ["None"]}, None),
        ({"clusterIP": "010.96.0.7"}, None),  # no address that a program may connect to
        ({}, None),
    ],
)
async def test_the_services_address_is_read_as_everywhere_else(
    spec: dict[str, Any] | None, address: str | None
) -> None:
    facts = Facts(ClusterName("north"), ClusterId(1), 255, "n1", "172.18.0.2")
    settings = AgentSettings(local_etcd="none")
    core = await open_core(settings, facts, Client(spec), MemoryHost(), ManualClock())  # type: ignore[arg-type]
    assert await LoadBalancerFeature(core).resolve("clustermesh-apiserver", "kube-system") == address
