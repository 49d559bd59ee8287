# SPDX-License-Identifier: Apache-2.0
"""A peer's store in memory, an agent's mesh part reading it, and a clock that only the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agent.identity.writer import IdentityWriter
from agent.ipcache.writer import PrefixWriter
from agent.loadbalancer.writer import LoadBalancerWriter
from agent.mesh.ingest import Writers
from agent.mesh.runner import MeshRunner
from agent.nodes.writer import NodeWriter
from agent.tables import Address, AgentDB, Node, NodeAddress, Service, ServicePort
from kvstore.store import Store
from meshkit.clock import ManualClock
from meshkit.wake import Wake
from meshmodel.names import ClusterId, ClusterName
from meshpeer.followed import FollowedCluster
from meshpeer.session import SessionOptions
from tests.unit.meshpeer.peer_store import ECHO, PeerStore

__all__ = ["ECHO", "FILE", "Mesh", "PeerStore"]
FILE = b"endpoints:\n- http://%s:2379\n"


class Mesh:
    """The agent's mesh part, reading the stores by their names."""

    def __init__(
        self, directory: Path, clock: ManualClock, session: SessionOptions | None = None, **options: Any
    ) -> None:
        self.directory, self.clock, self.changed = directory, clock, Wake()
        self.db = AgentDB(ClusterName("north"), ClusterId(1), "n1", "172.18.0.2")
        self.lb = LoadBalancerWriter(self.db)
        writers = Writers(self.lb, PrefixWriter(self.db), IdentityWriter(self.db), NodeWriter(self.db))
        self.stores: dict[str, PeerStore] = {}
        self.attempts = 0
        self.runner = MeshRunner(
            self.db,
            writers,
            self._connect,
            clock,
            directory=directory,
            options=session,
            **options,
        )
        own = Node(self.db.own, self.db.own_id, "n1", (NodeAddress("InternalIP", "172.18.0.2"),), ())
        self.runner.know_own_node(own)  # as the program does before it reads any store
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
        return self.stores[name].client

    def state(self, name: str = "south") -> FollowedCluster:
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
