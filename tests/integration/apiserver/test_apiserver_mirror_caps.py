# SPDX-License-Identifier: Apache-2.0
"""A peer that floods, mirrored between two real etcds: our own store keeps its room, and our own records their way in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from clustermesh_apiserver.mirror.peers import Mirror, capped_by
from kvstore.etcd import EtcdStore
from meshapi.peer import RemoteCluster
from meshmodel import keys
from meshmodel.cluster_config import ClusterConfig
from meshmodel.keys import Kind
from meshmodel.names import ClusterId, ClusterName
from meshpeer.caps import Caps
from meshpeer.reservations import Own
from meshpeer.session import SessionOptions
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


FROZEN: Final = {  # a burst and then nothing: what is late stays late for as long as the test looks
    "changes": (Caps(changes_burst=100, changes_per_s=0.001), "0.001 changes a second"),
    "bytes": (Caps(size_bytes=200_000, bytes_per_s=1), "1 bytes a second"),
}


@asynccontextmanager
async def mirrored(
    own: EtcdStore, peers: dict[str, EtcdStore], folder: Path, options: SessionOptions
) -> AsyncIterator[Mirror]:
    """Every peer publishes its configuration and one node, and is ready."""
    for number, (name, store) in enumerate(peers.items(), 2):
        await store.put(keys.cluster_config_key(name), ClusterConfig(id=ClusterId(number)).encode())
        await store.put(keys.HEARTBEAT, b"now")
        await store.put(record_keys.node_key(name, "n1"), b"{node}")
        (folder / name).write_text(f"endpoints: [{name}]")

    async def connect(content: bytes) -> EtcdStore:
        return await asyncio.to_thread(lambda: peers[content.decode().partition("[")[2].rstrip("]")])

    mirror = Mirror(own, folder, Own(ClusterName("blue"), ClusterId(1)), connect=connect, options=options)
    task = asyncio.create_task(mirror.run())
    try:
        await until(
            lambda: bool(mirror.statuses()) and sum(row.ready for row in mirror.statuses()) == len(peers),
            why=mirror.statuses,
        )
        yield mirror
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.runbook("peer-too-large")
async def test_a_flooding_peer_uses_its_share_of_our_store_and_no_more(
    stores: tuple[EtcdStore, EtcdStore], tmp_path: Path
) -> None:
    own, peer = stores
    files = tmp_path / "files"
    files.mkdir()
    for start in range(0, 400, 40):
        await peer.apply(
            {record_keys.ip_key("green", f"10.7.{n >> 8}.{n & 255}"): VALUE for n in range(start, start + 40)}
        )
    async with mirrored(own, {"green": peer}, files, capped_by(QUOTA)) as mirror:
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


@pytest.mark.parametrize(("caps", "rate"), FROZEN.values(), ids=FROZEN)
async def test_a_peer_that_changes_too_fast_is_slowed_and_named_and_the_others_are_copied_as_before(
    stores: tuple[EtcdStore, EtcdStore], tmp_path: Path, caps: Caps, rate: str
) -> None:
    """One key, always within its cap on records and bytes, is written 500 times; another peer and we go on."""
    own, green = stores
    files = tmp_path / "files"
    files.mkdir()
    (tmp_path / "amber").mkdir()
    async with running_etcd(tmp_path / "amber", Pki()) as process:
        amber = process.connect()
        peers = {"green": green, "amber": amber}
        async with mirrored(own, peers, files, SessionOptions(caps=caps)) as mirror:

            def seen(peer: str) -> RemoteCluster:
                return next(row for row in mirror.statuses() if row.name == peer)

            flooded = record_keys.ip_key("green", "10.7.0.1")
            for number in range(500):
                await green.put(flooded, b"%04d" % number * 500)
            await until(lambda: bool(seen("green").warnings), why=mirror.statuses)
            assert seen("green").warnings == [f"publishes faster than is taken: ip, followed at {rate}"]
            await amber.put(record_keys.ip_key("amber", "10.8.0.1"), b"{amber}")
            await until(lambda: seen("amber").num_endpoints == 1, why=mirror.statuses)
            await until(lambda: seen("amber").ready, why=mirror.statuses)
            await own.put(b"cilium/state/nodes/v1/blue/ours", b"{ours}")
            slowed = await own.get(keys.prefix_of(Kind.IPS, "green", cached=True) + b"10.7.0.1")
            assert slowed is not None
            assert int(slowed.value[:4]) < 499
            assert seen("amber").warnings == []
        await amber.close()
