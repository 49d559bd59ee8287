# SPDX-License-Identifier: Apache-2.0
"""What operators see and do: status, metrics, rotated certificates, broken files, stopping."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509

from certs import profile
from certs.authority import Authority
from clustermesh_apiserver.apiserver import Apiserver
from clustermesh_apiserver.status.program_status import LOSS_SAID_S, lease_problems
from clustermesh_cli.mesh_health import assess
from kube.client import KubeClient, in_thread
from kube.resource import from_manifest
from kvstore.process import EtcdCertificates, EtcdProcess, EtcdSettings
from meshapi.agent import AgentStatus
from meshapi.apiserver import decode_apiserver
from meshapi.installed import TOKEN_AUDIENCE, TOKEN_HEADER, VIEWER
from meshapi.row import encode
from meshmodel.keys import Kind
from tests.integration.apiserver.apiserver_world import (
    OWN,
    Pki,
    all_keys,
    connect,
    rest,
    run_apiserver,
    settings,
    until,
)
from tests.integration.apiserver.workloads import Workloads
from tests.integration.kvstore.private_etcd import fill
from tests.support.openapi import check_typed
from tests.support.viewer import viewer_manifests


async def get(apiserver: Apiserver, path: str) -> httpx.Response:
    await until(lambda: apiserver.status_port != 0)
    async with rest(apiserver) as http:
        return await http.get(path)


async def test_the_status_says_what_is_published_and_by_whom_it_is_read(
    client: KubeClient, workloads: Workloads, pki: Pki, tmp_path: Path
) -> None:
    workloads.namespace("shop")
    workloads.node("n1", "127.0.0.1", "10.1.1.0/24")
    workloads.service("cart", annotations={"service.cilium.io/global": "true"})
    async with run_apiserver(client, settings(tmp_path)) as apiserver, connect(apiserver, pki.peer_tls()) as peer:
        watching = asyncio.ensure_future(anext(peer.list_and_watch(b"cilium/state/nodes/v1/koornacht/")))
        await watching
        asked_s = time.time()
        status = decode_apiserver((await get(apiserver, "/v1/status")).content)
        assert asked_s <= status.now <= time.time()
        assert (status.cluster, status.cluster_id, status.ready, status.source) == (OWN, 1, True, "pods")
        kinds = {"nodes": 1, "identities": 0, "ip": 0, "services": 1, "endpointslices": 0, "serviceexports": 0}
        assert status.published == kinds
        assert all(status.synced.values())
        assert status.etcd_version.count(".") == 2
        assert status.certificate_not_after > time.time()
        assert status.agents == []
        assert (await get(apiserver, "/healthz")).status_code == 200
        ready = await get(apiserver, "/readyz?verbose")
        assert ready.status_code == 200
        assert "[+] publish" in ready.text
        records = (await get(apiserver, "/v1/services?ns=shop")).json()
        assert [(record["service"], record["record"]["shared"]) for record in records] == [("shop/cart", True)]
        assert (await get(apiserver, "/v1/services?ns=other")).json() == []
        assert [entry["role"] for entry in (await get(apiserver, "/v1/certs")).json()] == [
            "server",
            "authority of koornacht",
            "authority of tion",
        ]
        assert (await get(apiserver, "/v1/clusters")).json() == []
        unreached = (await get(apiserver, "/v1/reach?host=127.0.0.1&port=1&name=x&ca=none")).json()
        assert unreached["problem"] == "unknown-ca"
        assert (await get(apiserver, "/v1/reach?host=x&port=99999&name=x&ca=none")).status_code == 400
        assert "shop/cart ServiceIntent" in (await get(apiserver, "/v1/tables")).text
        metrics = (await get(apiserver, "/metrics")).text
        assert 'clustermesh_apiserver_records_published{scope="services/v1",source_cluster="koornacht"} 1.0' in metrics
        assert 'kvstore_initial_sync_completed{action="write",scope="ip/v1",source_cluster="koornacht"} 1.0' in metrics
        assert 'certificate_expiry_timestamp_seconds{cluster="koornacht",kind="server"}' in metrics
        assert 'clustermesh_apiserver_facade_limited_total{user="remote-tion"} 0.0' in metrics
        assert "clustermesh_apiserver_etcd_size_bytes" in metrics
        paths = (await get(apiserver, "/openapi.json")).json()["paths"]
        assert {"/healthz", "/readyz", "/metrics", "/v1/status", "/v1/clusters", "/v1/services", "/v1/certs"} <= set(
            paths
        )


async def test_a_lease_that_somebody_revokes_is_counted_and_told_for_a_while(
    client: KubeClient, workloads: Workloads, pki: Pki, tmp_path: Path
) -> None:
    """Peers take its records for deleted until they are written again, and nothing on their side says why."""
    workloads.node("n1", "127.0.0.1", "10.1.1.0/24")
    async with run_apiserver(client, settings(tmp_path)) as apiserver:
        assert apiserver.publication is not None
        session, store = apiserver.publication.publisher.session, apiserver.publication.store.client
        (lease,) = session.leases
        await store.revoke(lease)
        await session.refresh()
        assert session.losses == 1
        assert "clustermesh_apiserver_kvstore_leases_lost_total 1.0" in (await get(apiserver, "/metrics")).text
        said = decode_apiserver((await get(apiserver, "/v1/status")).content).problems
        assert session.early_loss is not None
        keys = session.early_loss.keys
        assert keys > 5, "the record, the configuration, the heartbeat and the canaries"
        assert [
            text for text in said if text.startswith(f"a lease under {keys} records of this cluster ended early ")
        ], said
        late_s = session.early_loss.at_s + LOSS_SAID_S
        sessions = apiserver.publication.sessions()
        assert (len(lease_problems(sessions, late_s - 1)), lease_problems(sessions, late_s)) == (1, [])


async def test_over_the_network_a_token_of_our_audience_opens_what_is_not_health_or_metrics(
    client: KubeClient, pki: Pki, tmp_path: Path
) -> None:
    for manifest in viewer_manifests("kube-system"):
        await in_thread(client.apply, from_manifest(manifest), manifest)
    make, both = client.service_account_token, (TOKEN_AUDIENCE, "https://kubernetes.default.svc")
    tokens = [await in_thread(make, "kube-system", VIEWER, audience=name, lifetime_s=600) for name in both]
    for_us, for_kubernetes = ({TOKEN_HEADER: token} for token in tokens)
    async with run_apiserver(client, settings(tmp_path)) as apiserver:
        await until(lambda: apiserver.status_port != 0)
        base = f"http://127.0.0.1:{apiserver.status_port}"
        async with httpx.AsyncClient(trust_env=False, base_url=base) as http:
            document = (await http.get("/openapi.json", headers=for_us)).json()
            assert len(document["paths"]) > 8
            check_typed(document)
            for path in document["paths"]:
                codes = [(await http.get(path, headers=h)).status_code for h in ({}, for_kubernetes)]
                is_open = path in ("/healthz", "/readyz", "/metrics")
                assert codes == ([200, 200] if is_open else [401, 401]), path
            assert (await http.get("/v1/status", headers=for_us)).status_code == 200


async def test_without_certificates_it_says_so_and_goes_on_when_they_come(
    client: KubeClient, workloads: Workloads, pki: Pki, tmp_path: Path
) -> None:
    (tmp_path / "server" / "tls.crt").unlink()
    async with run_apiserver(client, settings(tmp_path), ready=False) as apiserver:
        await until(lambda: apiserver.publication is not None and apiserver.publication.publisher.is_synced)
        answer = await get(apiserver, "/readyz?verbose")
        assert answer.status_code == 503
        assert "no certificate, key and authority in" in answer.text
        pki.write_server()
        await until(lambda: apiserver.facade_server.facade is not None)
        assert (await get(apiserver, "/readyz")).status_code == 200


@pytest.mark.runbook("agent-silent")
async def test_all_agents_are_asked_at_once_and_a_silent_one_costs_its_limit_only(
    client: KubeClient, workloads: Workloads, pki: Pki, tmp_path: Path
) -> None:
    async with agents("127.0.0.1", "127.0.0.2") as port:
        for index in (1, 2, 3, 4):
            workloads.node(f"n{index}", f"127.0.0.{index}", f"10.1.{index}.0/24")
        silent = [socket.create_server((f"127.0.0.{index}", port), backlog=1) for index in (3, 4)]
        (tmp_path / "agent-token").write_text("apiserver-token\n")
        async with run_apiserver(client, settings(tmp_path, agent_status_port=port)) as apiserver:
            began = time.monotonic()
            status = decode_apiserver((await get(apiserver, "/v1/status?nodes=true")).content)
            assert time.monotonic() - began < 3.5
        for sock in silent:
            sock.close()
    assert [(agent.node, agent.ready) for agent in status.agents] == [
        ("n1", True), ("n2", True), ("n3", False), ("n4", False)
    ]  # fmt: skip
    assert "did not answer" in status.agents[3].problems[0]


async def test_a_new_certificate_is_shown_to_the_next_client(
    client: KubeClient, workloads: Workloads, pki: Pki, tmp_path: Path
) -> None:
    """T15."""
    async with run_apiserver(client, settings(tmp_path)) as apiserver, connect(apiserver, pki.peer_tls()) as old:
        first = await asyncio.to_thread(_serial, apiserver.facade_server.port)
        pki.write_server()
        wanted = x509.load_pem_x509_certificate((tmp_path / "server" / "tls.crt").read_bytes()).serial_number
        assert wanted != first
        for _ in range(200):
            if await asyncio.to_thread(_serial, apiserver.facade_server.port) == wanted:
                break
            await asyncio.sleep(0.02)
        else:
            pytest.fail("the old certificate is still shown")
        assert await old.get(b"cilium/cluster-config/koornacht") is not None


async def test_a_broken_users_file_changes_nobodys_access_and_is_shown(
    client: KubeClient, workloads: Workloads, pki: Pki, tmp_path: Path
) -> None:
    async with run_apiserver(client, settings(tmp_path)) as apiserver, connect(apiserver, pki.peer_tls()) as peer:
        (tmp_path / "users" / "users.yaml").write_text("users: {remote-tion")
        await until(lambda: any("users.yaml" in problem for problem in apiserver.facade_server.problems))
        assert await peer.get(b"cilium/cluster-config/koornacht") is not None
        assert any("users.yaml" in problem for problem in (await get(apiserver, "/v1/status")).json()["problems"])
        pki.write_users("remote-tion")
        await until(lambda: not apiserver.facade_server.problems)


async def test_a_peer_that_is_trusted_later_gets_in_without_a_restart(
    client: KubeClient, workloads: Workloads, pki: Pki, tmp_path: Path
) -> None:
    other = Authority.create("hoth-ca", time.time(), 2)
    async with run_apiserver(client, settings(tmp_path)) as apiserver:
        (tmp_path / "bundle" / "hoth.crt").write_bytes(other.certificate_pem)
        pki.write_users("remote-hoth")
        await until(lambda: "authority of hoth" in [role for role, _ in apiserver.facade_server.certificates()])
        await until(
            lambda: apiserver.facade_server.grant(other.issue(profile.remote("hoth"), time.time()).cert_pem) is not None
        )
        async with connect(apiserver, pki.tls(other, profile.remote("hoth"))) as peer:
            assert await peer.get(b"cilium/cluster-config/koornacht") is not None


async def test_the_program_stops_quickly_on_sigterm_and_leaves_every_key(
    client: KubeClient, workloads: Workloads, pki: Pki, tmp_path: Path
) -> None:
    """With an etcd run by others, through the command line."""
    workloads.namespace("shop")
    workloads.node("n1", "172.18.0.3", "10.1.1.0/24")
    workloads.service("cart", annotations={"service.cilium.io/global": "true"})
    async with foreign_etcd(tmp_path) as (etcd, config):
        process = await asyncio.create_subprocess_exec(*command(tmp_path, config), stderr=asyncio.subprocess.PIPE)
        backend = etcd.connect()
        try:
            for _ in range(1000):
                found = await all_keys(backend, b"cilium/")
                if len([key for key in found if b"/synced/" in key]) == len(Kind):
                    break
                assert process.returncode is None, (await process.communicate())[1].decode()
                await asyncio.sleep(0.02)
            else:
                pytest.fail(f"not all kinds were published: {sorted(found)}")
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            _, err = await asyncio.wait_for(process.communicate(), 10)
            assert time.monotonic() - began < 5
            assert process.returncode == 0, err.decode()
            assert b"Traceback" not in err, err.decode()
            left = await all_keys(backend, b"cilium/")
            assert b"cilium/state/services/v1/koornacht/shop/cart" in left
            assert set(found) <= set(left)
        finally:
            await backend.close()
            if process.returncode is None:
                process.kill()


def command(folder: Path, etcd_config: Path) -> list[str]:
    flags: dict[str, Any] = {
        "cluster-name": OWN,
        "cluster-id": 1,
        "kubeconfig": folder / "kubeconfig",
        "etcd-config": etcd_config,
        "server-cert-dir": folder / "server",
        "ca-bundle-dir": folder / "bundle",
        "users-file": folder / "users" / "users.yaml",
        "listen-address": "127.0.0.1",
        "listen-port": 0,
        "status-address": "127.0.0.1",
        "status-port": 0,
        "status-socket": folder / "status.sock",
        "probe-port": 0,
    }
    return [
        sys.executable,
        "-m",
        "clustermesh_apiserver.start",
        *(f"--{name}={value}" for name, value in flags.items()),
    ]


@contextlib.asynccontextmanager
async def foreign_etcd(folder: Path) -> AsyncIterator[tuple[EtcdProcess, Path]]:
    """An etcd that somebody else runs, and the client file for it."""
    authority = Authority.create("etcd", time.time(), 2)
    server = authority.issue(profile.server(OWN, "kube-system"), time.time())
    admin = authority.issue(profile.admin(OWN), time.time())
    made = EtcdCertificates(authority.certificate_pem, server.cert_pem, server.key_pem, admin.cert_pem, admin.key_pem)
    process = EtcdProcess(folder / "etcd", made, EtcdSettings(heartbeat_ms=20, election_ms=200))
    await process.start()
    for name, content in (("ca.crt", made.ca), ("c.crt", made.admin_cert), ("c.key", made.admin_key)):
        (folder / f"etcd-{name}").write_bytes(content)
    config = folder / "etcd.yaml"
    config.write_text(
        f"endpoints: ['https://{process.target}']\n"
        "trusted-ca-file: etcd-ca.crt\ncert-file: etcd-c.crt\nkey-file: etcd-c.key\n"
    )
    try:
        yield process, config
    finally:
        await process.kill()


@contextlib.asynccontextmanager
async def agents(*addresses: str) -> AsyncIterator[int]:
    """An agent's status server on each address, all on one port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"x-clustermesh-token: apiserver-token\r\n" in await reader.readuntil(b"\r\n\r\n")
        node = "n" + writer.get_extra_info("sockname")[0].rsplit(".", 1)[1]
        body = encode(AgentStatus(node=node, cluster=OWN, cluster_id=1, ready=True))
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    first = await asyncio.start_server(answer, addresses[0], 0)
    port = first.sockets[0].getsockname()[1]
    servers = [first, *[await asyncio.start_server(answer, address, port) for address in addresses[1:]]]
    try:
        yield port
    finally:
        for server in servers:
            server.close()


