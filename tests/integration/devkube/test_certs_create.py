# SPDX-License-Identifier: Apache-2.0
"""What `enable --print` prints is a whole installation: its Job makes with its own rights what the programs mount."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from clustermesh_cli.commands.certs_create import CertificateWish, create
from clustermesh_cli.commands.enable import EnableOptions, plan_objects
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, CommandRefusedError
from clustermesh_cli.plan.cluster_identity import ClusterIdentity
from clustermesh_cli.plan.exposure import Exposure, ExposureWish
from kube.client import KubeClient
from kube.config import load_client
from kube.resource import CONFIG_MAPS, SECRETS, from_manifest
from meshapi.installed import CA_SECRET, PEERS_SECRET
from meshmodel.names import ClusterId, ClusterName
from tests.integration.devkube.harness import Served

OPTIONS = EnableOptions(
    "printed", "north", 1, ExposureWish(), (), "apiserver", "agent", relay=True, relay_image="relay"
)
NORTH = ClusterIdentity(ClusterName("north"), ClusterId(1), 255)
OBJECTS = plan_objects(OPTIONS, NORTH, {}, Exposure("ClusterIP", None), with_certificates=True)
RIGHTS = ("ServiceAccount", "Role", "RoleBinding")


def mounted(kind: str, field: str) -> set[str]:
    """Names of what any pod of the installation mounts."""
    pods = [obj["spec"]["template"]["spec"] for obj in OBJECTS if obj["kind"] in ("Deployment", "DaemonSet")]
    volumes = [volume for pod in pods for volume in pod["volumes"]]
    return {volume[kind][field] for volume in volumes if kind in volume}


@pytest.fixture
def admin(served: Served) -> Iterator[KubeClient]:
    client = load_client(str(served.kubeconfig))
    with closing(client.transport):
        yield client


@pytest_asyncio.fixture
async def maker(admin: KubeClient, served: Served, tmp_path: Path) -> AsyncIterator[KubeClient]:
    """The Job's account, with what the manifests give it."""
    (job,) = [obj for obj in OBJECTS if obj["kind"] == "Job"]
    name = job["spec"]["template"]["spec"]["serviceAccountName"]

    def log_in() -> KubeClient:
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "printed"}}
        rights = [obj for obj in OBJECTS if obj["kind"] in RIGHTS and obj["metadata"]["name"] == name]
        for obj in (namespace, *rights):
            admin.apply(from_manifest(obj), obj)
        token = admin.service_account_token("printed", name, audience="https://kubernetes.default.svc", lifetime_s=600)
        config = yaml.safe_load(served.kubeconfig.read_text())
        config["users"][0]["user"] = {"token": token}
        (tmp_path / "maker").write_text(yaml.safe_dump(config))
        return load_client(str(tmp_path / "maker"))

    client = await asyncio.to_thread(log_in)
    with closing(client.transport):
        yield client


def made(admin: KubeClient) -> dict[str, Any]:
    """Versions of the Secrets and ConfigMaps there are."""
    found = [*admin.list(SECRETS, "printed"), *admin.list(CONFIG_MAPS, "printed")]
    return {obj["metadata"]["name"]: obj["metadata"]["resourceVersion"] for obj in found}


async def test_the_job_makes_all_that_pods_mount_and_a_second_run_changes_nothing(
    admin: KubeClient, maker: KubeClient
) -> None:
    def run() -> dict[str, Any]:
        create(maker, "printed", CertificateWish("north"), Console(plain=True), time.time())
        return made(admin)

    first = await asyncio.to_thread(run)
    assert mounted("secret", "secretName") | mounted("configMap", "name") | {CA_SECRET} <= first.keys()
    assert await asyncio.to_thread(run) == first


async def test_a_lost_authority_that_peers_trust_is_not_replaced(admin: KubeClient, maker: KubeClient) -> None:
    def run() -> None:
        create(maker, "printed", CertificateWish("north"), Console(plain=True), time.time())
        admin.patch_merge(SECRETS, PEERS_SECRET, {"data": {"south": "e30="}}, "printed")
        admin.delete(SECRETS, CA_SECRET, "printed")
        with pytest.raises(CommandRefusedError, match="south"):
            create(maker, "printed", CertificateWish("north"), Console(plain=True), time.time())
        assert CA_SECRET not in made(admin)

    await asyncio.to_thread(run)


async def test_a_cluster_without_a_name_is_given_none(admin: KubeClient, maker: KubeClient) -> None:
    before = await asyncio.to_thread(made, admin)
    with pytest.raises(CommandError, match="give --cluster-name"):
        await asyncio.to_thread(create, maker, "printed", CertificateWish(), Console(plain=True), time.time())
    assert await asyncio.to_thread(made, admin) == before
