# SPDX-License-Identifier: Apache-2.0
"""What one cluster publishes, in a store in memory that runs the real list-and-watch loop."""

from __future__ import annotations

from kvstore.memory import MemoryStore
from kvstore.memoryserver import MemoryServer
from meshkit.clock import ManualClock
from meshmodel import keys, labels, node
from meshmodel.cluster_config import ClusterConfig
from meshmodel.endpointslice import ClusterEndpointSlice, SliceEndpoint, SlicePort
from meshmodel.ip import IpRecord
from meshmodel.keys import Kind
from meshmodel.names import ClusterId, ClusterName, ServiceName
from meshmodel.service import ClusterService, RecordPort
from tests.support import record_keys

ECHO = ServiceName("test", "echo")


class PeerStore:
    """What one cluster publishes; every write goes through a real call of the client."""

    def __init__(self, name: str, cluster_id: int, clock: ManualClock) -> None:
        self.name, self.cluster_id, self.clock = ClusterName(name), ClusterId(cluster_id), clock
        self.store = MemoryServer(clock)

    @property
    def client(self) -> MemoryStore:
        return MemoryStore(self.store)

    async def put(self, key: bytes, value: bytes) -> None:
        await self.client.put(key, value)

    async def delete(self, key: bytes) -> None:
        await self.client.apply({key: None})

    async def beat(self) -> None:
        await self.put(keys.HEARTBEAT, str(self.clock.wall()).encode())

    async def config(self, **fields: object) -> None:
        found = ClusterConfig(**{"id": self.cluster_id, "synced_canaries": True, **fields})  # type: ignore[arg-type]
        await self.put(keys.cluster_config_key(self.name), found.encode())

    async def canaries(self, *kinds: Kind, cached: bool = False) -> None:
        for kind in kinds or tuple(Kind):
            await self.put(keys.canary_key(self.name, kind, cached=cached), b"now")

    async def node(
        self,
        name: str = "s1",
        ip: str = "172.18.0.5",
        cidr: str = "10.2.0.0/24",
        *,
        cached: bool = False,
        **more: object,
    ) -> None:
        fields = {"addresses": (node.NodeAddress("InternalIP", ip),), "ipv4_pod_cidrs": (cidr,), **more}
        record = node.MeshNode(cluster=self.name, cluster_id=self.cluster_id, name=name, **fields)  # type: ignore[arg-type]
        await self.put(record_keys.node_key(self.name, name, cached=cached), record.encode())

    async def service(self, *backends: str, name: ServiceName = ECHO, cached: bool = False) -> None:
        await self.put(
            record_keys.service_key(self.name, name, cached=cached), self.service_bytes(*backends, name=name)
        )

    def service_bytes(self, *backends: str, name: ServiceName = ECHO, **fields: object) -> bytes:
        ports = {"": RecordPort("TCP", 9090)}
        record = {
            "cluster": self.name,
            "cluster_id": self.cluster_id,
            "name": name,
            "frontends": {"172.20.2.9": {"": RecordPort("TCP", 80)}},
            "backends": dict.fromkeys(backends, ports),
            **fields,
        }
        return ClusterService(**record).encode()  # type: ignore[arg-type]

    async def identity(self, number: int, app: str = "echo") -> None:
        found = labels.pod_labels({"app": app}, "test", {}, "default", self.name)
        await self.put(keys.identity_key(self.name, number), labels.encode_labels(found))

    async def ip(self, address: str, identity: int, host: str = "172.18.0.5") -> None:
        record = IpRecord(prefix=f"{address}/32", identity=identity, host_ip=host, namespace="test", pod="echo-1")  # type: ignore[arg-type]
        await self.put(record_keys.ip_key(self.name, address), record.encode())

    async def fill(self) -> None:
        """A small, complete cluster."""
        await self.config()
        await self.node()
        await self.identity(self.cluster_id << 16 | 7)
        await self.ip("10.2.0.9", self.cluster_id << 16 | 7)
        await self.service("10.2.0.9")
        await self.canaries()
        await self.beat()

    async def slice(self, *addresses: str, name: str = "echo-1", cached: bool = False) -> None:
        """One slice of the service test/echo."""
        record = ClusterEndpointSlice(
            cluster=self.name,
            cluster_id=self.cluster_id,
            namespace="test",
            name=name,
            labels={"kubernetes.io/service-name": "echo"},
            endpoints=tuple(SliceEndpoint(addresses=(address,), ready=True) for address in addresses),
            ports=(SlicePort(port=9090),),
        )
        await self.put(record_keys.endpointslice_key(self.name, "test", name, cached=cached), record.encode())
