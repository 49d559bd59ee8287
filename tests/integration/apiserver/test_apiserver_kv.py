# SPDX-License-Identifier: Apache-2.0
"""People look into the store through the program's REST face: read only, page by page, and as it changes."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from clustermesh_apiserver.apiserver import Apiserver
from clustermesh_apiserver.status import kv_api
from kube.client import KubeClient
from tests.integration.apiserver.apiserver_world import Pki, rest, run_apiserver, settings, until
from tests.integration.apiserver.workloads import Workloads


async def ask(apiserver: Apiserver, path: str, **query: object) -> httpx.Response:
    await until(lambda: apiserver.status_port != 0)
    async with rest(apiserver) as http:
        return await http.get(f"/v1/{path}", params={name: str(value) for name, value in query.items()})


async def events(http: httpx.AsyncClient, prefix: str) -> AsyncIterator[dict[str, Any]]:
    async with http.stream("GET", "/v1/kv/watch", params={"prefix": prefix}) as reply:
        async for line in reply.aiter_lines():
            if line.startswith("data: "):
                yield json.loads(line[6:])


@pytest.fixture
def shop(workloads: Workloads, pki: Pki) -> Workloads:
    assert pki.folder.exists()
    workloads.namespace("shop")
    workloads.node("n1", "127.0.0.1", "10.1.1.0/24")
    for number in range(5):
        workloads.service(f"cart-{number}", annotations={"service.cilium.io/global": "true"})
    return workloads


async def test_keys_are_listed_page_by_page_in_order(client: KubeClient, shop: Workloads, tmp_path: Path) -> None:
    async with run_apiserver(client, settings(tmp_path)) as apiserver:
        prefix = "cilium/state/services/v1/"
        found: list[str] = []
        pages, after = 0, ""
        while True:
            page = (await ask(apiserver, "kv", prefix=prefix, after=after, limit=2, keys_only=True)).json()
            assert all("value" not in entry for entry in page["entries"])
            found += [entry["key"] for entry in page["entries"]]
            pages += 1
            if not page["more"]:
                break
            after = found[-1]
        assert found == [f"{prefix}koornacht/shop/cart-{number}" for number in range(5)]
        assert pages == 3
        one = (await ask(apiserver, "kv/get", key=found[0])).json()
        assert json.loads(base64.b64decode(one["value"]))["name"] == "cart-0"
        assert int(one["lease"], 16) > 0


async def test_only_the_meshs_keys_are_shown_and_nothing_is_written(
    client: KubeClient, shop: Workloads, tmp_path: Path
) -> None:
    async with run_apiserver(client, settings(tmp_path)) as apiserver:
        assert (await ask(apiserver, "kv", prefix="")).status_code == 400
        assert (await ask(apiserver, "kv/get", key="/registry/secrets/x")).status_code == 400
        assert (await ask(apiserver, "kv/watch", prefix="cil")).status_code == 400
        assert (await ask(apiserver, "kv/get", key="cilium/state/none")).status_code == 404
        assert (await ask(apiserver, "kv", limit=1_000_000)).status_code == 400
        async with rest(apiserver) as http:
            for method in ("PUT", "POST", "DELETE"):
                assert (
                    await http.request(method, "/v1/kv/get", params={"key": "cilium/.heartbeat"})
                ).status_code == 405


async def test_a_watch_tells_what_is_there_and_then_every_change(
    client: KubeClient, shop: Workloads, tmp_path: Path
) -> None:
    async with run_apiserver(client, settings(tmp_path)) as apiserver, rest(apiserver) as http:
        await until(lambda: apiserver.status_port != 0)
        stream = events(http, "cilium/state/services/v1/")
        async with asyncio.timeout(10):
            first = [await anext(stream) for _ in range(6)]
            assert [event["event"] for event in first] == ["listed"] * 6
            assert [event.get("key", "").rpartition("/")[2] for event in first] == [f"cart-{n}" for n in range(5)] + [
                ""
            ]
            shop.service("cart-9", annotations={"service.cilium.io/global": "true"})
            change = await anext(stream)
            assert (change["event"], change["key"]) == ("put", "cilium/state/services/v1/koornacht/shop/cart-9")
            shop.remove("services", "cart-9")
            assert (await anext(stream))["event"] == "delete"
            await stream.aclose()  # type: ignore[attr-defined]


async def test_readers_who_go_away_make_room_for_others(
    client: KubeClient, shop: Workloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_api, "MAX_WATCHES", 1)
    monkeypatch.setattr(kv_api, "ALIVE_S", 0.02)
    async with run_apiserver(client, settings(tmp_path)) as apiserver:
        await until(lambda: apiserver.status_port != 0)
        for _ in range(3):
            async with rest(apiserver) as http:
                for _ in range(200):
                    async with http.stream("GET", "/v1/kv/watch", params={"prefix": "cilium/"}) as reply:
                        if reply.status_code == 200:
                            await anext(reply.aiter_lines())
                            assert (await ask(apiserver, "kv/watch", prefix="cilium/")).status_code == 429
                            break
                    await asyncio.sleep(0.01)
                else:
                    raise AssertionError("the watch of a reader who left was never given back")
