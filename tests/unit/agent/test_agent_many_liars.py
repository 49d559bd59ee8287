# SPDX-License-Identifier: Apache-2.0
"""Several peers that publish without end cost an agent no more memory than one, and leave an honest one its part."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from agent_mesh_kit import Mesh, PeerStore

from agent.mesh.peer_limits import RECORD_BYTES, limits_of
from meshkit.clock import ManualClock
from meshmodel import node
from meshmodel.ip import IpRecord
from meshmodel.names import ServiceName
from meshmodel.service import RecordPort
from meshpeer.session import SessionOptions
from tests.support import record_keys

MEMORY = 2 << 20
LIARS = ("east", "south", "west")
RECORDS, SERVICES, NODES = 700, 8, 3


async def lying(name: str, cluster_id: int, clock: ManualClock) -> PeerStore:
    """Each kind alone would take a peer's part: small addresses, backends of few bytes, and networks."""
    store = PeerStore(name, cluster_id, clock)
    await store.fill()
    network = f"10.{cluster_id}.0.0/16"
    await store.node(ip=f"172.18.{cluster_id}.5", cidr=network)
    identity = cluster_id << 16 | 7
    changes: dict[bytes, bytes | None] = {}
    for number in range(RECORDS):
        address = f"10.{cluster_id}.{number >> 8}.{number & 255}"
        record = IpRecord(prefix=f"{address}/32", identity=identity, host_ip=f"172.18.{cluster_id}.5")  # type: ignore[arg-type]
        changes[record_keys.ip_key(store.name, address)] = record.encode()
    ports = {f"p{n}": RecordPort("TCP", n) for n in range(1, 26)}
    for number in range(SERVICES):
        service = ServiceName("test", f"s{number}")
        backends = {f"10.{cluster_id}.{number}.{n}": ports for n in range(1, 11)}
        changes[record_keys.service_key(store.name, service)] = store.service_bytes(name=service, backends=backends)
    for number in range(NODES):
        cidrs = tuple(f"10.{cluster_id}.{n}.{16 * number}/28" for n in range(60))
        addresses = (node.NodeAddress("InternalIP", f"172.18.{cluster_id}.{10 + number}"),)
        made = node.MeshNode(
            cluster=store.name,
            cluster_id=store.cluster_id,
            name=f"n{number}",
            addresses=addresses,
            ipv4_pod_cidrs=cidrs,
        )
        changes[record_keys.node_key(store.name, made.name)] = made.encode()
    store.store.commit(changes, 0)
    return store


def mesh_of(directory: Path, clock: ManualClock) -> Mesh:
    limits = limits_of(MEMORY)
    options = SessionOptions(caps=limits.caps, total_bytes=limits.total_bytes)
    return Mesh(directory, clock, options, rooms=limits.rooms)


def truncated(mesh: Mesh, name: str) -> dict[str, str]:
    return {what: dropped.limit for what, dropped in mesh.state(name).truncated.items()}


@pytest.mark.timeout(100)
async def test_several_lying_peers_take_what_all_may_have_and_an_honest_one_has_its_part(tmp_path: Path) -> None:
    clock = ManualClock()
    mesh = mesh_of(tmp_path, clock)
    stores = [await lying(name, number, clock) for number, name in enumerate(LIARS, 2)]
    honest = PeerStore("honest", 9, clock)
    await honest.config()
    await honest.node(ip="172.18.9.5", cidr="10.9.0.0/24")
    await honest.identity(9 << 16 | 7)
    for number in range(1, 101):
        await honest.ip(f"10.9.0.{number}", 9 << 16 | 7, "172.18.9.5")
    await honest.service("10.9.0.9")
    await honest.canaries()
    await honest.beat()
    async with mesh.running():
        tracemalloc.start()
        for store in stores:
            mesh.add(store)
        await mesh.until(lambda: all(mesh.state(name).is_ready for name in LIARS), 30)
        taken = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        mesh.add(honest)
        await mesh.until(lambda: mesh.state("honest").is_ready, 30)
        known = Counter(row.cluster for row in mesh.db.prefixes.rows())
        assert taken < MEMORY
        assert sum(known[store.name] for store in stores) < MEMORY // 2 // RECORD_BYTES
        assert known[honest.name] > 100
        assert "10.9.0.9" in mesh.backends()
        assert truncated(mesh, "honest") == {}
        said = {limit.partition(" ")[2] for name in LIARS for limit in truncated(mesh, name).values()}
        assert {"bytes of all peers", "backends of all peers", "networks of all peers"} <= said, said
        assert all(truncated(mesh, name) for name in LIARS)