def _serial(port: int) -> int:
    return x509.load_pem_x509_certificate(ssl.get_server_certificate(("127.0.0.1", port)).encode()).serial_number


async def test_a_store_that_ran_full_takes_records_again_by_itself(
    client: KubeClient, workloads: Workloads, pki: Pki, tmp_path: Path
) -> None:
    """Somebody fills the store's history; what Kubernetes says afterwards is published without a hand."""
    workloads.namespace("shop")
    async with run_apiserver(client, settings(tmp_path, etcd_quota_mib=2)) as apiserver:
        assert apiserver.publication is not None
        store = apiserver.publication.store
        assert store.caretaker is not None
        await fill(store.client, b"flood/", keys=1)
        workloads.service("cart", annotations={"service.cilium.io/global": "true"})
        key = b"cilium/state/services/v1/koornacht/shop/cart"
        async with connect(apiserver, pki.peer_tls()) as peer:
            for _ in range(1500):
                if await peer.get(key) is not None:
                    break
                await asyncio.sleep(0.02)
            assert await peer.get(key) is not None
        assert (store.caretaker.disarmed, store.problem) == (1, "")
        status = decode_apiserver((await get(apiserver, "/v1/status")).content)
        assert (status.ready, status.health["store"]) == (True, "ok")


@pytest.mark.runbook("etcd-full")
async def test_a_store_that_is_really_full_says_so_and_is_read_on(
    client: KubeClient, workloads: Workloads, pki: Pki, tmp_path: Path
) -> None:
    async with run_apiserver(client, settings(tmp_path, etcd_quota_mib=2)) as apiserver:
        assert apiserver.publication is not None
        store = apiserver.publication.store
        for attempt in range(
            8
        ):  # room that is made meanwhile is filled too; the next attempt to make some is a minute later
            await fill(store.client, b"flood%d/" % attempt, keys=1000)
            with contextlib.suppress(AssertionError):
                await until(lambda: "takes no records" in store.problem, limit_s=5)
                break
        status = decode_apiserver((await get(apiserver, "/v1/status")).content)
        assert (status.ready, status.health["store"]) == (True, "degraded")
        (problem,) = (problem for problem in status.problems if problem.startswith("store: "))
        assert "takes no records" in problem
        verdict = assess(status, expected_peers={}, expected_agents=0, now_s=time.time())
        assert verdict.problems == (problem,), "the command says so too, and its exit code is not 0"
        async with connect(apiserver, pki.peer_tls()) as peer:
            assert await peer.get(b"cilium/cluster-config/koornacht") is not None
