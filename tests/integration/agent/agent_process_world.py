# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes API, the stores of two clusters, and the agent process between them."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from clustermesh_cli.manifests import load_crds
from kube.client import KubeClient, in_thread
from kube.config import load_client
from kube.resource import CONFIG_MAPS, ENDPOINT_SLICES, NODES, SERVICES, from_manifest
from kvstore.etcd import EtcdStore
from kvstore.process import EtcdProcess
from lab.devkube.api.accounts import ADMIN
from lab.devkube.api.cluster import Cluster as KubeCluster
from lab.devkube.api.server import ApiServer, ServerOptions
from meshmodel import ip, keys, labels, node
from meshmodel.cluster_config import ClusterConfig
from meshmodel.keys import Kind
from meshmodel.names import ClusterId, ClusterName, ServiceName
from meshmodel.service import ClusterService, RecordPort
from tests.integration.devkube.fake_workloads import FakeRuntime
from tests.integration.kvstore.private_etcd import Pki, running_etcd
from tests.support import record_keys

REPOSITORY = Path(__file__).parents[3]
TOKEN = "agent-test"
ECHO = ServiceName("default", "echo")
LOCAL_IDENTITY, REMOTE_IDENTITY = 1 << 16 | 1, 2 << 16 | 1


class Cluster:
    """What a cluster's apiserver would write into its store."""

    def __init__(self, name: str, number: int, etcd: EtcdProcess, pki: Pki) -> None:
        self.name, self.number, self.etcd, self.pki = ClusterName(name), ClusterId(number), etcd, pki
        self.client: EtcdStore = etcd.connect()

    async def publish(self, node_ip: str, pod: str, host: str) -> None:
        put = self.client.put
        config = ClusterConfig(id=self.number, synced_canaries=True)
        await put(keys.cluster_config_key(self.name), config.encode())
        member = node.MeshNode(
            cluster=self.name,
            cluster_id=self.number,
            name=f"{self.name}-1",
            addresses=(node.NodeAddress("InternalIP", node_ip),),
            ipv4_pod_cidrs=(f"10.{self.number}.0.0/24",),
        )
        await put(record_keys.node_key(self.name, member.name), member.encode())
        found = labels.pod_labels({"app": "echo"}, "default", {}, "default", self.name)
        identity = self.number << 16 | 1
        await put(keys.identity_key(self.name, identity), labels.encode_labels(found))
        record = ip.IpRecord(prefix=f"{pod}/32", identity=identity, host_ip=host, namespace="default", pod="echo-1")  # type: ignore[arg-type]
        await put(record_keys.ip_key(self.name, pod), record.encode())
        for kind in Kind:
            await put(keys.canary_key(self.name, kind), b"now")
        await put(keys.HEARTBEAT, b"now")

    async def service(self, *backends: str) -> None:
        ports = {"": RecordPort("TCP", 9090)}
        record = ClusterService(
            cluster=self.name, cluster_id=self.number, name=ECHO, frontends={}, backends=dict.fromkeys(backends, ports)
        )
        await self.client.put(record_keys.service_key(self.name, ECHO), record.encode())

    def client_file(self, folder: Path) -> bytes:
        """An etcd client configuration for this cluster's store, with an alias as `connect` writes it."""
        issued = self.pki.client(f"admin-{self.pki_name}")
        folder.mkdir(exist_ok=True)
        (folder / "ca.crt").write_bytes(self.pki.north.certificate_pem)
        (folder / "tls.crt").write_bytes(issued.cert_pem)
        (folder / "tls.key").write_bytes(issued.key_pem)
        port = self.etcd.target.rpartition(":")[2]
        return f"""endpoints:
- https://north.mesh.cilium.io:{port}
trusted-ca-file: {folder}/ca.crt
cert-file: {folder}/tls.crt
key-file: {folder}/tls.key
cilium-host-aliases:
- hostname: north.mesh.cilium.io
  ips: [127.0.0.1]
""".encode()

    pki_name = "north"


CHANGED: Final = """
import runpy, sys, time
from meshkit.clock import SystemClock
from meshkit import memory_limit
ahead_s, memory = float(sys.argv.pop(1)), int(sys.argv.pop(1))
SystemClock.wall = lambda clock: time.time() + ahead_s
memory_limit.memory_bytes = lambda: memory
runpy.run_module("agent.app", run_name="__main__", alter_sys=True)
"""
"""The program with a wall clock that is so many seconds ahead, and so much memory; libraries, whose deadlines are
their own affair, keep their clocks."""


