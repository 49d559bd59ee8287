# SPDX-License-Identifier: Apache-2.0
"""A peer's store in memory, an agent's mesh part reading it, and a clock that only the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from agent.identity.writer import IdentityWriter
from agent.ipcache.writer import PrefixWriter
from agent.loadbalancer.writer import LoadBalancerWriter
from agent.mesh.ingest import Writers
from agent.mesh.runner import MeshRunner
from agent.mesh.session import SessionOptions
from agent.mesh.state import SessionRecord
from agent.nodes.writer import NodeWriter
from agent.tables import Address, AgentDB, Service, ServicePort
from kvstore.memory import MemoryStore
from kvstore.memoryserver import MemoryServer
from kvstore.store import Store
from meshkit.clock import ManualClock
from meshkit.wake import Wake
from meshmodel import keys, labels, node
from meshmodel.cluster_config import ClusterConfig
from meshmodel.ip import IpRecord
from meshmodel.keys import Kind
from meshmodel.names import ClusterId, ClusterName, ServiceName
from meshmodel.service import ClusterService, PortSpec

ECHO = ServiceName("test", "echo")
FILE = b"endpoints:\n- http://%s:2379\n"


class PeerStore:
    """What one cluster publishes; every write goes through a real backend call."""

    def __init__(self, name: str, cluster_id: int, clock: ManualClock) -> None:
        self.name, self.cluster_id, self.clock = ClusterName(name), ClusterId(cluster_id), clock
        self.store = MemoryServer(clock)

    @property
    def backend(self) -> MemoryStore:
        return MemoryStore(self.store)

    async def put(self, key: bytes, value: bytes) -> None:
        await self.backend.put(key, value)

    async def delete(self, key: bytes) -> None:
        await self.backend.apply({key: None})

    async def beat(self) -> None:
        await self.put(keys.HEARTBEAT, str(self.clock.wall()).encode())

    async def config(self, **fields: object) -> None:
        found = ClusterConfig(**{"id": self.cluster_id, "synced_canaries": True, **fields})  # type: ignore[arg-type]
        await self.put(keys.cluster_config_key(self.name), found.encode())

    async def canaries(self, *kinds: Kind, cached: bool = False) -> None:
        for kind in kinds or tuple(Kind):
            await self.put(keys.canary_key(self.name, kind, cached=cached), b"now")

    async def node(self, name: str = "s1", ip: str = "172.18.0.5", cidr: str = "10.2.0.0/24") -> None:
        record = node.MeshNode(
            cluster=self.name,
            cluster_id=self.cluster_id,
            name=name,
            addresses=(node.NodeAddress("InternalIP", ip),),
            ipv4_pod_cidrs=(cidr,),
        )
        await self.put(keys.node_key(self.name, name), record.encode())

    async def service(self, *backends: str, name: ServiceName = ECHO, cached: bool = False) -> None:
        await self.put(keys.service_key(self.name, name, cached=cached), self.service_bytes(*backends, name=name))

    def service_bytes(self, *backends: str, name: ServiceName = ECHO, **fields: object) -> bytes:
        ports = {"": PortSpec("TCP", 9090)}
        record = {
            "cluster": self.name,
            "cluster_id": self.cluster_id,
            "name": name,
            "frontends": {"172.20.2.9": {"": PortSpec("TCP", 80)}},
            "backends": dict.fromkeys(backends, ports),
            **fields,
        }
        return ClusterService(**record).encode()  # type: ignore[arg-type]

    async def identity(self, number: int, app: str = "echo") -> None:
        found = labels.pod_labels({"app": app}, "test", {}, "default", self.name)
        await self.put(keys.identity_key(self.name, number), labels.encode_labels(found))

    async def ip(self, address: str, identity: int, host: str = "172.18.0.5") -> None:
        record = IpRecord(prefix=f"{address}/32", identity=identity, host_ip=host, namespace="test", pod="echo-1")  # type: ignore[arg-type]
        await self.put(keys.ip_key(self.name, address), record.encode())

    async def fill(self) -> None:
        """A small, complete cluster."""
        await self.config()
        await self.node()
        await self.identity(self.cluster_id << 16 | 7)
        await self.ip("10.2.0.9", self.cluster_id << 16 | 7)
        await self.service("10.2.0.9")
        await self.canaries()
        await self.beat()


class Mesh:
    """The agent's mesh part, reading the stores by their names."""

    def __init__(self, directory: Path, clock: ManualClock, **options: float) -> None:
        self.directory, self.clock, self.changed = directory, clock, Wake()
        self.db = AgentDB(ClusterName("north"), ClusterId(1), "n1", "172.18.0.2")
        self.lb = LoadBalancerWriter(self.db)
        writers = Writers(self.lb, PrefixWriter(self.db), IdentityWriter(self.db), NodeWriter(self.db))
        self.stores: dict[str, PeerStore] = {}
        self.maximum = 255
        self.attempts = 0
        self.runner = MeshRunner(
            self.db,
            writers,
            self._connect,
            clock,
            directory=directory,
            options=SessionOptions(config_wait_s=options.pop("config_wait_s", 180.0)),
            **options,
        )
        row = Service(ECHO, (Address("172.20.1.9"),), (ServicePort("", 80, "TCP"),), is_global=True)
        with self.db.write():
            self.lb.set_service(row)

    def add(self, store: PeerStore, file: str = "") -> None:
        """The peer's file appears in the directory."""
        self.stores[store.name] = store
        (self.directory / (file or store.name)).write_bytes(FILE % store.name.encode())
        self.changed.set()

    def remove(self, name: str) -> None:
        (self.directory / name).unlink()
        self.changed.set()

    async def _connect(self, content: bytes) -> Store:
        self.attempts += 1
        name = content.partition(b"http://")[2].partition(b":")[0].decode()
        return self.stores[name].backend

    def state(self, name: str = "south") -> SessionRecord:
        return self.runner.members[ClusterName(name)].state

    def backends(self) -> list[str]:
        """Addresses the kernel would be told for the service."""
        return sorted(t.address for row in self.db.frontends.rows() for t in row.chosen)

    async def until(self, condition: Callable[[], bool], within_s: float = 5.0) -> None:
        """Move the clock in small steps until it holds; every task gets many turns between two steps."""
        moved = 0.0
        await self.turns()
        while not condition():
            assert moved < within_s, f"did not happen within {within_s} s of agent time"
            await self.turns()
            self.clock.advance(0.05)
            moved += 0.05

    async def pass_s(self, seconds: float, step_s: float = 0.5) -> None:
        """Let agent time pass, with turns for everybody at every step."""
        moved = 0.0
        while moved < seconds:
            self.clock.advance(step_s)
            moved += step_s
            await self.turns()

    async def turns(self, count: int = 40) -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    async def _changes(self) -> AsyncIterator[None]:
        seen = self.changed.count
        yield
        while True:
            await self.changed.wait(seen)
            seen = self.changed.count
            yield

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.runner.run(self._changes()))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled() and task.exception() is not None:
                raise task.exception()  # type: ignore[misc]
