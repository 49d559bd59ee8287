# SPDX-License-Identifier: Apache-2.0
"""The API as client libraries see it: authentication, lists, watches, proxies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from certs.authority import Authority
from lab.devkube.api.cluster import Cluster
from lab.devkube.api.objects import Obj
from lab.devkube.api.server import ApiServer
from tests.integration.devkube.fake_workloads import FakeRuntime
from tests.integration.devkube.harness import TOKEN, Served, eventually, serve

MAPS = "/api/v1/namespaces/default/configmaps"


@contextlib.asynccontextmanager
async def client_of(
    served: Served, *, token: str = TOKEN, certificate: bool = False
) -> AsyncIterator[httpx.AsyncClient]:
    context = ssl.create_default_context(cafile=str(served.ca))
    if certificate:
        context.load_cert_chain(served.client_certificate, served.client_key)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    async with httpx.AsyncClient(base_url=served.url, verify=context, headers=headers, timeout=10) as client:
        yield client


@pytest.fixture
async def client(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(served) as made:
        yield made


class Lines:
    """Events of one watch, read one at a time."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def next(self) -> tuple[str, Obj]:
        async with asyncio.timeout(10):
            event = json.loads(await anext(self._lines))
        return event["type"], event["object"]


@contextlib.asynccontextmanager
async def watching(client: httpx.AsyncClient, path: str, **parameters: Any) -> AsyncIterator[Lines]:
    async with client.stream("GET", path, params={"watch": "true", **parameters}) as response:
        assert response.status_code == 200
        yield Lines(response)


def config_map(name: str, **labels: str) -> Obj:
    return {"metadata": {"name": name, "labels": labels}, "data": {"a": "b"}}


async def revision(client: httpx.AsyncClient) -> str:
    listed = (await client.get(MAPS)).json()
    return str(listed["metadata"]["resourceVersion"])


async def test_nobody_gets_in_without_a_credential(served: Served) -> None:
    async with client_of(served, token="") as stranger:
        refused = await stranger.get("/api/v1/namespaces")
        assert refused.status_code == 401
        assert refused.json()["reason"] == "Unauthorized"
        assert (await stranger.get("/readyz")).text == "ok"
        assert "dev" in (await stranger.get("/version")).json()["gitVersion"]
    async with client_of(served, token="guess") as stranger:
        assert (await stranger.get("/api/v1/namespaces")).status_code == 401


async def test_a_client_certificate_names_its_user(served: Served) -> None:
    async with client_of(served, token="", certificate=True) as jyn:
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        answer = await jyn.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", json=review)
        assert answer.json()["status"]["userInfo"]["username"] == "jyn"


async def test_a_service_account_token_works_until_the_account_is_removed(served: Served) -> None:
    served.cluster.create("serviceaccounts", {"metadata": {"name": "droid", "namespace": "default"}})
    token = served.cluster.service_account_token("default", "droid")
    async with client_of(served, token=token) as droid:
        assert (await droid.get(MAPS)).status_code == 200
        served.cluster.delete("serviceaccounts", "droid", "default")
        assert (await droid.get(MAPS)).status_code == 401


async def test_pages_cover_the_list_once(client: httpx.AsyncClient) -> None:
    for number in range(7):
        await client.post(MAPS, json=config_map(f"page-{number}", paged="yes"))
    seen: list[str] = []
    parameters: dict[str, Any] = {"limit": 3, "labelSelector": "paged=yes"}
    while True:
        page = (await client.get(MAPS, params=parameters)).json()
        seen += [item["metadata"]["name"] for item in page["items"]]
        if "continue" not in page["metadata"]:
            break
        parameters["continue"] = page["metadata"]["continue"]
    assert seen == [f"page-{number}" for number in range(7)]


async def test_deleting_a_collection_takes_the_selected_ones(client: httpx.AsyncClient) -> None:
    await client.post(MAPS, json=config_map("doomed", doomed="yes"))
    await client.post(MAPS, json=config_map("spared"))
    deleted = (await client.delete(MAPS, params={"labelSelector": "doomed=yes"})).json()
    assert [item["metadata"]["name"] for item in deleted["items"]] == ["doomed"]
    assert (await client.get(f"{MAPS}/spared")).status_code == 200


async def test_a_watch_replays_what_its_list_did_not_contain(client: httpx.AsyncClient) -> None:
    since = await revision(client)
    await client.post(MAPS, json=config_map("replayed"))
    await client.patch(
        f"{MAPS}/replayed", json={"data": {"a": "c"}}, headers={"content-type": "application/merge-patch+json"}
    )
    async with watching(client, MAPS, resourceVersion=since, fieldSelector="metadata.name=replayed") as lines:
        assert (await lines.next())[0] == "ADDED"
        kind, changed = await lines.next()
        assert (kind, changed["data"]) == ("MODIFIED", {"a": "c"})
        await client.delete(f"{MAPS}/replayed")
        kind, gone = await lines.next()
        assert kind == "DELETED"
        assert int(gone["metadata"]["resourceVersion"]) > int(changed["metadata"]["resourceVersion"])


