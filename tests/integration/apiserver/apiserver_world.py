# SPDX-License-Identifier: Apache-2.0
"""One cluster with everything real but its workloads: the embedded Kubernetes API, etcd, the facade, certificates."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from certs import profile
from certs.authority import Authority
from clustermesh_apiserver.apiserver import Apiserver
from clustermesh_apiserver.run import make_apiserver, run
from clustermesh_apiserver.settings import ApiserverSettings
from clustermesh_cli.manifests import load_crds
from kube.client import KubeClient, in_thread
from kube.config import load_client
from kube.resource import from_manifest
from kvstore.etcd import EtcdStore
from kvstore.options import Options, Tls
from lab.devkube.api.accounts import ADMIN
from lab.devkube.api.cluster import Cluster
from lab.devkube.api.server import ApiServer, ServerOptions
from tests.integration.devkube.fake_workloads import FakeRuntime

TOKEN = "apiserver-test"
OWN, PEER = "koornacht", "tion"


@contextlib.asynccontextmanager
async def serve_kubernetes(folder: Path) -> AsyncIterator[tuple[Cluster, KubeClient]]:
    """An empty cluster with the product's CRDs, and a client for it."""
    cluster = Cluster("172.20.1.0/24")
    listener = socket.create_server(("127.0.0.1", 0))
    server = ApiServer(cluster, FakeRuntime(), ServerOptions({TOKEN: ADMIN}))
    kubeconfig = folder / "kubeconfig"
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "clusters": [{"name": "c", "cluster": {"server": url}}],
                "users": [{"name": "u", "user": {"token": TOKEN}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "c",
            }
        )
    )
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(server.serve([listener]))
        client = await in_thread(load_client, str(kubeconfig))
        for manifest in load_crds():
            await in_thread(client.apply, from_manifest(manifest), manifest)
        try:
            yield cluster, client
        finally:
            server.stop()
            await serving


@dataclass
class Pki:
    """Our authority and a peer's, and the directories of a pod."""

    folder: Path
    own: Authority = field(default_factory=lambda: Authority.create("own", time.time(), 10))
    peer: Authority = field(default_factory=lambda: Authority.create("peer", time.time(), 10))

    def __post_init__(self) -> None:
        for name in ("server", "bundle", "users"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.write_server()
        (self.folder / "bundle" / f"{PEER}.crt").write_bytes(self.peer.certificate_pem)
        self.write_users(f"remote-{PEER}")

    def write_server(self) -> None:
        made = self.own.issue(profile.server(OWN, "kube-system"), time.time())
        for name, content in (
            ("tls.crt", made.cert_pem),
            ("tls.key", made.key_pem),
            ("ca.crt", self.own.certificate_pem),
        ):
            path = self.folder / "server" / f".{name}"
            path.write_bytes(content)
            path.rename(self.folder / "server" / name)

    def write_users(self, *names: str) -> None:
        text = yaml.safe_dump({"users": [{"name": name, "role": "remote"} for name in names]})
        path = self.folder / "users" / ".users"
        path.write_text(text)
        path.rename(self.folder / "users" / "users.yaml")

    def tls(self, authority: Authority, who: profile.Profile) -> Tls:
        made = authority.issue(who, time.time())
        return Tls(self.own.certificate_pem, made.cert_pem, made.key_pem, f"{OWN}.mesh.cilium.io")

    def peer_tls(self) -> Tls:
        return self.tls(self.peer, profile.remote(PEER))

    def local_tls(self) -> Tls:
        return self.tls(self.own, profile.local(OWN))


def settings(folder: Path, **changes: Any) -> ApiserverSettings:
    values: dict[str, Any] = {
        "cluster_name": OWN,
        "cluster_id": 1,
        "data_dir": folder / "data",
        "server_cert_dir": folder / "server",
        "ca_bundle_dir": folder / "bundle",
        "users_file": folder / "users" / "users.yaml",
        "listen_address": "127.0.0.1",
        "listen_port": 0,
        "status_address": "127.0.0.1",
        "status_port": 0,
        "status_socket": folder / "status.sock",
        "probe_port": 0,
        "agent_token_file": folder / "agent-token",
        **changes,
    }
    return ApiserverSettings(**values)


@contextlib.asynccontextmanager
async def run_apiserver(
    client: KubeClient, chosen: ApiserverSettings, *, ready: bool = True
) -> AsyncIterator[Apiserver]:
    """The program in this process, ready unless told otherwise."""
    apiserver = make_apiserver(chosen, client)
    task = asyncio.create_task(run(apiserver))
    try:
        if ready:
            await until(lambda: is_ready(apiserver) or task.done(), limit_s=20, why=lambda: state(apiserver))
            if task.done():
                task.result()
        yield apiserver
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def rest(apiserver: Apiserver) -> httpx.AsyncClient:
    """A client of the program's unix socket."""
    transport = httpx.AsyncHTTPTransport(uds=str(apiserver.settings.status_socket))
    return httpx.AsyncClient(transport=transport, base_url="http://apiserver", timeout=10)


def is_ready(apiserver: Apiserver) -> bool:
    publication = apiserver.publication
    return publication is not None and publication.publisher.is_synced and apiserver.facade_server.facade is not None


def state(apiserver: Apiserver) -> str:
    stores = apiserver.publication.publisher.stores if apiserver.publication else {}
    written = {kind.value: (store.synced.is_set(), store.pending, store.last_error) for kind, store in stores.items()}
    return f"{apiserver.facade_server.problems} {written}"


@contextlib.asynccontextmanager
async def connect(apiserver: Apiserver, tls: Tls) -> AsyncIterator[EtcdStore]:
    """A client of the facade."""
    store = EtcdStore([f"127.0.0.1:{apiserver.facade_server.port}"], tls, Options(call_timeout_s=3.0))
    try:
        yield store
    finally:
        await store.close()


async def until(holds: Callable[[], bool], *, limit_s: float = 10, why: Callable[[], object] = lambda: "") -> None:
    """Fails with `why` if it does not hold in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit_s
    while not holds():
        assert loop.time() < deadline, f"does not hold after {limit_s} s: {why()}"
        await asyncio.sleep(0.005)


async def eventually(ask: Callable[[], Awaitable[Any]], expected: Any, *, limit_s: float = 10) -> None:
    """The answer becomes what is expected; fails with the last one."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit_s
    while (answer := await ask()) != expected:
        assert loop.time() < deadline, f"after {limit_s} s still {answer!r}, expected {expected!r}"
        await asyncio.sleep(0.005)


async def all_keys(store: EtcdStore, prefix: bytes) -> dict[bytes, bytes]:
    return {entry.key: entry.value async for page in store.list(prefix) for entry in page.entries}
