# SPDX-License-Identifier: Apache-2.0
"""The clustermesh-agent process on a Kubernetes API and two real etcds; only the kernel is a stand-in."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from agent.observe.routes import MAX_FOLLOWERS
from kube.client import in_thread
from kube.resource import CNP, EVENTS, NODES, from_manifest
from meshapi.installed import TOKEN_AUDIENCE, TOKEN_HEADER, VIEWER
from tests.integration.agent.agent_process_world import LOCAL_IDENTITY, REMOTE_IDENTITY, world
from tests.integration.kvstore.private_etcd import needs_etcd
from tests.support.openapi import check_typed
from tests.support.viewer import viewer_manifests

pytestmark = needs_etcd


async def test_the_agent_follows_services_peers_and_policies(tmp_path: Path) -> None:
    async with world(tmp_path) as mesh:
        agent = mesh.agent
        await mesh.service()
        await mesh.backends("10.1.0.5")
        await mesh.used("10.1.0.5:8080")
        await agent.until("/readyz", lambda text: text.startswith("Ready"))
        assert (await agent.get("/v1/status"))["peers"] == []

        await mesh.connect()
        await agent.until("/v1/clusters", lambda peers: [p["name"] for p in peers if p["ready"]] == ["south"])
        await mesh.used("10.1.0.5:8080")
        await mesh.service(**{"service.cilium.io/global": "true"})
        await mesh.used("10.1.0.5:8080", "10.2.0.5:9090")
        await mesh.service(**{"service.cilium.io/global": "true", "service.cilium.io/affinity": "local"})
        await mesh.used("10.1.0.5:8080")
        await mesh.backends()
        await mesh.used("10.2.0.5:9090")
        await mesh.peer.service("10.2.0.5", "10.2.0.6")
        await mesh.used("10.2.0.5:9090", "10.2.0.6:9090")

        own = await agent.get("/v1/clusters/north")
        assert own["ready"]
        assert own["num-endpoints"] == 1
        whose = await agent.get("/v1/ip/10.2.0.5")
        assert (whose["identity"], whose["tunnel"], whose["cluster"]) == (REMOTE_IDENTITY, "172.18.0.8", "south")
        assert {i["id"] for i in await agent.get("/v1/identities")} == {LOCAL_IDENTITY, REMOTE_IDENTITY}
        code, text = await agent.verb("service", "list", "--clustermesh-affinity")
        assert code == 0
        assert "10.2.0.6:9090 (active) (preferred)" in text
        assert "south" in text
        code, text = await agent.verb("table", "show", "services")
        assert code == 0
        assert "  default/echo  name=default/echo " in text
        assert (await agent.verb("table", "show"))[1].startswith("backends (")
        code, text = await agent.verb("table", "show", "service")
        assert (code, text) == (1, "")
        code, text = await agent.verb("status")
        assert code == 0, text
        assert "1/1 remote clusters ready" in text
        code, text = await agent.verb("bpf", "ipcache", "list")
        assert "10.2.0.5/32" in text

        (mesh.peers / "south").unlink()
        await agent.until("/v1/clusters", lambda peers: peers == [])
        await mesh.used()
        assert "10.2.0.5/32" not in (await agent.verb("bpf", "ipcache", "list"))[1]


@pytest.mark.parametrize("ahead_s", [-600.0, 600.0])
async def test_a_clock_that_is_wrong_by_ten_minutes_changes_nothing(tmp_path: Path, ahead_s: float) -> None:
    """Neither what is known of clusters nor what is said of their age is judged by another machine's clock."""
    async with world(tmp_path) as mesh:
        agent = mesh.agent
        await agent.stop()
        agent.clock_ahead_s = ahead_s
        await agent.start()
        await mesh.service(**{"service.cilium.io/global": "true"})
        await mesh.backends("10.1.0.5")
        await mesh.connect()
        await mesh.used("10.1.0.5:8080", "10.2.0.5:9090")
        (peer,) = await agent.until("/v1/clusters", lambda peers: [p["name"] for p in peers if p["ready"]] == ["south"])
        assert 0 <= peer["age"] < 60
        assert peer["records-rejected"] == {}
        status = await agent.get("/v1/status")
        assert abs(status["now"] - time.time() - ahead_s) < 60
        assert [text for text in status["problems"] if "no interface found" not in text] == []  # there is no kernel


async def test_a_policy_that_does_not_parse_is_refused_on_the_object_and_affects_nothing_else(tmp_path: Path) -> None:
    async with world(tmp_path) as mesh:
        good = {
            "metadata": {"name": "good", "namespace": "default"},
            "spec": {"endpointSelector": {}, "ingress": [{"fromEntities": ["cluster"]}]},
        }
        bad = {"metadata": {"name": "bad", "namespace": "default"}, "spec": {"endpointSelector": {}, "ingress": []}}
        await in_thread(mesh.kube.apply, CNP, good)
        await in_thread(mesh.kube.apply, CNP, bad)
        answer = await mesh.agent.until("/v1/policy", lambda a: len(a["policies"]) == 2)
        assert {p["name"]: p["valid"] for p in answer["policies"]} == {"good": True, "bad": False}
        deadline = time.monotonic() + 20
        while True:
            found = {name: await in_thread(mesh.kube.get, CNP, name, "default") for name in ("good", "bad")}
            status = {n: (o or {}).get("status", {}).get("conditions", [{}])[0].get("status") for n, o in found.items()}
            if status == {"good": "True", "bad": "False"}:
                break
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.05)
        events = await in_thread(mesh.kube.list, EVENTS, "default")
        assert [e["involvedObject"]["name"] for e in events] == ["bad"]
        asked_s = time.time()
        status_answer = await mesh.agent.get("/v1/status")
        assert asked_s <= status_answer["now"] <= time.time()
        assert any("bad refused" in problem for problem in status_answer["problems"])