async def test_an_object_that_leaves_the_selection_is_deleted_from_the_watch(client: httpx.AsyncClient) -> None:
    since = await revision(client)
    async with watching(client, MAPS, resourceVersion=since, labelSelector="side=light") as lines:
        await client.post(MAPS, json=config_map("anakin", side="light"))
        assert (await lines.next())[0] == "ADDED"
        patch = {"metadata": {"labels": {"side": "dark"}}}
        merge = {"content-type": "application/merge-patch+json"}
        turned = (await client.patch(f"{MAPS}/anakin", json=patch, headers=merge)).json()
        kind, last = await lines.next()
        assert (kind, last["metadata"]["labels"]) == ("DELETED", {"side": "light"})
        assert last["metadata"]["resourceVersion"] == turned["metadata"]["resourceVersion"]


async def test_a_write_that_changes_nothing_makes_no_event(client: httpx.AsyncClient) -> None:
    stored = (await client.post(MAPS, json=config_map("quiet"))).json()
    async with watching(client, MAPS, resourceVersion=stored["metadata"]["resourceVersion"]) as lines:
        same = await client.put(f"{MAPS}/quiet", json=stored)
        assert same.json()["metadata"]["resourceVersion"] == stored["metadata"]["resourceVersion"]
        await client.post(MAPS, json=config_map("loud"))
        assert (await lines.next())[1]["metadata"]["name"] == "loud"


async def test_a_stale_write_is_a_conflict(client: httpx.AsyncClient) -> None:
    stored = (await client.post(MAPS, json=config_map("contested"))).json()
    assert (await client.put(f"{MAPS}/contested", json={**stored, "data": {"a": "1"}})).status_code == 200
    late = await client.put(f"{MAPS}/contested", json={**stored, "data": {"a": "2"}})
    assert (late.status_code, late.json()["reason"]) == (409, "Conflict")


