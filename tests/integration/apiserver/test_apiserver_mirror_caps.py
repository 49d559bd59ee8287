# SPDX-License-Identifier: Apache-2.0
"""A peer that floods, mirrored between two real etcds: our own store keeps its room, and our own records their way in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from clustermesh_apiserver.mirror.peers import Mirror, capped_by
from kvstore.etcd import EtcdStore
from meshmodel import keys
from meshmodel.cluster_config import ClusterConfig
from meshmodel.keys import Kind
from meshmodel.names import ClusterId, ClusterName
from meshpeer.reservations import Own
from tests.integration.apiserver.apiserver_world import until
from tests.integration.kvstore.private_etcd import Pki, needs_etcd, running_etcd
from tests.support import record_keys

pytestmark = needs_etcd
QUOTA = 4 << 20  # of which one peer may use a quarter, as records are counted
VALUE = b"x" * 16_384


@pytest_asyncio.fixture
async def stores(tmp_path: Path) -> AsyncIterator[tuple[EtcdStore, EtcdStore]]:
    """Ours and the peer's."""
    for name in ("ours", "peer"):
        (tmp_path / name).mkdir()
    async with running_etcd(tmp_path / "ours", Pki()) as ours, running_etcd(tmp_path / "peer", Pki()) as theirs:
        own, peer = ours.connect(), theirs.connect()
        try:
            yield own, peer
        finally:
            await asyncio.gather(own.close(), peer.close())


@pytest.mark.runbook("peer-too-large")
async def test_a_flooding_peer_uses_its_share_of_our_store_and_no_more(
    stores: tuple[EtcdStore, EtcdStore], tmp_path: Path
) -> None:
    own, peer = stores
    config = ClusterConfig(id=ClusterId(7))
    await peer.put(keys.cluster_config_key("green"), config.encode())
    await peer.put(keys.HEARTBEAT, b"now")
    await peer.put(record_keys.node_key("green", "n1"), b"{node}")
    for start in range(0, 400, 40):
        await peer.apply(
            {record_keys.ip_key("green", f"10.7.{n >> 8}.{n & 255}"): VALUE for n in range(start, start + 40)}
        )
    directory = tmp_path / "mirror"
    directory.mkdir()
    (directory / "green").write_text("endpoints: [green]")

    async def connect(_content: bytes) -> EtcdStore:
        return await asyncio.to_thread(lambda: peer)

    mirror = Mirror(own, directory, Own(ClusterName("blue"), ClusterId(1)), connect=connect, options=capped_by(QUOTA))
    task = asyncio.create_task(mirror.run())
    try:
        await until(lambda: bool(mirror.statuses()) and mirror.statuses()[0].ready, why=mirror.statuses)
        (status,) = mirror.statuses()
        assert status.num_nodes == 1
        assert 50 <= status.num_endpoints <= 64
        truncated = status.truncated["ip"]
        assert truncated.total == 400 - status.num_endpoints
        assert truncated.limit == f"{QUOTA // 4} bytes"
        assert any("publishes more than is taken: ip" in warning for warning in status.warnings)
        copied = [
            entry async for page in own.list(keys.prefix_of(Kind.IPS, "green", cached=True)) for entry in page.entries
        ]
        assert len(copied) == status.num_endpoints
        assert sum(len(entry.value) for entry in copied) <= QUOTA // 4
        await own.put(b"cilium/state/nodes/v1/blue/ours", b"{ours}")
        assert await own.get(b"cilium/state/nodes/v1/blue/ours") is not None
    finally:
        task.cancel()
        await asyncio.wait([task])