async def test_a_dead_peer_does_not_keep_the_agent_from_being_ready(tmp_path: Path) -> None:
    async with world(tmp_path) as mesh:
        await mesh.agent.stop()
        (mesh.peers / "dead").write_bytes(b"endpoints:\n- http://127.0.0.1:1\n")
        (mesh.peers / "broken").write_bytes(b"endpoints: 7\n")
        mesh.agent.arguments += ["--sync-timeout-s", "3"]
        await mesh.agent.start()
        text = await mesh.agent.until("/readyz?verbose", lambda t: "Ready" in t and "Not ready" not in t)
        assert "peer dead" in text
        peers = {p["name"]: p for p in await mesh.agent.get("/v1/clusters")}
        assert peers["broken"]["state"] == "refused"
        assert "endpoints" in peers["broken"]["reason"]
        assert await mesh.agent.stop() == 0


@pytest.mark.parametrize("argument", ["--help", "--print-config", "--version"])
async def test_the_command_explains_itself(argument: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent.app", argument, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert out


@pytest.mark.runbook("rest-401")
async def test_over_the_network_a_token_of_our_audience_opens_what_is_not_health_or_metrics(tmp_path: Path) -> None:
    async with world(tmp_path) as mesh:
        await mesh.agent.until("/readyz", lambda text: text.startswith("Ready"))
        for manifest in viewer_manifests("kube-system"):
            await in_thread(mesh.kube.apply, from_manifest(manifest), manifest)
        make, both = mesh.kube.service_account_token, (TOKEN_AUDIENCE, "https://kubernetes.default.svc")
        tokens = [await in_thread(make, "kube-system", VIEWER, audience=name, lifetime_s=600) for name in both]
        for_us, for_kubernetes = ({TOKEN_HEADER: token} for token in tokens)
        document = await mesh.agent.get("/openapi.json")
        assert len(document["paths"]) > 15
        check_typed(document)
        async with httpx.AsyncClient(trust_env=False, base_url=f"http://127.0.0.1:{mesh.agent.port}") as http:
            for path in document["paths"]:
                codes = [(await http.get(path, headers=headers)).status_code for headers in ({}, for_kubernetes)]
                is_open = path in ("/healthz", "/readyz", "/metrics")
                assert codes == ([200, 200] if is_open else [401, 401]), path
            assert (await http.get("/v1/status", headers=for_us)).json()["cluster"] == "north"
            assert (await http.get("/v1/services?n=x", headers=for_us)).json()["message"].endswith("cluster, ns")
            metrics = (await http.get("/metrics")).text
        assert "clustermesh_agent_remote_clusters 0.0" in metrics
        assert "echo" not in metrics


@pytest.mark.runbook("rest-429")
async def test_followers_are_bounded_and_give_their_places_back(tmp_path: Path) -> None:
    async with world(tmp_path) as mesh:
        await mesh.agent.until("/readyz", lambda text: text.startswith("Ready"))
        transport = httpx.AsyncHTTPTransport(uds=str(mesh.agent.folder / "agent.sock"))
        async with httpx.AsyncClient(transport=transport, base_url="http://agent", timeout=10) as http:
            for _ in range(2):
                async with AsyncExitStack() as stack:
                    for _ in range(MAX_FOLLOWERS):
                        follower = http.stream("GET", "/v1/flows?follow=true")
                        assert (await stack.enter_async_context(follower)).status_code == 200
                    refused = await http.get("/v1/flows?follow=true")
                    assert (refused.status_code, "followers" in refused.json()["message"]) == (429, True)
                    assert (await http.get("/v1/flows")).status_code == 200


@pytest.mark.runbook("no-interface")
async def test_an_edited_node_object_is_followed_with_its_address(tmp_path: Path) -> None:
    async with world(tmp_path) as mesh:
        await mesh.agent.until("/v1/status", lambda status: status["ready"])
        for address, cidr in (("127.0.0.77", "10.1.77.0/24"), ("127.0.0.1", "10.1.78.0/24")):
            await in_thread(mesh.kube.apply, NODES, {"metadata": {"name": "n1"}, "spec": {"podCIDRs": [cidr]}})
            status = {"addresses": [{"type": "InternalIP", "address": address}]}
            await in_thread(mesh.kube.patch_status, NODES, "n1", status)
            await mesh.agent.until("/v1/ips", lambda rows, cidr=cidr: any(row["cidr"] == cidr for row in rows))
            await until_healthy(f"http://{address}:{mesh.agent.port}")
            problems = (await mesh.agent.get("/v1/status"))["problems"]
            assert problems == ["pod 10.1.0.5: no interface found on this node"]


async def until_healthy(url: str) -> None:
    """Raises: TimeoutError when nothing answers there in time."""
    async with asyncio.timeout(20), httpx.AsyncClient(trust_env=False, base_url=url) as http:
        while True:
            try:
                if (await http.get("/healthz")).status_code == 200:
                    return
            except httpx.ConnectError:
                await asyncio.sleep(0.05)