async def test_a_watch_of_metadata_has_bookmarks_of_metadata(client: httpx.AsyncClient) -> None:
    """A client that asked for PartialObjectMetadata reads no other kind, and waits for the mark for ever."""
    client.headers["accept"] = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
    await client.post(MAPS, json=config_map("metadata-watch"))
    query = {"allowWatchBookmarks": "true", "sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
    async with watching(client, MAPS, **query) as events:
        kinds = set()
        while True:
            kind, obj = await events.next()
            kinds.add((obj["kind"], obj["apiVersion"]))
            if kind == "BOOKMARK":
                break
    assert kinds == {("PartialObjectMetadata", "meta.k8s.io/v1")}
    assert obj["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_initial_events_end_with_a_marked_bookmark(client: httpx.AsyncClient) -> None:
    await client.post(MAPS, json=config_map("initial", initial="yes"))
    asked = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    async with watching(client, MAPS, labelSelector="initial=yes", **asked) as lines:
        assert (await lines.next())[1]["metadata"]["name"] == "initial"
        kind, mark = await lines.next()
        assert (kind, mark["metadata"]["annotations"]) == ("BOOKMARK", {"k8s.io/initial-events-end": "true"})
    unmatched = await client.get(MAPS, params={"watch": "true", "sendInitialEvents": "true"})
    assert unmatched.status_code == 422


async def test_table_rows_name_their_columns_once(client: httpx.AsyncClient) -> None:
    since = await revision(client)
    accept = {"accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    async with client.stream(
        "GET", MAPS, params={"watch": "true", "resourceVersion": since}, headers=accept
    ) as response:
        lines = Lines(response)
        await client.post(MAPS, json=config_map("tabled"))
        await client.delete(f"{MAPS}/tabled")
        _, first = await lines.next()
        _, second = await lines.next()
    assert [column["name"] for column in first["columnDefinitions"]] == ["Name", "Data", "Age"]
    assert second["columnDefinitions"] is None
    assert first["rows"][0]["cells"][:2] == ["tabled", 1]


async def test_old_revisions_are_gone_and_future_ones_are_refused(authority: Authority, tmp_path: Path) -> None:
    cluster = Cluster("10.96.0.0/16", keep_events=3)
    async with serve(authority, tmp_path, cluster, bookmark_s=0.05) as served, client_of(served) as client:
        since = await revision(client)
        for number in range(5):
            cluster.create("configmaps", {"metadata": {"name": f"m{number}", "namespace": "default"}})
        async with watching(client, MAPS, resourceVersion=since) as lines:
            kind, gone = await lines.next()
            assert (kind, gone["code"], gone["reason"]) == ("ERROR", 410, "Expired")
        async with watching(client, MAPS, resourceVersion=10**9) as lines:
            kind, early = await lines.next()
            assert (kind, early["code"]) == ("ERROR", 504)
        assert (await client.get(MAPS, params={"resourceVersion": 10**9})).status_code == 504
        async with watching(client, MAPS, resourceVersion=await revision(client), allowWatchBookmarks="true") as lines:
            kind, mark = await lines.next()
            assert (kind, mark["metadata"]["resourceVersion"]) == ("BOOKMARK", str(cluster.store.revision))


async def test_a_watch_ends_when_its_time_is_up_or_its_resource_is_gone(
    served: Served, client: httpx.AsyncClient
) -> None:
    ended = await client.get(
        MAPS, params={"watch": "true", "timeoutSeconds": 1, "resourceVersion": await revision(client)}
    )
    assert ended.content == b""
    schema = {"openAPIV3Schema": {"type": "object"}}
    version = {"name": "v1", "served": True, "storage": True, "schema": schema}
    names = {"kind": "Ewok", "plural": "ewoks"}
    spec = {"group": "example.org", "scope": "Cluster", "names": names, "versions": [version]}
    crds = ("customresourcedefinitions", "apiextensions.k8s.io")
    served.cluster.create(crds[0], {"metadata": {"name": "ewoks.example.org"}, "spec": spec}, crds[1])
    async with client.stream("GET", "/apis/example.org/v1/ewoks", params={"watch": "true"}) as response:
        served.cluster.create("ewoks", {"metadata": {"name": "wicket"}}, "example.org")
        lines = Lines(response)
        assert (await lines.next())[0] == "ADDED"
        served.cluster.delete(crds[0], "ewoks.example.org", group=crds[1])
        assert (await lines.next())[0] == "DELETED"
        with pytest.raises(StopAsyncIteration):
            await lines.next()
    assert (await client.get("/apis/example.org/v1/ewoks")).status_code == 404


async def test_an_unfinished_watch_is_forgotten_when_its_client_leaves(
    served: Served, client: httpx.AsyncClient
) -> None:
    before = len(served.cluster.store._subscribers)
    async with watching(client, MAPS, resourceVersion=await revision(client)):
        assert len(served.cluster.store._subscribers) == before + 1
    await eventually(lambda: len(served.cluster.store._subscribers) == before)


async def test_services_and_pods_are_reached_through_the_proxy(served: Served, client: httpx.AsyncClient) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        body = head.split("\r\n", 1)[0].encode() + b" token" * ("authorization" in head.lower())
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nx-kept: yes\r\n\r\n" + body)
        writer.close()

    backend = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = backend.sockets[0].getsockname()[1]
    meta = {"name": "proxied", "namespace": "default"}
    ports = [{"name": "http", "port": 80, "targetPort": port}]
    served.cluster.create("services", {"metadata": meta, "spec": {"ports": ports, "selector": {"a": "b"}}})
    path = "/api/v1/namespaces/default/services/proxied:http/proxy/status"
    assert (await client.get(path)).status_code == 503
    labels = {"kubernetes.io/service-name": "proxied"}
    endpoint_slice = {
        "metadata": {**meta, "labels": labels}, "addressType": "IPv4", "ports": [{"name": "http", "port": port}],
        "endpoints": [{"addresses": ["10.9.9.9"], "conditions": {"ready": True}}],
    }  # fmt: skip
    served.cluster.create("endpointslices", endpoint_slice, "discovery.k8s.io")
    answered = await client.get(path, params={"deep": "yes"})
    assert (answered.text, answered.headers["x-kept"]) == ("GET /status?deep=yes HTTP/1.1", "yes")
    pod = served.cluster.create("pods", {"metadata": meta, "spec": {"containers": [{"name": "c", "image": "nginx:1"}]}})
    await eventually(lambda: (served.cluster.get("pods", "proxied", "default") or pod)["status"].get("podIP"))
    through_pod = await client.get(f"/api/v1/namespaces/default/pods/proxied:{port}/proxy/")
    assert through_pod.text == "GET / HTTP/1.1"
    backend.close()


async def test_stopping_the_server_ends_watches_and_closes_its_sockets(authority: Authority, tmp_path: Path) -> None:
    cluster = Cluster()
    async with serve(authority, tmp_path, cluster) as served, client_of(served) as client:
        async with client.stream("GET", MAPS, params={"watch": "true"}) as response:
            served.server.stop()
            async with asyncio.timeout(1):
                assert [line async for line in response.aiter_lines() if '"ERROR"' in line] == []
    async with client_of(served) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get("/readyz")


async def test_the_server_stays_on_loopback_unless_it_is_handed_sockets() -> None:
    server = ApiServer(Cluster(), FakeRuntime())
    with pytest.raises(ValueError, match="refusing to listen"):
        await server.serve(host="0.0.0.0")


async def test_unreadable_and_unknown_requests_are_refused(client: httpx.AsyncClient) -> None:
    as_json = {"content-type": "application/json"}
    assert (await client.post(MAPS, content=b"{", headers=as_json)).status_code == 400
    assert (await client.post(MAPS, content=b"[]", headers=as_json)).status_code == 400
    assert (await client.get("/api/v1/nonsense")).status_code == 404
    assert (await client.put(MAPS, json={})).status_code == 405
    assert (await client.get(MAPS, params={"labelSelector": "a b c"})).status_code == 400
    wrong_type = {"metadata": {"name": "x"}, "data": {"a": 1}}
    refused = await client.post(MAPS, json=wrong_type)
    assert "cannot unmarshal number" in refused.json()["message"]
    strategic = {"content-type": "application/strategic-merge-patch+json"}
    crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    assert (await client.patch(f"{crds}/none", json={}, headers=strategic)).status_code == 404
