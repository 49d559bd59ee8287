# SPDX-License-Identifier: Apache-2.0
"""The API server in memory answers as the embedded one does: every test runs on both."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from certs.authority import Authority
from kube.client import KubeClient, in_thread
from kube.config import load_client
from kube.errors import AlreadyExists, Conflict, NotFound
from kube.reflector import Change, Delete, Reflector, Synced, Timing, Upsert
from kube.resource import CONFIG_MAPS, NAMESPACES, NODES, SERVICE_EXPORTS, KubeObject
from lab.devkube.api.cluster import Cluster
from tests.integration.devkube.harness import serve
from tests.simulation.clock import ProcessClock, SimulatedBlocking
from tests.simulation.kube_server import KubeLink, KubeServer
from tests.simulation.loop import SimulatedLoop

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
KEPT = 10
FAST = Timing(minimum_backoff_s=0.01, maximum_backoff_s=0.05, minimum_watch_s=0.01, absent_s=0.05)

Body = Callable[[KubeClient], Coroutine[Any, Any, None]]
Run = Callable[[Body], None]


def in_memory(body: Body) -> None:
    loop = SimulatedLoop()
    server = KubeServer(loop)
    server.store.keep = KEPT
    server.store.hidden.add(SERVICE_EXPORTS.plural)
    server.apply(NAMESPACES, {"metadata": {"name": "default"}})
    client = KubeClient(KubeLink(server, SimulatedBlocking(loop, ProcessClock(loop), random.Random(1)), lambda: 0.001))
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(body(client))
    finally:
        loop.end_callers()
        asyncio.set_event_loop(None)
        loop.close()


def embedded(folder: Path, body: Body) -> None:
    async def main() -> None:
        authority = Authority.create("devkube-test-ca", time.time(), 1)
        async with serve(authority, folder, Cluster(keep_events=KEPT)) as served:
            client = load_client(str(served.kubeconfig))
            await body(client)
            client.transport.close()

    asyncio.run(main())
    gc.collect()  # connections that the server's end left to their destructors


@pytest.fixture(params=["memory", "embedded"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    return in_memory if request.param == "memory" else partial(embedded, tmp_path)


class Seen:
    """What a reflector reported, as words."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.rung = asyncio.Event()

    def take(self, batch: Sequence[Change[KubeObject]]) -> None:
        for change in batch:
            match change:
                case Upsert(key, obj):
                    self.words.append(f"{key}={(obj.get('data') or {}).get('x', '')}")
                case Delete(key, _):
                    self.words.append(f"{key} gone")
                case Synced():
                    self.words.append("synced")
        self.rung.set()

    async def until(self, word: str) -> None:
        async with asyncio.timeout(20):
            while word not in self.words:
                self.rung.clear()
                await self.rung.wait()


def config_map(name: str, x: str, **labels: str) -> KubeObject:
    return {"metadata": {"name": name, "namespace": "default", "labels": labels}, "data": {"x": x}}


def test_objects_are_made_read_changed_and_removed(run: Run) -> None:
    async def body(client: KubeClient) -> None:
        made = await in_thread(client.create, CONFIG_MAPS, config_map("a", "1"))
        assert made["metadata"]["uid"]
        with pytest.raises(AlreadyExists):
            await in_thread(client.create, CONFIG_MAPS, config_map("a", "2"))
        changed = await in_thread(client.patch_merge, CONFIG_MAPS, "a", {"data": {"x": None, "y": "2"}}, "default")
        assert changed["data"] == {"y": "2"}
        assert changed["metadata"]["uid"] == made["metadata"]["uid"]
        same = await in_thread(client.patch_merge, CONFIG_MAPS, "a", {"data": {"y": "2"}}, "default")
        assert same["metadata"]["resourceVersion"] == changed["metadata"]["resourceVersion"]
        with pytest.raises(Conflict):
            await in_thread(client.replace, CONFIG_MAPS, made)
        assert await in_thread(client.delete, CONFIG_MAPS, "a", "default")
        assert not await in_thread(client.delete, CONFIG_MAPS, "a", "default")
        assert await in_thread(client.get, CONFIG_MAPS, "a", "default") is None
        with pytest.raises(NotFound):
            await in_thread(client.create, CONFIG_MAPS, {"metadata": {"name": "a", "namespace": "nowhere"}})

    run(body)