class Agent:
    """One agent process, asked on its socket."""

    def __init__(self, folder: Path, arguments: list[str]) -> None:
        self.folder, self.arguments = folder, arguments
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process: asyncio.subprocess.Process | None = None
        self.log = folder / "agent.log"
        self.clock_ahead_s, self.memory_bytes = 0.0, 2 << 30

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", CHANGED, str(self.clock_ahead_s), str(self.memory_bytes), *self.arguments,
                "--port", str(self.port),
                "--socket", str(self.folder / "agent.sock"), "--probe-port", "0",
                stderr=log,
            )  # fmt: skip

    async def stop(self) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(15):
            return await self.process.wait()

    async def get(self, path: str) -> Any:
        """JSON, or text where it is none; None while nothing answers."""
        try:
            reader, writer = await asyncio.open_unix_connection(self.folder / "agent.sock")
        except OSError:
            return None
        writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        async with asyncio.timeout(10):
            raw = await reader.read()
        writer.close()
        head, _, body = raw.partition(b"\r\n\r\n")
        return json.loads(body) if b"application/json" in head else body.decode()

    async def until(self, path: str, condition: Callable[[Any], object], within_s: float = 30.0) -> Any:
        """Ask until the answer is as wanted."""
        deadline = time.monotonic() + within_s
        answer = None
        while time.monotonic() < deadline:
            answer = await self.get(path)
            if answer is not None and condition(answer):
                return answer
            await asyncio.sleep(0.05)
        raise AssertionError(f"{path}: {answer}\n{self.log.read_text()[-3000:]}")

    async def verb(self, *words: str) -> tuple[int, str]:
        """Run the command against this agent."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "agent.app", *words, "--socket", str(self.folder / "agent.sock"),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await process.communicate()
        return process.returncode or 0, out.decode()


class World:
    def __init__(self, kube: KubeClient, own: Cluster, peer: Cluster, agent: Agent, peers: Path) -> None:
        self.kube, self.own, self.peer, self.agent, self.peers = kube, own, peer, agent, peers

    async def service(self, **annotations: str) -> None:
        await in_thread(
            self.kube.apply,
            SERVICES,
            {
                "metadata": {"name": "echo", "namespace": "default", "annotations": annotations},
                "spec": {"ports": [{"port": 80, "targetPort": 8080}], "clusterIP": "172.20.1.77"},
            },
        )

    async def backends(self, *addresses: str) -> None:
        await in_thread(
            self.kube.apply,
            ENDPOINT_SLICES,
            {
                "metadata": {
                    "name": "echo-1",
                    "namespace": "default",
                    "labels": {"kubernetes.io/service-name": "echo"},
                },
                "addressType": "IPv4",
                "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
                "endpoints": [{"addresses": [a], "conditions": {"ready": True}} for a in addresses],
            },
        )

    async def connect(self) -> None:
        content = self.peer.client_file(self.peers.parent / "peer-certs")
        temporary = self.peers / ".south"
        temporary.write_bytes(content)
        temporary.rename(self.peers / "south")

    async def used(self, *expected: str) -> None:
        """The map holds exactly these backends for the service."""
        await self.agent.until(
            "/v1/services/default/echo",
            lambda a: isinstance(a, dict) and a.get("realized") and a["realized"][0]["backends"] == sorted(expected),
        )


@asynccontextmanager
async def serve_kubernetes(folder: Path) -> AsyncIterator[KubeClient]:
    """An empty cluster with the product's CRDs, and a client for it."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = ApiServer(KubeCluster("172.20.1.0/24"), FakeRuntime(), ServerOptions({TOKEN: ADMIN}))
    config = {
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{listener.getsockname()[1]}"}}],
        "users": [{"name": "u", "user": {"token": TOKEN}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(server.serve([listener]))
        client = await in_thread(load_client, str(folder / "kubeconfig"))
        for manifest in load_crds():
            await in_thread(client.apply, from_manifest(manifest), manifest)
        try:
            yield client
        finally:
            server.stop()
            await serving


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        kube = await stack.enter_async_context(serve_kubernetes(folder))
        own_pki, peer_pki = Pki(), Pki()
        own = Cluster("north", 1, await stack.enter_async_context(running_etcd(folder / "e1", own_pki)), own_pki)
        peer = Cluster("south", 2, await stack.enter_async_context(running_etcd(folder / "e2", peer_pki)), peer_pki)
        stack.push_async_callback(own.client.close)
        stack.push_async_callback(peer.client.close)
        await own.publish("127.0.0.9", "10.1.0.5", "127.0.0.1")
        await peer.publish("172.18.0.8", "10.2.0.5", "172.18.0.8")
        await peer.service("10.2.0.5")
        (peers := folder / "peers").mkdir()
        (folder / "own.yaml").write_bytes(own.client_file(folder / "own-certs"))
        settings = {"cluster-name": "north", "cluster-id": "1", "policy-default-local-cluster": "false"}
        config = {"metadata": {"name": "clustermesh-config", "namespace": "kube-system"}, "data": settings}
        await in_thread(kube.apply, CONFIG_MAPS, config)
        await in_thread(
            kube.apply,
            NODES,
            {
                "metadata": {"name": "n1"},
                "spec": {"podCIDRs": ["10.1.7.0/24"]},
                "status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]},
            },
        )
        agent = Agent(
            folder,
            ["--kubeconfig", str(folder / "kubeconfig"), "--node-name", "n1", "--node-ip", "127.0.0.1",
             "--clustermesh-config", str(peers), "--local-etcd-config", str(folder / "own.yaml"),
             "--datapath", "memory"],
        )  # fmt: skip
        await agent.start()
        try:
            yield World(kube, own, peer, agent, peers)
        finally:
            await agent.stop()
