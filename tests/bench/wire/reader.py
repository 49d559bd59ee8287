# SPDX-License-Identifier: Apache-2.0
"""Readers: the agent's own session into its tables, and the watch store with the record decoders."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from agent.app import GC_THRESHOLD
from agent.identity.writer import IdentityWriter
from agent.ipcache.writer import PrefixWriter
from agent.loadbalancer.writer import LoadBalancerWriter
from agent.mesh.ingest import Writers
from agent.mesh.runner import MeshRunner
from agent.nodes.writer import NodeWriter
from agent.tables import AgentDB
from meshkit.clock import SystemClock
from meshmodel import keys, service
from meshmodel.keys import Kind
from meshmodel.names import ClusterId, ClusterName
from meshmodel.service import ClusterService
from meshpeer.connection import StoreConnector
from tests.bench.wire.child import Talk
from tests.bench.wire.meter import Meter, until
from tests.bench.wire.records import CLUSTER, CLUSTER_ID
from tests.bench.wire.store import PEER, connect
from tests.support.watchstore import WatchStore


class _Services:
    """The decoder as a codec."""

    def decode(self, key: bytes, value: bytes) -> ClusterService:
        return service.decode(key.decode(), value, cluster=CLUSTER, cluster_id=CLUSTER_ID)


class _Nobody:
    """Wants to know nothing."""

    def upsert(self, key: bytes, value: ClusterService) -> None:
        """Not interested."""

    def delete(self, key: bytes, value: ClusterService) -> None:
        """Not interested."""


async def services(talk: Talk, connection: str, etcd: int) -> dict[str, Any]:
    """Every service decoded, judged and kept, as Cilium's own reader was measured."""
    _collect_as_agent()
    client = connect(connection)
    await client.get(keys.HEARTBEAT)
    store = WatchStore(_Services(), _Nobody())
    meter = Meter(etcd=etcd)
    canary = keys.canary_key(CLUSTER, Kind.SERVICES)
    task = asyncio.create_task(store.run(client, keys.services_prefix(CLUSTER), canary=canary))
    await asyncio.wait([task, asyncio.create_task(store.synced.wait())], return_when=asyncio.FIRST_COMPLETED)
    figures = meter.read(len(store.entries))
    task.cancel()
    await asyncio.wait([task])
    await client.close()
    return {**figures, "rejected": sum(store.rejected.values())}


async def agent(talk: Talk, directory: str, etcd: int, **others: int) -> dict[str, Any]:
    """The mesh part of an agent reads the peer in this configuration directory until everything is in its tables."""
    _collect_as_agent()
    folder = Path(directory)
    db = AgentDB(ClusterName(PEER), ClusterId(1), "n1", "172.17.0.2")
    writers = Writers(LoadBalancerWriter(db), PrefixWriter(db), IdentityWriter(db), NodeWriter(db))
    runner = MeshRunner(db, writers, StoreConnector(folder), SystemClock(), directory=folder)
    meter = Meter(etcd=etcd, **others)
    task = asyncio.create_task(runner.run(_once()))
    await until(lambda: task.done() or any(state.is_ready for state in runner.states()))
    (state,) = runner.states()
    figures = meter.read(sum(state.counts.values()))
    rows = {"backends": len(db.backends), "prefixes": len(db.prefixes), "identities": len(db.identities)}
    rejected = sum(runner.rejections.totals().values())
    task.cancel()
    await asyncio.wait([task])
    return {**figures, "rows": rows, "rejected": rejected}


def _collect_as_agent() -> None:
    """Garbage is collected as in the program."""
    gc.set_threshold(GC_THRESHOLD, 20, 1_000_000)
    gc.freeze()


async def _once() -> AsyncIterator[None]:
    """The directory does not change."""
    yield
    await asyncio.Event().wait()