def test_a_status_is_changed_alone(run: Run) -> None:
    async def body(client: KubeClient) -> None:
        await in_thread(client.create, NODES, {"metadata": {"name": "n1"}, "spec": {"podCIDR": "10.1.0.0/24"}})
        await in_thread(client.patch_status, NODES, "n1", {"addresses": [{"type": "InternalIP", "address": "1.2.3.4"}]})
        found = await in_thread(client.get, NODES, "n1")
        assert found is not None
        assert found["spec"]["podCIDR"] == "10.1.0.0/24"
        assert found["status"]["addresses"] == [{"type": "InternalIP", "address": "1.2.3.4"}]

    run(body)


def test_a_listing_has_pages_of_one_revision(run: Run) -> None:
    async def body(client: KubeClient) -> None:
        for i in range(5):
            await in_thread(client.create, CONFIG_MAPS, config_map(f"m{i}", str(i), odd=str(i % 2)))
        pages = client.pages(CONFIG_MAPS, "default", label_selector="odd=0", limit=2)
        first = await in_thread(next, pages)
        second = await in_thread(next, pages)
        names = [[item["metadata"]["name"] for item in page["items"]] for page in (first, second)]
        assert names == [["m0", "m2"], ["m4"]]
        versions = {page["metadata"]["resourceVersion"] for page in (first, second)}
        assert len(versions) == 1

    run(body)


def test_kinds_that_are_not_served_are_not_found(run: Run) -> None:
    async def body(client: KubeClient) -> None:
        assert await in_thread(client.has, CONFIG_MAPS)
        assert not await in_thread(client.has, SERVICE_EXPORTS)
        with pytest.raises(NotFound):
            await in_thread(client.list, SERVICE_EXPORTS)

    run(body)


def test_a_watch_tells_of_objects_that_come_into_a_selection_and_leave_it(run: Run) -> None:
    async def body(client: KubeClient) -> None:
        seen = Seen()
        await in_thread(client.create, CONFIG_MAPS, config_map("in", "1", team="a"))
        reflector = Reflector(
            client, CONFIG_MAPS, strip=lambda obj: obj, namespace="default", label_selector="team=a", timing=FAST
        )
        task = asyncio.create_task(reflector.run(seen.take))
        await seen.until("synced")
        assert seen.words == ["default/in=1", "synced"]
        await in_thread(client.create, CONFIG_MAPS, config_map("out", "1", team="b"))
        await in_thread(client.patch_merge, CONFIG_MAPS, "out", {"metadata": {"labels": {"team": "a"}}}, "default")
        await seen.until("default/out=1")
        await in_thread(client.patch_merge, CONFIG_MAPS, "in", {"metadata": {"labels": {"team": "b"}}}, "default")
        await seen.until("default/in gone")
        await in_thread(client.delete, CONFIG_MAPS, "out", "default")
        await seen.until("default/out gone")
        task.cancel()
        await asyncio.wait([task])

    run(body)


def test_a_position_that_is_no_longer_known_is_gone(run: Run) -> None:
    async def body(client: KubeClient) -> None:
        await in_thread(client.create, CONFIG_MAPS, config_map("a", "0"))
        for i in range(KEPT + 5):
            await in_thread(client.patch_merge, CONFIG_MAPS, "a", {"data": {"x": f"{i}!"}}, "default")
        reflector = Reflector(client, CONFIG_MAPS, strip=lambda obj: obj, namespace="default", timing=FAST)
        progress = reflector._list_watch.progress
        progress.resource_version = "1"
        seen = Seen()
        task = asyncio.create_task(reflector.run(seen.take))
        await seen.until("synced")
        assert progress.lists == 1
        assert progress.last_error == "" or "old" in progress.last_error
        task.cancel()
        await asyncio.wait([task])

    run(body)
