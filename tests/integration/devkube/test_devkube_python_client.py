# SPDX-License-Identifier: Apache-2.0
"""The `kubernetes` package, which our own programs use, against the embedded API."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from kubernetes import client as k8s
from kubernetes import config, dynamic, watch
from kubernetes.stream import stream

from tests.integration.devkube.harness import Served, eventually

T = TypeVar("T")


async def in_thread(call: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """The client library blocks, and the server lives on this loop."""
    async with asyncio.timeout(20):
        return await asyncio.to_thread(call, *arguments, **options)


@pytest.fixture(scope="module")
def api(served: Served) -> Iterator[k8s.ApiClient]:
    with config.new_client_from_config(str(served.kubeconfig)) as made:
        yield made


def _deployment(name: str) -> dict[str, Any]:
    container = {"name": "c", "image": "nginx:1.15.8"}
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}}
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


async def test_typed_objects_are_created_read_and_listed_in_pages(api: k8s.ApiClient) -> None:
    core = k8s.CoreV1Api(api)
    for number in range(5):
        body = k8s.V1ConfigMap(metadata=k8s.V1ObjectMeta(name=f"typed-{number}", labels={"typed": "yes"}))
        await in_thread(core.create_namespaced_config_map, "default", body)
    page = await in_thread(core.list_namespaced_config_map, "default", label_selector="typed=yes", limit=2)
    assert [item.metadata.name for item in page.items] == ["typed-0", "typed-1"]
    more = await in_thread(
        core.list_namespaced_config_map, "default", label_selector="typed=yes", _continue=page.metadata._continue
    )
    assert len(more.items) == 3
    again = k8s.V1ConfigMap(metadata=k8s.V1ObjectMeta(name="typed-0"))
    with pytest.raises(k8s.ApiException) as raised:
        await in_thread(core.create_namespaced_config_map, "default", again)
    assert raised.value.status == 409


async def test_a_typed_watch_sees_changes(api: k8s.ApiClient) -> None:
    core = k8s.CoreV1Api(api)
    listed = await in_thread(core.list_namespaced_secret, "default")

    def follow() -> list[str]:
        seen = []
        watcher = watch.Watch()
        options = {"resource_version": listed.metadata.resource_version, "timeout_seconds": 10}
        for event in watcher.stream(core.list_namespaced_secret, "default", **options):
            seen.append(event["type"])
            if event["type"] == "DELETED":
                watcher.stop()
        return seen

    following = asyncio.create_task(in_thread(follow))
    secret = k8s.V1Secret(metadata=k8s.V1ObjectMeta(name="watched"), string_data={"a": "b"})
    await in_thread(core.create_namespaced_secret, "default", secret)
    await in_thread(core.patch_namespaced_secret, "watched", "default", {"metadata": {"labels": {"x": "y"}}})
    await in_thread(core.delete_namespaced_secret, "watched", "default")
    assert await following == ["ADDED", "MODIFIED", "DELETED"]


async def test_scaling_through_the_scale_subresource(api: k8s.ApiClient, served: Served) -> None:
    apps = k8s.AppsV1Api(api)
    await in_thread(apps.create_namespaced_deployment, "default", _deployment("scaled"))
    scale = await in_thread(apps.read_namespaced_deployment_scale, "scaled", "default")
    scale.spec.replicas = 3
    await in_thread(apps.replace_namespaced_deployment_scale, "scaled", "default", scale)
    await eventually(lambda: len(served.cluster.list("pods", "", "default", "app=scaled")) == 3)
    await in_thread(apps.delete_namespaced_deployment, "scaled", "default")
    await eventually(lambda: not served.cluster.list("pods", "", "default", "app=scaled"))


async def test_exec_through_the_stream_module(api: k8s.ApiClient, served: Served) -> None:
    core, apps = k8s.CoreV1Api(api), k8s.AppsV1Api(api)
    await in_thread(apps.create_namespaced_deployment, "default", _deployment("shell"))
    await eventually(lambda: any(p["status"].get("podIP") for p in served.cluster.list("pods", "", None, "app=shell")))
    pod = served.cluster.list("pods", "", None, "app=shell")[0]["metadata"]["name"]
    command = ["sh", "-c", "echo hello; exit 3"]

    def run() -> tuple[str, int]:
        session = stream(
            core.connect_get_namespaced_pod_exec, pod, "default", command=command, stdout=True, stderr=True,
            _preload_content=False,
        )  # fmt: skip
        session.run_forever(timeout=10)
        ended = session.read_stdout(), session.returncode
        session.sock.shutdown()  # its own close leaves the socket open once the server has said goodbye
        return ended

    assert await in_thread(run) == ("hello\n", 3)
    log = await in_thread(core.read_namespaced_pod_log, pod, "default")
    assert "hello from" in log
    await in_thread(apps.delete_namespaced_deployment, "shell", "default")


async def test_the_dynamic_client_finds_resources_by_discovery(api: k8s.ApiClient, tmp_path: Path) -> None:
    def use() -> str:
        maps = dynamic.DynamicClient(api, str(tmp_path / "discovery")).resources.get(api_version="v1", kind="ConfigMap")
        maps.create(namespace="default", body={"metadata": {"name": "dynamic"}, "data": {"a": "b"}})
        return str(maps.get(namespace="default", name="dynamic").data.a)

    assert await in_thread(use) == "b"
