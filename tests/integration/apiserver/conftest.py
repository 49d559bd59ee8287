# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes API and certificates per test; workloads are written as the API objects they would leave."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kube.client import KubeClient
from lab.devkube.api.cluster import Cluster
from tests.integration.apiserver.apiserver_world import Pki, serve_kubernetes
from tests.integration.apiserver.workloads import Workloads


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


@pytest.fixture
async def kubernetes(tmp_path: Path) -> AsyncIterator[tuple[Cluster, KubeClient]]:
    async with serve_kubernetes(tmp_path) as served:
        yield served


@pytest.fixture
def client(kubernetes: tuple[Cluster, KubeClient]) -> KubeClient:
    return kubernetes[1]


@pytest.fixture
def workloads(kubernetes: tuple[Cluster, KubeClient]) -> Workloads:
    return Workloads(kubernetes[0])
