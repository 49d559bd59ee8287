# SPDX-License-Identifier: Apache-2.0
"""Backends and networks of a peer are so many together, however few bytes mean them; what finds no room is named meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent_mesh_kit import ECHO, Mesh, PeerStore

from agent.mesh import record_room
from meshkit.clock import ManualClock
from meshmodel.names import ClusterName, ServiceName
from meshpeer.status import remote_cluster
from tests.support import record_keys

SOUTH = ClusterName("south")
LARGE = ServiceName("test", "large")


def addresses(count: int) -> list[str]:
    return [f"10.2.0.{n}" for n in range(1, count + 1)]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_room, "MAXIMUM_BACKENDS", 10)
    monkeypatch.setattr(record_room, "MAXIMUM_NETWORKS", 5)


def known(mesh: Mesh, name: ServiceName = ECHO) -> int:
    row = mesh.db.backends.get((name, SOUTH))
    return len(row.backends) if row is not None else 0


async def test_services_beyond_the_room_are_named_and_come_in_when_others_go(
    tmp_path: Path, clock: ManualClock
) -> None:
    mesh = Mesh(tmp_path, clock)
    south = PeerStore("south", 2, clock)
    await south.fill()
    await south.service(*addresses(6))
    async with mesh.running():
        mesh.add(south)
        await mesh.until(lambda: known(mesh) == 6)
        await south.service(*addresses(5), name=LARGE)
        await mesh.until(lambda: bool(mesh.state().truncated))
        dropped = mesh.state().truncated["backends"]
        assert (dropped.total, dropped.first, dropped.limit) == (1, ["services/test/large"], "10 backends")
        (said,) = remote_cluster(mesh.state(), clock.monotonic()).warnings
        assert "publishes more than is taken: backends" in said
        assert mesh.runner.rejections.counts(SOUTH) == {"too-many-backends": 1}
        assert (known(mesh), known(mesh, LARGE)) == (6, 0)
        await south.service(*addresses(10))  # what is there may become what there is room for, and no more
        await mesh.until(lambda: known(mesh) == 10)
        await south.service(*addresses(4))
        await mesh.until(lambda: known(mesh, LARGE) == 5, 70)
        assert known(mesh) == 4
        assert not mesh.state().truncated
        mesh.remove("south")
        await mesh.until(lambda: known(mesh, LARGE) == 0)
        assert len(mesh.db.backends) == 0


async def test_slices_and_services_that_grow_count_until_they_go(tmp_path: Path, clock: ManualClock) -> None:
    mesh = Mesh(tmp_path, clock)
    south = PeerStore("south", 2, clock)
    await south.fill()
    await south.config(endpoint_slices_export_mode="endpointslices-only")
    await south.slice(*addresses(6))
    async with mesh.running():
        mesh.add(south)
        await mesh.until(lambda: known(mesh) == 6)
        ingest = mesh.runner.members[SOUTH].consumer
        await south.slice("10.2.0.101", "10.2.0.102", name="echo-2")
        await mesh.until(lambda: known(mesh) == 8)
        assert ingest.rooms[0].count == 8
        await south.slice(*addresses(9))  # grew beyond the room: what was known of it is not true any more
        await mesh.until(lambda: known(mesh) == 2)
        assert ingest.rooms[0].count == 2
        await mesh.pass_s(130)
        assert mesh.runner.rejections.counts(SOUTH) == {"too-many-backends": 1}, "not asked for again in vain"
        await south.slice(*addresses(3))
        await mesh.until(lambda: known(mesh) == 5)
        await south.delete(record_keys.endpointslice_key("south", "test", "echo-1"))
        await mesh.until(lambda: known(mesh) == 2)
        assert ingest.rooms[0].count == 2


async def test_a_node_whose_networks_find_no_room_is_named_and_comes_when_others_go(
    tmp_path: Path, clock: ManualClock
) -> None:
    """A record of a hundred kilobytes has four thousand."""

    def networks(node: int, count: int) -> tuple[str, ...]:
        return tuple(f"10.2.{node * 8 + n}.0/24" for n in range(count))

    mesh = Mesh(tmp_path, clock)
    south = PeerStore("south", 2, clock)
    await south.fill()  # its node has one
    await south.node("s2", "172.18.0.6", ipv4_pod_cidrs=networks(1, 3))
    async with mesh.running():
        mesh.add(south)
        await mesh.until(lambda: mesh.state().is_ready)
        await south.node("s3", "172.18.0.7", ipv4_pod_cidrs=networks(2, 2))
        await mesh.until(lambda: bool(mesh.state().truncated))
        assert mesh.state().truncated["networks"].first == ["nodes/s3"]
        assert mesh.runner.rejections.counts(SOUTH) == {"too-many-networks": 1}
        assert mesh.db.nodes.get((SOUTH, "s3")) is None
        assert mesh.db.prefixes.get("10.2.16.0/24") is None
        assert mesh.db.prefixes.get("10.2.10.0/24") is not None
        await south.delete(record_keys.node_key("south", "s2"))
        await mesh.until(lambda: mesh.db.prefixes.get("10.2.17.0/24") is not None, 70)
        assert not mesh.state().truncated
