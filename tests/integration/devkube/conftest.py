# SPDX-License-Identifier: Apache-2.0
"""One served cluster for the whole session, and each kubectl that this machine has."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from certs.authority import Authority
from lab.devkube.api.cluster import Cluster
from tests.integration.devkube.harness import Kubectl, Served, eventually, find_kubectl, serve
from tests.integration.devkube.rebel_base import CONFIG_MAP, DEPLOYMENT, SERVICE, is_rolled_out


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority.create("devkube-test-ca", time.time(), 1)


@pytest.fixture(scope="session")
async def served(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    cluster = Cluster("172.20.1.0/24")
    async with serve(authority, tmp_path_factory.mktemp("devkube"), cluster) as running:
        yield running


@pytest.fixture(scope="session", params=["current", "1.20"])
async def kubectl(request: pytest.FixtureRequest, served: Served, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    version = request.param
    binary = find_kubectl(version)
    if binary is None:
        wanted = "1.25 or newer" if version == "current" else version
        variable = f"KUBECTL_{version.replace('.', '').upper()}"
        pytest.skip(f"no kubectl {wanted}: set {variable} or put it at build/tools/kubectl-{version}")
    namespace = f"steps-{version.replace('.', '-')}"
    served.cluster.create("namespaces", {"metadata": {"name": namespace}})
    return Kubectl(binary, version, served.kubeconfig, tmp_path_factory.mktemp("home"), namespace)


@pytest.fixture
async def rebel_base(kubectl: Kubectl, served: Served) -> Kubectl:
    """The walkthrough's application, applied and rolled out."""
    manifests = "---".join((CONFIG_MAP, DEPLOYMENT, SERVICE))
    await kubectl.ok("apply", "-f", "-", stdin=manifests)
    await eventually(lambda: is_rolled_out(served, kubectl.namespace))
    return kubectl
