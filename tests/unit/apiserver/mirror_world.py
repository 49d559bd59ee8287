# SPDX-License-Identifier: Apache-2.0
"""Our store, peers' stores in memory, and a mirror between them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from clustermesh_apiserver.mirror.peers import Mirror
from kvstore.memory import MemoryStore
from kvstore.memoryserver import MemoryServer
from kvstore.options import Options
from kvstore.store import Store
from meshkit.clock import Clock
from meshmodel.keys import MIRROR_LOCK_PREFIX
from meshmodel.names import ClusterId, ClusterName
from meshpeer.reservations import Own
from meshpeer.session import SessionOptions

ABSENT_TURNS = 500
"""Turns of the loop after which everything in memory has happened that is going to."""
QUICK = Options(backoff_minimum_s=0.005, backoff_maximum_s=0.02)
GREEN = {
    b"cilium/cluster-config/green": b'{"id":7,"capabilities":{"syncedCanaries":true,"maxConnectedClusters":255}}',
    b"cilium/.heartbeat": b"now",
    b"cilium/state/nodes/v1/green/n1": b"{node}",
    b"cilium/state/ip/v1/default/10.7.0.1": b"{ip}",
    b"cilium/state/ip/v1/default/fd00::7": b"{ip6}",
    b"cilium/state/ip/v1/default/<nil>": b"not a record at all",
    b"cilium/state/identities/v1/id/458800": b"k8s:a=b;",
    b"cilium/state/services/v1/green/shop/cart": b"{service}",
    b"cilium/state/services/v1/greenish/shop/cart": b"{another cluster}",
    b"cilium/state/identities/v1/value/k8s:a=b;/1.2.3.4": b"458800",
}
CANARIES = {
    b"cilium/synced/green/cilium/state/" + kind + b"/v1": b"2026"
    for kind in (b"nodes", b"ip", b"identities", b"services")
}
CACHED = {
    b"cilium/cluster-config/green": (
        b'{"id":7,"capabilities":{"syncedCanaries":true,"cached":true,"maxConnectedClusters":255}}'
    ),
    b"cilium/cache/nodes/v1/green/n1": b"{node}",
    b"cilium/cache/ip/v1/green/10.7.0.1": b"{ip}",
    b"cilium/cache/ip/v1/green/fd00::7": b"{ip6}",
    b"cilium/cache/ip/v1/green/<nil>": b"not a record at all",
    b"cilium/cache/identities/v1/green/id/458800": b"k8s:a=b;",
    b"cilium/cache/services/v1/green/shop/cart": b"{service}",
}


class World:
    """Our store, peers' stores by endpoint, and the directory that names them."""

    def __init__(self, directory: Path) -> None:
        self.own = MemoryStore()
        self.directory = directory
        self.peers: dict[str, MemoryServer] = {}
        self.connects = 0

    def peer(self, name: str, content: dict[bytes, bytes]) -> MemoryServer:
        store = self.peers[name] = MemoryServer()
        store.commit(dict(content), 0)
        self.write(name, f"endpoints: [{name}]")
        return store

    def write(self, name: str, text: str) -> None:
        (self.directory / f".{name}").write_text(text)
        (self.directory / f".{name}").rename(self.directory / name)

    async def _connect(self, content: bytes) -> Store:
        self.connects += 1
        return MemoryStore(self.peers[content.decode().partition("[")[2].partition("]")[0]], QUICK)

    def cached(self) -> dict[bytes, bytes]:
        entries = self.own.server.entries
        return {
            key: entry.value
            for key, entry in entries.items()
            if not key.startswith((MIRROR_LOCK_PREFIX, b"cilium/synced/"))
        }

    def canaries(self, peer: str = "green") -> set[bytes]:
        prefix = f"cilium/synced/{peer}/".encode()
        return {key.removeprefix(prefix) for key in self.own.server.entries if key.startswith(prefix)}

    @contextlib.asynccontextmanager
    async def running(
        self, session: SessionOptions | None = None, clock: Clock | None = None, **options: float
    ) -> AsyncIterator[Mirror]:
        own = Own(ClusterName("blue"), ClusterId(1))
        mirror = Mirror(self.own, self.directory, own, connect=self._connect, options=session, clock=clock, **options)
        task = asyncio.create_task(mirror.run())
        try:
            yield mirror
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
