# SPDX-License-Identifier: Apache-2.0
"""`enable` by an account that lacks a right changes nothing, and says which right it is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from clustermesh_cli.commands.enable import EnableOptions, enable
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, CommandRefusedError
from clustermesh_cli.flow_sources import ClusterRelay
from clustermesh_cli.manifests import load_workloads
from clustermesh_cli.plan.exposure import ExposureWish
from clustermesh_cli.program_client import ProgramClient
from kube.client import KubeClient
from kube.config import load_client
from kube.errors import Forbidden, NotFound
from kube.resource import CONFIG_MAPS, DAEMON_SETS, PODS, SECRETS, SERVICES, from_manifest
from lab.devkube.api.objects import name_of
from meshapi.installed import APISERVER_PORT, RELAY_HTTP_PORT, RELAY_HTTP_SERVICE, STATUS_SERVICE
from tests.integration.devkube.harness import Served

OPTIONS = EnableOptions("mesh", "north", 1, ExposureWish(), (), "apiserver", "agent")
KINDS = ("services", "secrets", "configmaps", "serviceaccounts")


@pytest.fixture
def admin(served: Served) -> Iterator[KubeClient]:
    client = load_client(str(served.kubeconfig))
    with closing(client.transport):
        yield client


async def account(admin: KubeClient, served: Served, folder: Path, name: str, *rules: dict[str, Any]) -> KubeClient:
    """A client whose account holds exactly these rules."""

    def make() -> KubeClient:
        group = "rbac.authorization.k8s.io"
        subject = {"kind": "ServiceAccount", "name": name, "namespace": "default"}
        ref = {"apiGroup": group, "kind": "ClusterRole", "name": name}
        for obj in (
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "mesh"}},
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "default"}},
            {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": list(rules)},
            {
                "apiVersion": f"{group}/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": name},
                "roleRef": ref,
                "subjects": [subject],
            },
        ):
            admin.apply(from_manifest(obj), obj)
        token = admin.service_account_token("default", name, audience="https://kubernetes.default.svc", lifetime_s=600)
        config = yaml.safe_load(served.kubeconfig.read_text())
        config["users"][0]["user"] = {"token": token}
        path = folder / name
        path.write_text(yaml.safe_dump(config))
        return load_client(str(path))

    return await asyncio.to_thread(make)


async def enabling(client: KubeClient) -> None:
    with closing(client.transport):
        await asyncio.to_thread(enable, client, "north", OPTIONS, Console(), time.time())


def written(served: Served) -> list[str]:
    """What `enable` would have made of the kinds it makes."""
    found = [
        name_of(obj) for kind in KINDS for obj in served.cluster.list(kind, "", "mesh") if "clustermesh" in name_of(obj)
    ]
    return found + [
        name_of(obj)
        for obj in served.cluster.list("clusterroles", "rbac.authorization.k8s.io")
        if "mesh" in name_of(obj)
    ]


async def test_the_role_for_readers_is_all_that_status_takes(admin: KubeClient, served: Served, tmp_path: Path) -> None:
    """All but Secrets, which status says: and nothing beside the mesh."""
    values = dict.fromkeys(("SERVICE_TYPE", "CLUSTER_NAME", "CLUSTER_ID", "MAX_CONNECTED_CLUSTERS", "MIRROR"), "x")
    values |= {
        "POLICY_DEFAULT_LOCAL_CLUSTER": "x",
        "APISERVER_IMAGE": "x",
        "AGENT_IMAGE": "x",
        "CERTIFICATE_LIFETIME_S": "1",
    }
    objects = load_workloads({"NAMESPACE": "mesh", **values}, with_relay=False)
    (role,) = [o for o in objects if o["kind"] == "Role" and o["metadata"]["name"] == "clustermesh-reader"]
    client = await account(admin, served, tmp_path, "reader", *role["rules"])
    with closing(client.transport):
        for refused in (SECRETS.path("mesh", "clustermesh-ca"), PODS.path("mesh"), SERVICES.path("mesh", "other")):
            with pytest.raises(Forbidden):
                await asyncio.to_thread(client.get_path, refused)
        for read in (
            SERVICES.path("mesh", "clustermesh-apiserver"),
            DAEMON_SETS.path("mesh", "clustermesh-agent"),
            CONFIG_MAPS.path("mesh", "clustermesh-config"),
        ):
            with pytest.raises(NotFound):
                await asyncio.to_thread(client.get_path, read)
        with pytest.raises(CommandError, match="there is no ServiceAccount mesh/clustermesh-viewer"):
            await asyncio.to_thread(ProgramClient(client, "mesh").get_apiserver, "v1/status")
        code, _ = await asyncio.to_thread(client.service_proxy_get, "mesh", STATUS_SERVICE, APISERVER_PORT, "v1/status")
        assert code != 403
        code, _ = await asyncio.to_thread(
            client.service_proxy_get, "mesh", RELAY_HTTP_SERVICE, RELAY_HTTP_PORT, "v1/flows/status"
        )
        assert code != 403
        assert not await asyncio.to_thread(ClusterRelay(ProgramClient(client, "mesh")).is_installed)


async def test_an_account_that_may_look_changes_nothing(admin: KubeClient, served: Served, tmp_path: Path) -> None:
    looks = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch"]}
    client = await account(admin, served, tmp_path, "looks", looks)
    with pytest.raises(
        CommandRefusedError, match=r"Nothing was changed: this account may not create secrets in namespace mesh;.* more"
    ):
        await enabling(client)
    assert written(served) == []


async def test_one_missing_right_of_many_changes_nothing(admin: KubeClient, served: Served, tmp_path: Path) -> None:
    """The Deployment comes after Services, Secrets and roles: without a check they would stay behind."""
    most = [
        {"apiGroups": [group], "resources": ["*"], "verbs": ["*"]}
        for group in ("", "rbac.authorization.k8s.io", "apiextensions.k8s.io", "networking.k8s.io")
    ]
    most.append({"apiGroups": ["apps"], "resources": ["*"], "verbs": ["get"]})
    client = await account(admin, served, tmp_path, "most", *most)
    with pytest.raises(CommandRefusedError, match=r"may not create deployments\.apps in namespace mesh"):
        await enabling(client)
    assert written(served) == []
